"""Run folders while they are written: claiming one, finding its checkpoints, going on with it."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from bloodcell.data.datamodule import BloodCells
from bloodcell.data.table import PARTS
from bloodcell.errors import InputError
from bloodcell.files import write_whole
from bloodcell.model.checkpoint import LAST, SUFFIX, data_state, find_checkpoint
from bloodcell.model.description import TRAINED_ON

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
        if resumed:
            root, name = resumed.parent.parent, resumed.parent.name
        self._claimed: int | str | None = resumed.name if resumed else None
        super().__init__(str(root), name, default_hp_metric=False, purge_step=step)

    @property
    def version(self) -> int | str:
        """Returns the version, which is claimed when it is first asked for."""
        if self._claimed is None:
            self._claimed = _claim_version(Path(self.root_dir))
        return self._claimed

    @rank_zero_only
    def save(self) -> None:
        """Flushes; config.yaml already holds what TensorBoardLogger would write once more."""
        self.experiment.flush()


def _claim_version(folder: Path) -> int:
    """Makes the next `version_N` folder and returns N: two runs started at once get two."""
    if rank_zero_only.rank != 0:  # type: ignore[attr-defined]  # undeclared
        return 0
    taken = [int(p.name[8:]) for p in folder.glob("version_*") if p.name[8:].isdigit()]
    version = max(taken, default=-1) + 1
    while True:
        try:
            (folder / f"version_{version}").mkdir(parents=True)
        except FileExistsError:
            version += 1
        else:
            return version


def last_of(trainer: Trainer) -> Path | None:
    """Where the run's last checkpoint lies, or will lie; None without a run folder."""
    folder = run_folder_of(trainer)
    return folder / "checkpoints" / f"{LAST}{SUFFIX}" if folder else None


def data_of(trainer: Trainer) -> BloodCells:
    """Returns the data module of a run, which Lightning's Trainer does not declare."""
    data = vars(trainer)["datamodule"]
    assert isinstance(data, BloodCells)
    return data


class SaveConfig(SaveConfigCallback):
    """Writes `config.yaml` whole: a resumed run replaces it, and may be killed meanwhile."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes it before the training."""
        folder = run_folder_of(trainer)
        if folder is not None and trainer.is_global_zero and stage == "fit":
            folder.mkdir(parents=True, exist_ok=True)
            with write_whole(folder / "config.yaml") as file:
                file.write(self.parser.dump(self.config, skip_none=False))


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


# what the first checkpoints were made with, which say nothing of it
_MODEL_BEFORE = {
    "schedule": "constant", "weight_decay": 0.0, "bn_momentum": None, "smoothing": 0.0,
    "optimizer": None, "scheduler": None,
}  # fmt: skip
_DATA_BEFORE: dict[str, Any] = {"crop": "none", "val_share": 0.2, "transforms": []}


def settings(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The settings a checkpoint was made with, by their keys on the command line."""
    model = _MODEL_BEFORE | checkpoint["hyper_parameters"]
    data = _DATA_BEFORE | checkpoint["datamodule_hyper_parameters"]
    keys = {f"model.{key}": value for key, value in model.items()}
    keys |= {f"data.{key}": value for key, value in data.items()}
    keys["seed_everything"] = keys.pop("data.seed")
    for linked in ("model.class_names", "model.image_size", "model.seed"):
        keys.pop(linked, None)
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
        if also_data or key.startswith("model.") or key in ("data.image_size", "data.crop"):
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
    seen = int(torch.isin(wanted, data_state(checkpoint)[TRAINED_ON]).sum())
    if seen:
        raise InputError(
            f"{seen:,} of the {len(wanted):,} images to be scored were trained on. The data must "
            "be divided as it was then: leave out data.split, data.fold, data.val_share, "
            "data.photos and seed_everything, or give data.root other images."
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
            "photo, val_share 0.1, seed 0), or use other weights."
        )
    if seen["val"]:
        warnings.warn(
            f"model.weights={weights} were trained on {seen['val']:,} of the "
            f"{len(data.parts['val']):,} validation images: they will look too easy, and the best "
            "epoch is hard to tell. Use the seed_everything of their run, or other weights.",
            stacklevel=2,
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
