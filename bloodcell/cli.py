"""The verbs that train and score: the one place where data meets model."""

import argparse
import difflib
import errno
import logging
import re
import warnings
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from bloodcell.configs import find_config
from bloodcell.data.datamodule import BloodCells
from bloodcell.data.source import DRAWN
from bloodcell.errors import InputError
from bloodcell.model.weights import IMAGENET, NONE, reach_hub
from bloodcell.train import runs
from bloodcell.train.callbacks import Bar, FirstBatch, History, HowToGoOn, Keep
from bloodcell.train.classifier import Classifier
from bloodcell.train.finish import finish_fit, print_scores

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
_QUIET = (  # warnings of Lightning that say nothing here
    ".*does not have many workers.*",  # batches are picked from memory: a worker would only copy
    ".*is smaller than the logging interval.*",  # everything is logged by epoch
    ".*Checkpoint directory .* exists and is not empty.*",  # a resumed run writes where it was
    ".*callbacks used to create the checkpoint need to be provided.*",  # a test needs none
    ".*could not find the monitored key.*",  # an epoch that is not validated has none
    ".*LeafSpec.*",
)


def run(verb: str, words: list[str]) -> None:
    """Runs `fit`, `validate` or `test`.

    Args:
        verb: which one.
        words: what stands after it on the command line.

    Raises:
        InputError: if what was given cannot be used, or the disk is full.
    """
    for message in _QUIET:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    words, config_name = _resolve_configs(words)
    try:
        Command([verb, *words], config_name)
    except OSError as error:
        if error.errno in _NOT_ALLOWED:
            raise InputError(
                f"{error.filename} may not be read or written ({error.strerror}). Change its "
                "permissions, or write elsewhere with --trainer.default_root_dir."
            ) from error
        if error.errno not in _NO_ROOM:
            raise
        raise InputError(
            f"no room to write {error.filename or 'into the run folder'} ({error.strerror}). "
            "Free some space, or write elsewhere with --trainer.default_root_dir; a run with a "
            "checkpoint goes on with --ckpt_path last."
        ) from error


