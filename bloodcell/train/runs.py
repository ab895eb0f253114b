"""Run folders: creates them, finds their checkpoints, and checks settings against checkpoints."""

import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from bloodcell.data.datamodule import BloodCells
from bloodcell.data.identity import find_trained
from bloodcell.data.table import PARTS
from bloodcell.errors import InputError
from bloodcell.files import at_home, write_whole
from bloodcell.model.checkpoint import check_knows_data, data_state, read_checkpoint
from bloodcell.model.description import TRAINED_ON
from bloodcell.model.find import LAST, SUFFIX, find_checkpoint

CKPT_PATH = "--ckpt_path"
# settings that may differ from those of the checkpoint
_FREE = {"weights", "root", "batch_size", "unreadable", "cache_gib", "on_device", "compile"}


class RunLogger(TensorBoardLogger):
    """A TensorBoardLogger whose run folder is never shared with another run.

    Args:
        root: the folder `lightning_logs`.
        name: the run's name.
        resumed: the folder of the resumed run; None creates a new one.
        step: step of the checkpoint that is resumed; TensorBoard hides later entries.
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
        """The run folder's number or name; the first access creates a new run's folder."""
        if self._claimed is None:
            self._claimed = _claim_version(Path(self.root_dir))
        return self._claimed

    def agree(self, trainer: Trainer) -> None:
        """Gives all processes the run folder that the first one has created."""
        self._claimed = trainer.strategy.broadcast(self.version)

    @rank_zero_only
    def discard(self) -> None:
        """Removes the folder that was created for a new run."""
        if isinstance(self._claimed, int):
            self.experiment.close()
            shutil.rmtree(self.log_dir, ignore_errors=True)

    @rank_zero_only
    def save(self) -> None:
        """Flushes the logs without writing `hparams.yaml`, which would repeat `config.yaml`."""
        self.experiment.flush()


def expand_root(given: str | Path | None) -> Path:
    """Returns `trainer.default_root_dir` with home folder and variables replaced.

    Lightning replaces them in the path of the logs but not in that of the checkpoints.
    """
    return at_home(os.path.expandvars(given or "."))


def list_versions(folder: Path) -> list[Path]:
    """Returns the run folders in the folder of a name, newest last."""
    found = (p for p in folder.glob("version_*") if p.name[8:].isdigit())
    return sorted(found, key=lambda p: int(p.name[8:]))


def _claim_version(folder: Path) -> int:
    """Creates the next free `version_N` folder and returns N; no two runs get the same one."""
    if rank_zero_only.rank != 0:  # type: ignore[attr-defined]  # undeclared
        return 0
    taken = list_versions(folder)
    version = int(taken[-1].name[8:]) + 1 if taken else 0
    while True:
        try:
            (folder / f"version_{version}").mkdir(parents=True)
        except FileExistsError:
            version += 1
        else:
            return version


def last_of(trainer: Trainer) -> Path | None:
    """Returns the path of the run's last checkpoint, which may not exist; None without a folder."""
    folder = run_folder_of(trainer)
    return folder / "checkpoints" / f"{LAST}{SUFFIX}" if folder else None


def data_of(trainer: Trainer) -> BloodCells:
    """Returns the run's data module, an attribute that Lightning's Trainer does not declare."""
    data = vars(trainer)["datamodule"]
    assert isinstance(data, BloodCells)
    return data


class SaveConfig(SaveConfigCallback):
    """Writes `config.yaml` atomically, because a resumed run replaces it and may be killed."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes `config.yaml` before training, in a run folder that all processes share."""
        if isinstance(trainer.logger, RunLogger):
            trainer.logger.agree(trainer)
        folder = run_folder_of(trainer)
        if folder is not None and trainer.is_global_zero and stage == "fit":
            folder.mkdir(parents=True, exist_ok=True)
            with write_whole(folder / "config.yaml") as file:
                file.write(self.parser.dump(self.config, skip_none=False))


def read_best(verb: str, path: str | None) -> tuple[Path, dict[str, Any]]:
    """Returns path and content of the checkpoint for `--ckpt_path` of `validate` and `test`.

    Raises:
        InputError: if there is none, or it does not list the images it was trained on.
    """
    if not path:
        raise InputError(f"{verb} needs --ckpt_path: a run folder or a .ckpt file.")
    file = find_checkpoint(CKPT_PATH, Path(path), "best")
    checkpoint = read_checkpoint(CKPT_PATH, file)
    check_knows_data(CKPT_PATH, file, checkpoint)
    return file, checkpoint


def run_folder_of(trainer: Trainer) -> Path | None:
    """Returns the run folder; None for a dry run or a run without a logger."""
    logger = trainer.logger
    return Path(logger.log_dir) if isinstance(logger, TensorBoardLogger) else None


