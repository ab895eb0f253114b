"""Run folders while they are written: claiming one, finding its checkpoints, going on with it."""

import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from bloodcell.data.datamodule import BloodCells
from bloodcell.data.splits import PARTS
from bloodcell.errors import InputError, listed
from bloodcell.model.checkpoint import (
    BEFORE,
    BEST,
    LAST,
    SUFFIX,
    find_checkpoint,
    read_checkpoint,
)
from bloodcell.model.description import TRAINED_ON
from bloodcell.report.scores import SCORES
from bloodcell.train.classifier import FINGERPRINT, SO_FAR

CKPT_PATH = "--ckpt_path"
# settings that may change: where the data lies, how it is fed
_FREE = {"weights", "root", "batch_size", "unreadable", "cache_gib", "on_device", "compile"}


class RunLogger(TensorBoardLogger):
    """TensorBoard's logger in a run folder that no other run has or gets.

    Args:
        root: `lightning_logs`.
        name: the run's name.
        resumed: the folder of the run that goes on; None claims a new one.
        step: of the checkpoint it goes on from: TensorBoard leaves out what was logged after it.
    """

    def __init__(
        self, root: Path, name: str, resumed: Path | None = None, step: int | None = None
    ) -> None:
        place = (resumed.parent.parent, resumed.parent.name) if resumed else (root, name)
        version = resumed.name if resumed else None
        super().__init__(str(place[0]), place[1], version, default_hp_metric=False, purge_step=step)

    def _get_next_version(self) -> int:
        """Claims the next number by making its folder: two runs started at once get two."""
        if rank_zero_only.rank != 0:  # type: ignore[attr-defined]  # undeclared
            return 0
        folder = Path(self.root_dir)
        taken = [int(p.name[8:]) for p in folder.glob("version_*") if p.name[8:].isdigit()]
        version = max(taken, default=-1) + 1
        while True:
            try:
                (folder / f"version_{version}").mkdir(parents=True)
            except FileExistsError:
                version += 1
            else:
                return version

    @rank_zero_only
    def save(self) -> None:
        """Flushes; config.yaml already holds what TensorBoardLogger would write once more."""
        self.experiment.flush()


def best_checkpoint(verb: str, path: str | None) -> Path:
    """Finds the checkpoint that `--ckpt_path` of `validate` and `test` means.

    Raises:
        InputError: if there is none.
    """
    if not path:
        raise InputError(f"{verb} needs --ckpt_path: a run folder or a .ckpt file.")
    return find_checkpoint(CKPT_PATH, Path(path), "best")


def run_folder_of(trainer: Trainer) -> Path | None:
    """The run folder, if there is one: a dry run or a run without a logger has none."""
    logger = trainer.logger
    return Path(logger.log_dir) if isinstance(logger, TensorBoardLogger) else None


def last_checkpoints(path: str, root: Path, name: str) -> list[Path]:
    """Finds the checkpoints that `--ckpt_path` of `fit` means.

    Args:
        path: `last`, a run folder or a .ckpt file.
        root: the folder that holds lightning_logs.
        name: name of the runs among which `last` finds the newest that has a checkpoint.

    Returns:
        The file, or those of the run, the latest first: the disk may have damaged it.

    Raises:
        InputError: if there is none.
    """
    folder = _newest(root, name) if path == LAST else Path(path)
    found = [file for file in _checkpoints(folder) if file.is_file()]
    return found or [find_checkpoint(CKPT_PATH, folder, LAST)]


def read_first(paths: Sequence[Path]) -> tuple[Path, dict[str, Any]]:
    """Reads the first checkpoint that is whole, and names those that are not.

    Raises:
        InputError: if none is.
    """
    *others, final = paths
    for place, path in enumerate(others, 1):
        try:
            return path, read_checkpoint(CKPT_PATH, path)
        except InputError as error:
            print(f"bloodcell: {error} Trying {paths[place].name}.", file=sys.stderr)
    return final, read_checkpoint(CKPT_PATH, final)


def can_go_on(root: Path, name: str) -> bool:
    """Whether the newest run of a name has a checkpoint, as `--resume auto` asks."""
    runs = _versions(root, name)
    return bool(runs) and any(file.is_file() for file in _checkpoints(runs[-1]))


def _checkpoints(folder: Path) -> list[Path]:
    """Those to go on from, the latest first."""
    return [folder / "checkpoints" / f"{name}{SUFFIX}" for name in (LAST, BEFORE, BEST)]


def _versions(root: Path, name: str) -> list[Path]:
    """The runs of a name, the newest last."""
    found = (root / "lightning_logs" / name).glob("version_*")
    return sorted((p for p in found if p.name[8:].isdigit()), key=lambda p: int(p.name[8:]))


def _newest(root: Path, name: str) -> Path:
    """The newest run of a name that has a checkpoint."""
    folder, runs = root / "lightning_logs" / name, _versions(root, name)
    resumable = [run for run in runs if any(p.is_file() for p in _checkpoints(run))]
    if not resumable:
        others = sorted(p.name for p in folder.parent.glob("*/") if p != folder)
        raise InputError(
            f"--ckpt_path last: no run in {folder} has a checkpoint (found: "
            f"{listed([run.name for run in runs])}; other names: {listed(others)}). Give --name or "
            "a run folder, or leave --ckpt_path out to start a new run."
        )
    return resumable[-1]


