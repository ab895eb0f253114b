"""LightningCLI for the verbs that train and score."""

import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from jsonargparse.typing import register_type
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import SIGTERMException

from bloodcell.cli.arguments import MAX_EPOCHS
from bloodcell.cli.configs import Request, read_config, without_repeated
from bloodcell.cli.lightning_errors import constructor_errors, lightning_errors
from bloodcell.cli.settings import SEED, RunOptions, settings
from bloodcell.data.datamodule import BloodCells
from bloodcell.datasets.drawn import DRAWN, is_drawn
from bloodcell.errors import InputError, reason, require
from bloodcell.model.checkpoint import data_state, network_state, refusing
from bloodcell.model.find import IMAGENET, NONE, find_teachers
from bloodcell.model.pretrained import reach_hub, read_trained_on
from bloodcell.text import near
from bloodcell.train import resume, runs
from bloodcell.train.batch_size import settle
from bloodcell.train.benchmark import BENCHMARKED, BenchmarkTrainer, check_benchmark
from bloodcell.train.failures import explain, keep_traceback
from bloodcell.train.finish import finish_fit, print_scores
from bloodcell.train.signals import StopGently
from bloodcell.train.task import Classifier
from bloodcell.train.teachers import load_teachers
from bloodcell.train.trainer import Keeping, callbacks, check, complete

# for config.yaml, which must store the default of StochasticWeightAveraging's `device`
register_type(torch.device)
_PARTS = {"validate": "val", "test": "test"}  # the part of the data that a verb scores


