"""LightningCLI for one model and one data module: the one place where data meets model."""

import os
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import SIGTERMException

from bloodcell.cli.configs import check_config, without_repeated
from bloodcell.cli.parser import Parser
from bloodcell.cli.words import split_off
from bloodcell.data.datamodule import BloodCells
from bloodcell.datasets.drawn import DRAWN
from bloodcell.errors import InputError, reason, require
from bloodcell.model.checkpoint import network_state, read_checkpoint, refusing
from bloodcell.model.pretrained import IMAGENET, NONE, reach_hub, read_trained_on
from bloodcell.train import resume, runs
from bloodcell.train.batch_size import settle
from bloodcell.train.benchmark import BENCHMARKED, BenchmarkTrainer, check_benchmark
from bloodcell.train.failures import explain
from bloodcell.train.finish import finish_fit, print_scores
from bloodcell.train.resume import AUTO
from bloodcell.train.signals import StopGently
from bloodcell.train.task import Classifier
from bloodcell.train.trainer import Keeping, callbacks, check, complete

_SCORING = ("validate", "test")  # verbs that need a checkpoint


class Command(LightningCLI):
    """LightningCLI for one model and one data module, whose keys are flat.

    Args:
        words: the verb and what stands after it.
        config_name: name of the config, which names the run.
    """

    def __init__(self, words: list[str], config_name: str) -> None:
        self.config_name = config_name
        self.resumed: Path | None = None
        self.checkpoint: dict[str, Any] | None = None
        self.stop = StopGently()
        try:
            super().__init__(
                Classifier,
                BloodCells,
                trainer_class=BenchmarkTrainer,
                save_config_callback=runs.SaveConfig,
                parser_class=Parser,
                parser_kwargs={"prog": "bloodcell", "allow_abbrev": False},
                trainer_defaults={
                    "max_epochs": 30,
                    "use_distributed_sampler": False,  # the data module's samplers know the devices
                    "enable_model_summary": False,  # one line of ours says it
                },
                seed_everything_default=0,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
                args=words,
            )
        except SIGTERMException:  # between two steps, whatever asked for it
            if self.stop.signal == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The verbs of Lightning that are offered, and what to leave out of their options."""
        verbs = LightningCLI.subcommands()
        hidden = {"weights_only", "verbose"}
        offered = {verb: verbs[verb] | hidden for verb in ("fit", *_SCORING)}
        return offered | {"benchmark": {"model", "datamodule"}}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the run's name, and links what data and model share."""
        parser.add_argument("--name", type=str | None, help="Folder below lightning_logs.")
        parser.add_argument("--save_every_n_steps", type=int | None, default=None)
        parser.add_argument("--save_every_minutes", type=float | None, default=10.0)
        parser.add_argument("--rollbacks", type=int, default=0)
        parser.add_argument("--monitor", type=str, default="val/loss")
        for group in ("data", "model"):
            parser.link_arguments("seed_everything", f"{group}.seed", compute_fn=_whole_number)
        parser.link_arguments("data.image_size", "model.image_size")
        parser.link_arguments("data.class_names", "model.class_names", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses; what a checkpoint was made with holds where nothing else is given."""
        verb, *words = args
        words, auto = split_off(words, "--resume")
        require(auto in (None, AUTO) and (verb == "fit" or not auto), "--resume", auto, AUTO)
        _, given = split_off(words, "--ckpt_path")
        require(not (given and auto), "--resume", auto, "given alone, without --ckpt_path")
        given = given or auto
        args = [verb, *words]
        shown = [word for word in words if word.startswith(("--print_config", "--help"))]
        path = None
        if verb in _SCORING and (given or not shown):
            path = runs.best_checkpoint(verb, given)
            self.checkpoint = read_checkpoint(runs.CKPT_PATH, path)
        elif verb == "fit" and given:
            rest = [word for word in words if word not in shown]
            config = parser.parse_args([verb, *rest])[verb]
            root, name = Path(config.trainer.default_root_dir or "."), self._name(config)
            if found := resume.find(given, root, name):
                path, self.checkpoint = found
                self.resumed = resume.run_folder(path)
                begun = self.resumed / "config.yaml"
                check_config(begun)
                args = [verb, "--config", str(begun), *without_repeated(words, begun)]
        if path and self.checkpoint and verb != "fit":
            with refusing(runs.CKPT_PATH, path):
                self._subcommand_parsers[verb].set_defaults(runs.settings(self.checkpoint))
        if verb == "benchmark":  # any weights are as fast, and none need a download
            self._subcommand_parsers[verb].set_defaults({"model.weights": NONE})
        self.config = parser.parse_args(args)
        if verb == "benchmark":
            return
        config = self.config[verb]
        rule = "given on the command line, as --ckpt_path"
        require(bool(path) or not config.ckpt_path, "ckpt_path", config.ckpt_path, rule)
        config.ckpt_path = str(path) if path else None
        if path and self.checkpoint:
            if verb == "fit" and auto:
                if resume.is_finished(path, config.trainer):
                    run = os.path.relpath(resume.run_folder(path))
                    print(f"{run} is finished: nothing to go on with.")
                    sys.exit(0)
            elif verb == "fit":
                resume.check_unfinished(path, self.checkpoint, config.trainer)
            runs.check_same(self.checkpoint, config.as_dict(), also_data=verb == "fit")

    def _parse_ckpt_path(self) -> None:
        """Leaves out Lightning's way, by which a checkpoint silently replaces model settings."""

    def before_instantiate_classes(self) -> None:
        """Refuses settings that cannot work; a dry run goes without weights it can't get."""
        config = self.config[self.subcommand]
        check(config.trainer)
        if keeping := self._keeping():
            keeping.check()
        if self.subcommand == "benchmark":
            check_benchmark(config)
        if config.trainer.fast_dev_run and config.model.weights == IMAGENET:
            try:
                reach_hub(config.model.backbone)
            except InputError as error:
                print(f"bloodcell: {error}\nfast_dev_run goes on with random weights.")
                config.model.weights = NONE

    def instantiate_classes(self) -> None:
        """Builds the model as its checkpoint demands, before images are read."""
        config = self.config[self.subcommand]
        weights = config.model.weights
        if self.checkpoint:
            config.model.weights = NONE  # the checkpoint brings its own
        asked = self.checkpoint and self.subcommand != "fit"  # then its settings hold
        with refusing(runs.CKPT_PATH, Path(config.ckpt_path)) if asked else nullcontext():
            super().instantiate_classes()
        self._keep_class_paths(config.as_dict())
        # what is written into config.yaml repeats the whole run, not only its last stretch
        if self.subcommand == "fit":
            config.model.weights, config.ckpt_path = weights, None
        if self.checkpoint:
            with refusing(runs.CKPT_PATH, Path(config.ckpt_path or "")):
                self._check_data(self.checkpoint)
        elif (trained_on := read_trained_on(weights)) is not None and self.subcommand == "fit":
            runs.check_new_to(trained_on, self.datamodule, weights)

    def _keep_class_paths(self, config: dict[str, Any]) -> None:
        """Lets checkpoints hold by class path what the model and the data hold as objects."""
        for key in ("optimizer", "scheduler"):
            self.model.hparams[key] = config["model"][key]
        self.datamodule.hparams["transforms"] = config["data"]["transforms"]

    def _check_data(self, checkpoint: dict[str, Any]) -> None:
        self.model.on_load_checkpoint(checkpoint)
        self.model.network.load_state_dict(network_state(checkpoint["state_dict"]))
        if self.subcommand == "fit":
            resume.check_same_data(checkpoint, self.datamodule)
        else:
            part = "val" if self.subcommand == "validate" else "test"
            runs.check_unseen(checkpoint, self.datamodule, part)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Adds what the settings leave open; only `fit` writes a run folder."""
        given = self.config_init[self.subcommand].trainer
        logger = None
        if self.subcommand != "fit" or given.logger is False:
            self.save_config_callback = None
        else:
            root = Path(given.default_root_dir or ".") / "lightning_logs"
            step = self.checkpoint["global_step"] if self.checkpoint else None
            logger = runs.RunLogger(root, self._name(self.config.fit), self.resumed, step)
        kwargs |= complete(given, logger)
        if self.subcommand == "benchmark":
            kwargs |= BENCHMARKED
        else:
            self.trainer_defaults["callbacks"] = callbacks(given, self._keeping(), self.stop)
        try:
            return super().instantiate_trainer(**kwargs)
        except (ValueError, TypeError, ImportError) as error:
            raise InputError(
                f"trainer: {reason(error)}. See `bloodcell {self.subcommand} --help`."
            ) from error

    def _keeping(self) -> Keeping | None:
        if self.subcommand != "fit":
            return None
        config = self.config.fit
        return Keeping(
            config.save_every_n_steps, config.save_every_minutes, config.rollbacks, config.monitor
        )

    def before_fit(self) -> None:
        """Says what will be trained on, and settles what was left open."""
        self._introduce()
        settle(self.trainer, self.model, self.datamodule)
        self.config.fit.data.batch_size = self.datamodule.batch_size  # for config.yaml

    def _run_subcommand(self, subcommand: str) -> None:
        """Runs the verb; of what was not the user's fault it says what to do."""
        try:
            super()._run_subcommand(subcommand)
        except (RuntimeError, MemoryError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            said = explain(error, self.trainer, self.model, self.datamodule)
            if said is None:
                raise
            raise InputError(said) from None

    def after_fit(self) -> None:
        """Tests the best checkpoint and reports; a dry run only says that it worked."""
        finish_fit(self.trainer, self.model, self.datamodule, self._name(self.config.fit))

    def before_validate(self) -> None:
        """Says what will be scored."""
        self._introduce()

    before_test = before_benchmark = before_validate

    def after_validate(self) -> None:
        """Prints the scores."""
        print_scores(self.trainer, self.model, self.datamodule, "val", self._scored())

    def after_test(self) -> None:
        """Prints the scores."""
        print_scores(self.trainer, self.model, self.datamodule, "test", self._scored())

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Leaves out Lightning's table of scores: ours follows."""
        quiet = {"verbose": False} if subcommand in _SCORING else {}
        return super()._prepare_subcommand_kwargs(subcommand) | quiet

    def _introduce(self) -> None:
        """Says what is there, and reads the images before a run folder is made for them."""
        self.datamodule.trainer = self.trainer
        self.datamodule.prepare_data()
        if self.trainer.is_global_zero:
            print(self.datamodule.summary())
            print(self.model.summary())
            if self.resumed:
                step = self.checkpoint["global_step"] if self.checkpoint else 0
                print(f"going on with {os.path.relpath(self.resumed)} after step {step:,}")
        self.datamodule.setup(str(self.subcommand))

    def _scored(self) -> str:
        return os.path.relpath(str(self.config_init[self.subcommand].ckpt_path))

    def _name(self, config: Any) -> str:
        if self.resumed:
            return self.resumed.parent.name
        name = str(config.name or self.config_name)
        rule = "one folder's name below lightning_logs"
        require(Path(name).name == name not in (".", ".."), "--name", name, rule)
        drawn = config.data.root == DRAWN and DRAWN not in name
        return f"{name}-{DRAWN}" if drawn else name


def _whole_number(seed: bool | int) -> int:
    rule = "a whole number from 0 to 4294967295: every run can be repeated"
    holds = not isinstance(seed, bool) and 0 <= seed < 2**32
    require(holds, "seed_everything", seed, rule)
    return seed