class Parser(LightningArgumentParser):
    """Lightning's parser, whose errors name the nearest key there is."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises InputError instead of printing the usage of every option."""
        message = " ".join(message.split()).replace("a typing.Literal[", "one of [")
        hint = self._nearest(message)
        raise InputError(f"{message.rstrip('. ')}.{hint} See `bloodcell VERB --help`.") from ex

    def _nearest(self, message: str) -> str:
        keys = {action.dest for action in self._actions if "." in action.dest}
        for parser in getattr(self._subcommands_action, "choices", {}).values():
            keys |= {action.dest for action in parser._actions}
        for name in re.findall(r"(?:--|['\"])([\w.]+)", message):
            if name in keys:  # the message is about its value
                break
            if near := difflib.get_close_matches(name, sorted(keys), n=1):
                return f" Did you mean '{near[0]}'?"
        return ""


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
        super().__init__(
            Classifier,
            BloodCells,
            parser_class=Parser,
            parser_kwargs={"prog": "bloodcell"},
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

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The verbs of Lightning that are offered, and what to leave out of their options."""
        verbs = LightningCLI.subcommands()
        hidden = {"weights_only", "verbose"}
        return {verb: verbs[verb] | hidden for verb in ("fit", "validate", "test")}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the run's name, and links what data and model share."""
        parser.add_argument("--name", type=str | None, help="Folder below lightning_logs.")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=_whole_number)
        parser.link_arguments("data.image_size", "model.image_size")
        parser.link_arguments("data.class_names", "model.class_names", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses; what a checkpoint was made with holds where nothing else is given."""
        verb, *words = args
        found = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        found.add_argument("--ckpt_path")
        given = found.parse_known_args(words)[0].ckpt_path
        path = None
        if verb != "fit" and "--print_config" not in words:
            path = runs.best_checkpoint(verb, given)
        elif verb == "fit" and given:
            config = parser.parse_args(args)[verb]
            root = Path(config.trainer.default_root_dir or ".")
            path = runs.last_checkpoint(given, root, self._name(config))
            self.resumed = runs.run_folder(path)
        if path:
            self.checkpoint = runs.read_checkpoint(path)
            self._subcommand_parsers[verb].set_defaults(runs.settings(self.checkpoint))
        if self.resumed:  # the trainer's settings too
            args = [verb, "--config", str(self.resumed / "config.yaml"), *words]
        self.config = parser.parse_args(args)
        config = self.config[verb]
        if path and self.checkpoint:
            if verb == "fit":
                runs.check_unfinished(path, self.checkpoint, config.trainer.max_epochs)
            config.ckpt_path = str(path)
            runs.check_same(self.checkpoint, config.as_dict(), also_data=verb == "fit")
            config.model.weights = NONE  # the checkpoint brings its own

    def _parse_ckpt_path(self) -> None:
        """Leaves out Lightning's way, by which a checkpoint silently replaces model settings."""

    def before_instantiate_classes(self) -> None:
        """Refuses a device that is not there; a dry run goes without weights it can't get."""
        config = self.config[self.subcommand]
        accelerator = config.trainer.accelerator
        if accelerator in ("gpu", "cuda") and not _has_gpu(accelerator):
            raise InputError(
                f"trainer.accelerator={accelerator}, but PyTorch {torch.__version__} sees no GPU "
                "here. Use --trainer.accelerator cpu, or install the driver or the PyTorch build "
                "that fits the GPU."
            )
        if self.subcommand == "fit" and config.trainer.limit_val_batches == 0:
            raise InputError(
                "trainer.limit_val_batches=0 leaves nothing to choose the best checkpoint by. Give "
                "1 or more batches, or a share above 0."
            )
        if config.trainer.fast_dev_run and config.model.weights == IMAGENET:
            try:
                reach_hub(config.model.backbone)
            except InputError as error:
                print(f"bloodcell: {error}\nfast_dev_run goes on with random weights.")
                config.model.weights = NONE

    def instantiate_classes(self) -> None:
        """Builds the model as its checkpoint demands, before images are read."""
        super().instantiate_classes()
        if self.checkpoint:
            self.model.on_load_checkpoint(self.checkpoint)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Adds to `fit` its logger and callbacks; the others write nothing."""
        given = self.config_init[self.subcommand].trainer
        kwargs["precision"] = given.precision or best_precision(given.accelerator)
        if self.subcommand == "fit":
            root = Path(given.default_root_dir or ".") / "lightning_logs"
            if given.logger in (None, True):
                name = self._name(self.config.fit)
                kwargs["logger"] = runs.RunLogger(root, name, self.resumed)
            keep = given.logger is not False and not given.fast_dev_run
            self.trainer_defaults["callbacks"] = self._callbacks(keep)
        else:
            kwargs["logger"] = False
        if self.subcommand != "fit" or self.resumed:  # its config.yaml is there already
            self.save_config_callback = None
        return super().instantiate_trainer(**kwargs)

    def before_fit(self) -> None:
        """Says what will be trained on."""
        self._introduce()

    def after_fit(self) -> None:
        """Tests the best checkpoint and reports; a dry run only says that it worked."""
        finish_fit(self.trainer, self.model, self.datamodule, self._name(self.config.fit))

    def before_validate(self) -> None:
        """Says what will be scored."""
        self._introduce()

    before_test = before_validate

    def after_validate(self) -> None:
        """Prints the scores."""
        print_scores(self.trainer, self.model, self.datamodule, "val")

    def after_test(self) -> None:
        """Prints the scores."""
        print_scores(self.trainer, self.model, self.datamodule, "test")

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Leaves out Lightning's table of scores: ours follows."""
        quiet = {} if subcommand == "fit" else {"verbose": False}
        return super()._prepare_subcommand_kwargs(subcommand) | quiet

    def _introduce(self) -> None:
        if self.trainer.is_global_zero:
            print(self.datamodule.summary())
            print(self.model.summary())
            if self.resumed:
                print(f"going on with {self.resumed}")

    def _name(self, config: Any) -> str:
        if self.resumed:
            return self.resumed.parent.name
        name = str(config.name or self.config_name)
        drawn = config.data.root == DRAWN and DRAWN not in name
        return f"{name}-{DRAWN}" if drawn else name

    def _callbacks(self, keep: bool) -> list[Any]:
        callbacks: list[Any] = [Bar(), History(), FirstBatch()]
        if keep:
            callbacks += [LearningRateMonitor("epoch"), HowToGoOn()]
            callbacks += [Keep("best", "val/loss"), Keep("last")]  # so last knows the best
        return callbacks


def best_precision(accelerator: str) -> str:
    """Chooses the fastest safe precision: bf16 where the GPU has it, else fp16, 32 bits on a CPU.

    Args:
        accelerator: as Lightning's Trainer takes it.
    """
    if accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported(False) else "16-mixed"


def _has_gpu(accelerator: str) -> bool:
    metal = accelerator == "gpu" and torch.backends.mps.is_available()
    return torch.cuda.is_available() or metal


def _whole_number(seed: bool | int) -> int:
    if isinstance(seed, bool):
        raise InputError(
            f"seed_everything={seed} is no whole number. Give one: every run can be repeated."
        )
    return seed


def _resolve_configs(words: list[str]) -> tuple[list[str], str]:
    """Replaces names of configs by their paths; the last one names the run."""
    resolved, name = list(words), "custom"
    for place, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag not in ("--config", "-c"):
            continue
        if not equals and place + 1 == len(words):
            raise InputError("--config stands without a name. Give one, e.g. --config d8.yaml.")
        path = find_config(value if equals else words[place + 1])
        name = path.stem
        if equals:
            resolved[place] = f"{flag}={path}"
        else:
            resolved[place + 1] = str(path)
    if name == "config":  # config.yaml of a run folder: lightning_logs/d8/version_0/config.yaml
        name = path.resolve().parent.parent.name
    return resolved, name