class BloodcellCLI(LightningCLI):
    """LightningCLI for `Classifier` and `BloodCells` and one verb, without subcommands.

    It builds Trainer, model and data module from the settings; `execute` runs the verb.

    Args:
        request: the command line.

    Attributes:
        resumed: the run folder that `fit` continues; None for a new run.
        path: the checkpoint that is continued or scored; None if there is none.
        checkpoint: its content.
        stop: the callback that ends a run after its current step when a signal arrives.
    """

    def __init__(self, request: Request) -> None:
        self.request, self.verb = request, request.verb
        self.resumed: Path | None = None
        self.path: Path | None = None
        self.checkpoint: dict[str, Any] | None = None
        self.stop = StopGently()
        super().__init__(
            Classifier,
            BloodCells,
            trainer_class=BenchmarkTrainer if self.verb == "benchmark" else Trainer,
            save_config_callback=runs.SaveConfig,
            parser_kwargs={
                "prog": f"bloodcell {self.verb}",
                "allow_abbrev": False,
                "exit_on_error": False,
            },
            trainer_defaults={
                "max_epochs": MAX_EPOCHS,
                "use_distributed_sampler": False,  # the data module's samplers know the devices
                "enable_model_summary": False,  # `Classifier.summary` prints one line instead
            },
            seed_everything_default=SEED,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=request.words,
            run=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the options of the verb, and links the settings that data and model share."""
        parser.add_class_arguments(RunOptions)
        parser.add_argument("--ckpt_path", type=str | None, help="A run folder or a .ckpt file.")
        if self.verb == "benchmark":
            skip: set[str | int] = {"model", "datamodule"}
            parser.add_method_arguments(BenchmarkTrainer, "benchmark", skip=skip)
            parser.set_defaults({"model.weights": NONE})  # as fast as others, without a download
        for group in ("data", "model"):
            parser.link_arguments("seed_everything", f"{group}.seed", compute_fn=_whole_number)
        parser.link_arguments("data.image_size", "model.image_size")
        parser.link_arguments("data.class_names", "model.class_names", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses the arguments; the settings in a checkpoint are the defaults."""
        given, words = self.request.ckpt_path, list(args)
        if self.verb in _PARTS and (given or not self.request.shows):
            self.path, self.checkpoint = runs.read_best(self.verb, given)
            with refusing(runs.CKPT_PATH, self.path):
                parser.set_defaults(runs.settings(self.checkpoint))
        elif self.verb == "fit" and (given or self.request.resume):
            words = self._find_run(parser, words)
        self.config = parser.parse_args([*words, *self.request.shows])
        self.config.ckpt_path = None  # not a setting of the run: see `path`
        if self.path and self.checkpoint:
            if self.verb == "fit":
                self._check_unfinished(self.path, self.checkpoint)
                self.config.model.teachers = find_teachers(self.config.model.teachers)
                resume.check_same_monitor(self.path, self.config.monitor)
            runs.check_same(self.checkpoint, self.config.as_dict(), also_data=self.verb == "fit")

    def _find_run(self, parser: LightningArgumentParser, words: list[str]) -> list[str]:
        """Finds the run to continue; returns the words that repeat its settings."""
        config = parser.parse_args(words)
        root, name = runs.expand_root(config.trainer.default_root_dir), self._name(config)
        found = resume.find(self.request.ckpt_path or resume.AUTO, root, name)
        if found is None:
            return words
        self.path, self.checkpoint = found
        self.resumed = resume.run_folder(self.path)
        begun = self.resumed / "config.yaml"
        return ["--config", str(begun), *without_repeated(words, read_config(begun))]

    def _check_unfinished(self, path: Path, checkpoint: dict[str, Any]) -> None:
        if not self.request.resume:
            resume.check_unfinished(path, checkpoint, self.config.trainer)
        elif resume.is_finished(path, self.config.trainer):
            folder = near(resume.run_folder(path))
            print(f"{folder} is finished: nothing is left to do.")
            sys.exit(0)

    def before_instantiate_classes(self) -> None:
        """Rejects settings that cannot work; a dry run needs no weights from the hub."""
        config = self.config
        check(config.trainer)
        if keeping := self._keeping():
            keeping.check()
        if self.verb == "benchmark":
            check_benchmark(config)
        if self.verb == "fit":  # later, a folder may contain further runs
            config.model.teachers = find_teachers(config.model.teachers)
        if config.trainer.fast_dev_run and config.model.weights == IMAGENET:
            try:
                reach_hub(config.model.backbone)
            except InputError as error:
                print(f"bloodcell: {error}\nfast_dev_run continues with random weights.")
                config.model.weights = NONE

    def instantiate_classes(self) -> None:
        """Builds data module, model and Trainer, and loads the checkpoint."""
        weights = self.config.model.weights
        if self.checkpoint:
            self.config.model.weights = NONE  # the checkpoint contains them
        # when scoring, the settings come from the checkpoint, so an error must name it
        scored = refusing(runs.CKPT_PATH, self.path) if self.path and self.verb != "fit" else None
        with scored or nullcontext(), constructor_errors(self.verb):
            super().instantiate_classes()
        self._keep_class_paths(self.config.as_dict())
        if self.verb == "fit":  # config.yaml must reproduce the whole run
            self.config.model.weights = weights
        if self.path and self.checkpoint:
            with refusing(runs.CKPT_PATH, self.path):
                self._load(self.checkpoint)
        elif (trained_on := read_trained_on(weights)) is not None and self.verb == "fit":
            runs.check_new_to(trained_on, self.datamodule, weights)

    def _keep_class_paths(self, config: dict[str, Any]) -> None:
        """Stores class paths, not objects, in checkpoints."""
        for key in ("optimizer", "scheduler"):
            self.model.hparams[key] = config["model"][key]
        self.datamodule.hparams["transforms"] = config["data"]["transforms"]

    def _load(self, checkpoint: dict[str, Any]) -> None:
        self.model.on_load_checkpoint(checkpoint)
        self.model.network.load_state_dict(network_state(checkpoint["state_dict"]))
        if self.verb == "fit":
            self.datamodule.check_unchanged(data_state(checkpoint))
        else:
            runs.check_unseen(checkpoint, self.datamodule, _PARTS[self.verb])

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Fills in the arguments that the user left open; only `fit` writes a run folder."""
        given = self.config_init.trainer
        logger = None
        if self.verb != "fit" or given.logger is False:
            self.save_config_callback = None
        else:
            root = runs.expand_root(given.default_root_dir) / "lightning_logs"
            step = self.checkpoint["global_step"] if self.checkpoint else None
            logger = runs.RunLogger(root, self._name(self.config), self.resumed, step)
        kwargs |= complete(given, logger)
        if self.verb == "benchmark":
            kwargs |= BENCHMARKED
        else:
            kwargs["callbacks"] = callbacks(given, self._keeping(), self.stop)
        try:
            return super().instantiate_trainer(**kwargs)
        except (ValueError, TypeError, ImportError) as error:
            raise InputError(
                f"trainer: {reason(error)}. See `bloodcell {self.verb} --help`."
            ) from error

    def execute(self) -> None:
        """Runs the verb; explains errors whose cause and remedy are known."""
        path = str(self.path) if self.path else None
        try:
            self._introduce()
            if self.verb == "fit":
                settle(self.trainer, self.model, self.datamodule)
                self.config.data.batch_size = self.datamodule.batch_size  # for config.yaml
                self.trainer.fit(self.model, self.datamodule, ckpt_path=path)
                name = self._name(self.config)
                finish_fit(self.trainer, self.model, self.datamodule, name)
            elif isinstance(self.trainer, BenchmarkTrainer):
                options = {key: self.config[key] for key in settings("benchmark")}
                self.trainer.benchmark(self.model, self.datamodule, **options)
            else:
                score = getattr(self.trainer, self.verb)
                score(self.model, datamodule=self.datamodule, ckpt_path=path, verbose=False)
                self.report()
        except SIGTERMException:  # raised between two steps, for any signal
            if self.stop.signal == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise
        except (InputError, MisconfigurationException):
            if isinstance(self.trainer.logger, runs.RunLogger) and not self.trainer.global_step:
                self.trainer.logger.discard()  # a refused run leaves nothing behind
            raise
        except Exception as error:  # callbacks and loggers of the user may raise any
            explained = explain(error, self.trainer, self.model, self.datamodule)
            if explained is not None:
                raise InputError(explained) from None
            if self.verb != "fit" or (message := keep_traceback(error, self.trainer)) is None:
                raise
            print(f"bloodcell: {message}", file=sys.stderr)
            sys.exit(1)

    def report(self) -> None:
        """Prints the scores of `validate` and `test`."""
        scored = near(str(self.path))
        print_scores(self.trainer, self.model, self.datamodule, _PARTS[self.verb], scored)

    def _introduce(self) -> None:
        """Prints a summary, and reads the images before a run folder is created."""
        self.datamodule.trainer = self.trainer
        self.datamodule.prepare_data()
        if self.trainer.is_global_zero:
            print(self.datamodule.summary())
            print(self.model.summary())
            if self.resumed:
                step = self.checkpoint["global_step"] if self.checkpoint else 0
                print(f"continuing {near(self.resumed)} after step {step:,}")
        self.datamodule.setup("fit" if self.verb == "benchmark" else self.verb)
        if self.verb == "fit":  # refused teachers leave no run folder
            load_teachers(self.model.hparams, self.datamodule)

    def _keeping(self) -> Keeping | None:
        if self.verb != "fit":
            return None
        config = self.config
        return Keeping(
            config.save_every_n_steps, config.save_every_minutes, config.rollbacks, config.monitor
        )

    def _name(self, config: Any) -> str:
        if self.resumed:
            return self.resumed.parent.name
        name = str(config.name or self.request.config_name)
        rule = "the name of a single folder below lightning_logs"
        require(Path(name).name == name not in (".", ".."), "--name", name, rule)
        drawn = is_drawn(config.data.root) and DRAWN not in name
        return f"{name}-{DRAWN}" if drawn else name


def _whole_number(seed: bool | int) -> int:
    rule = "a whole number from 0 to 4294967295, so that the run can be repeated"
    holds = not isinstance(seed, bool) and 0 <= seed < 2**32
    require(holds, "seed_everything", seed, rule)
    return seed


def run(request: Request) -> bool:
    """Runs `fit`, `validate`, `test` or `benchmark`.

    Args:
        request: the command line.

    Returns:
        True.

    Raises:
        InputError: if a setting cannot be used, or the disk is full.
    """
    with lightning_errors(request.verb):
        BloodcellCLI(request).execute()
    return True