# settings that the oldest checkpoints do not contain, with the values they were trained with
_MODEL_BEFORE = {
    "schedule": "constant", "weight_decay": 0.0, "bn_momentum": None, "smoothing": 0.0,
    "optimizer": None, "scheduler": None, "white_balance": False, "teachers": [],
}  # fmt: skip
_INPUT = ("data.image_size", "data.crop", "data.field")
_DATA_BEFORE: dict[str, Any] = {
    "crop": "none", "field": 1.0, "val_share": 0.2, "transforms": [], "labels": None,
    "test_on": None, "balance": "none", "draws": None, "classes": None, "margin": 0.0,
    "split_seed": None,
}  # fmt: skip


def settings(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of a checkpoint by their keys on the command line."""
    model = _MODEL_BEFORE | checkpoint["hyper_parameters"]
    data = _DATA_BEFORE | checkpoint["datamodule_hyper_parameters"]
    keys = {f"model.{key}": value for key, value in model.items()}
    keys |= {f"data.{key}": value for key, value in data.items()}
    keys["seed_everything"] = keys.pop("data.seed")
    for linked in ("model.class_names", "model.image_size", "model.seed"):
        keys.pop(linked, None)
    return keys


def check_same(checkpoint: dict[str, Any], config: dict[str, Any], also_data: bool) -> None:
    """Checks that no setting contradicts the checkpoint, because it would have no effect.

    Args:
        checkpoint: content of the checkpoint.
        config: the parsed settings.
        also_data: whether a run is resumed, so that all data settings must be the same.

    Raises:
        InputError: if a setting differs; it names the first one.
    """
    for key, now, then in _differences(checkpoint, config):
        if also_data and _lowers_rate(key, now, then):
            continue
        if also_data or key.startswith("model.") or key in _INPUT:
            others = ", or start a new run without --ckpt_path" if also_data else ""
            raise InputError(
                f"{key}={now}, but the checkpoint was made with {then}, which cannot change now. "
                f"Leave it out{others}."
            )


def check_unseen(checkpoint: dict[str, Any], data: BloodCells, part: str) -> None:
    """Checks that a checkpoint is not scored on images it was trained on.

    Raises:
        InputError: if the part contains training images of the checkpoint.
    """
    wanted = data.parts[part]
    trained_on = data_state(checkpoint)[TRAINED_ON]
    seen = int(find_trained(data.table, data.source, wanted, trained_on).sum())
    if seen:
        raise InputError(
            f"{seen:,} of the {len(wanted):,} images to be scored were trained on. The data must "
            "be split as before: leave out data.split, data.fold, data.val_share, data.test_on, "
            "data.photos, data.labels, data.classes, data.split_seed and seed_everything, or give "
            "data.root other images."
        )


def check_new_to(trained_on: Tensor, data: BloodCells, weights: str) -> None:
    """Checks that weights were not trained on test images; warns about validation images.

    Args:
        trained_on: keys of the images the weights were trained on, as `image_keys` returns them.
        data: the data to train and test on.
        weights: `model.weights`.

    Raises:
        InputError: if the weights were trained on images of the test part.
    """
    seen = {
        part: int(find_trained(data.table, data.source, data.parts[part], trained_on).sum())
        for part in PARTS
    }
    if seen["test"]:
        raise InputError(
            f"model.weights={weights} were trained on {seen['test']:,} of the "
            f"{len(data.parts['test']):,} test images, so the test would measure memorisation. "
            "Use the split of their run (data.split, data.fold, seed_everything; for the bundled "
            "ones: photo, val_share 0.1, seed 0), or other weights."
        )
    if seen["val"]:
        warnings.warn(
            f"model.weights={weights} were trained on {seen['val']:,} of the "
            f"{len(data.parts['val']):,} validation images: scores on them will be too high, and "
            "the choice of the best epoch unreliable. Use the seed_everything of their run, or "
            "other weights.",
            stacklevel=2,
        )


def _differences(
    checkpoint: dict[str, Any], config: dict[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """Yields each key that differs, with its current value and its value in the checkpoint."""
    for key, then in settings(checkpoint).items():
        group, _, name = key.rpartition(".")
        now = config[group][name] if group else config[name]
        if name not in _FREE and now != then:
            yield key, now, then


def _lowers_rate(key: str, now: Any, then: Any) -> bool:
    """Returns whether a setting only lowers the learning rate, which `keep_rate` carries out."""
    if key != "model.optimizer" or not now or not then:
        return bool(key == "model.lr" and now < then)
    new, old = dict(now["init_args"]), dict(then["init_args"])
    lower = new.pop("lr", 0) < old.pop("lr", 0)
    return lower and new == old and bool(now["class_path"] == then["class_path"])