def run_folder(checkpoint: Path) -> Path:
    """The run folder a checkpoint lies in, where the run goes on.

    Raises:
        InputError: if it lies in none.
    """
    folder = checkpoint.absolute().parent.parent
    if checkpoint.parent.name != "checkpoints" or not (folder / "config.yaml").is_file():
        raise InputError(
            f"--ckpt_path {checkpoint} lies in no run folder (looked for "
            f"{folder / 'config.yaml'}), so there is no run to go on with. Give a run folder, e.g. "
            "lightning_logs/d8/version_0."
        )
    return folder


def settings(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The settings a checkpoint was made with, by their keys on the command line."""
    model, data = checkpoint["hyper_parameters"], checkpoint["datamodule_hyper_parameters"]
    keys = {f"model.{key}": value for key, value in model.items()}
    keys |= {f"data.{key}": value for key, value in data.items()}
    keys["seed_everything"] = keys.pop("data.seed")
    for linked in ("model.class_names", "model.image_size"):
        keys.pop(linked)
    return keys


def check_same(checkpoint: dict[str, Any], config: dict[str, Any], also_data: bool) -> None:
    """Refuses settings that contradict the checkpoint, which would be ignored.

    Args:
        checkpoint: as read.
        config: the parsed settings.
        also_data: whether the data settings must be the same too, as for a run that goes on.

    Raises:
        InputError: naming the first difference.
    """
    for key, now, then in _differences(checkpoint, config):
        if also_data or key.startswith("model.") or key == "data.image_size":
            raise InputError(
                f"{key}={now}, but the checkpoint was made with {then}, which cannot change now. "
                "Leave it out, or start a new run without --ckpt_path."
            )


def check_unseen(checkpoint: dict[str, Any], data: BloodCells, part: str) -> None:
    """Refuses to score a checkpoint on images it was trained on.

    Args:
        checkpoint: as read.
        data: what is to be scored.
        part: val or test.

    Raises:
        InputError: if there are any.
    """
    wanted = data.image_keys(part)
    seen = int(torch.isin(wanted, checkpoint[TRAINED_ON]).sum())
    if seen:
        raise InputError(
            f"{seen:,} of the {len(wanted):,} images to be scored were trained on. The data must "
            "be divided as it was then: leave out data.split, data.fold, data.photos and "
            "seed_everything, or give data.root other images."
        )


def check_new_to(trained_on: Tensor, data: BloodCells, weights: str) -> None:
    """Refuses weights that were trained on images of the test part.

    Args:
        trained_on: what the weights were trained on, as `BloodCells.trained_on`.
        data: what is to be trained and tested on.
        weights: as `model.weights`.

    Raises:
        InputError: if there are any.
    """
    seen = {part: int(torch.isin(data.image_keys(part), trained_on).sum()) for part in PARTS}
    if seen["test"]:
        raise InputError(
            f"model.weights={weights} were trained on {seen['test']:,} of the "
            f"{len(data.parts['test']):,} test images: the test would measure memory. Divide "
            "the data as they were then (data.split, data.fold, seed_everything; the bundled ones: "
            "photo, seed 0), or use other weights."
        )
    if seen["val"]:
        warnings.warn(
            f"model.weights={weights} were trained on {seen['val']:,} of the "
            f"{len(data.parts['val']):,} validation images: they will look too easy, and the best "
            "epoch is hard to tell. Use the seed_everything of their run, or other weights.",
            stacklevel=2,
        )


def check_same_data(checkpoint: dict[str, Any], data: BloodCells) -> None:
    """Refuses to go on with a run on other data than it began with.

    Raises:
        InputError: if files, classes, photographs or cells have changed.
    """
    if checkpoint[FINGERPRINT] != data.table.fingerprint:
        raise InputError(
            f"data.root={data.source.root} has changed since the run began (fingerprint "
            f"{data.table.fingerprint}, then {checkpoint[FINGERPRINT]}): images could move between "
            "train and test. Restore it, or start a new run without --ckpt_path."
        )


def _differences(
    checkpoint: dict[str, Any], config: dict[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """Yields each key that has another value now than when the checkpoint was made."""
    for key, then in settings(checkpoint).items():
        group, _, name = key.rpartition(".")
        now = config[group][name] if group else config[name]
        if name not in _FREE and now != then:
            yield key, now, then


def is_finished(path: Path, checkpoint: dict[str, Any], max_epochs: int | None) -> bool:
    """Whether a run has nothing left to do: it had all its epochs and was tested.

    Args:
        path: of the checkpoint.
        checkpoint: as read.
        max_epochs: that it shall have.
    """
    if not (run_folder(path) / SCORES).is_file() or SO_FAR in checkpoint:
        return False
    return max_epochs is not None and 0 <= max_epochs <= checkpoint["epoch"] + 1


def check_unfinished(path: Path, checkpoint: dict[str, Any], max_epochs: int | None) -> None:
    """Refuses to go on with a run that has nothing left to do.

    Raises:
        InputError: if the checkpoint has had all its epochs and the run was tested.
    """
    if is_finished(path, checkpoint, max_epochs):
        raise InputError(
            f"--ckpt_path {path}: this run has finished its {checkpoint['epoch'] + 1} epochs "
            f"(trainer.max_epochs={max_epochs}). Raise --trainer.max_epochs to go on, or leave "
            "--ckpt_path out to start a new run."
        )
