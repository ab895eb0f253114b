"""Writes the best checkpoint of a run, and the last one, which resumes the run exactly."""

import os
import re
import shutil
import time
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from bloodcell.data.batches import Batch
from bloodcell.errors import InputError, listed, require
from bloodcell.files import beside
from bloodcell.model.find import BEFORE, SCORES
from bloodcell.text import command, near
from bloodcell.train.finite import Finite
from bloodcell.train.runs import last_of, run_folder_of
from bloodcell.train.signals import Interval, StopGently, between_steps

_CLOCK_EVERY = 32  # batches, at least, between checks of the clock, which synchronise the devices
_LOWER = {"loss", "error", "ece"}
_HIGHER = {"acc", "accuracy", "f1", "auroc", "recall", "precision"}


def read_monitor(text: str) -> tuple[str, Literal["min", "max"]]:
    """Returns the metric that selects the best checkpoint, and whether to minimise or maximise it.

    Args:
        text: the name of a logged metric. Losses, errors and ECE are best when low; accuracy, F1,
            AUROC, recall and precision when high. Other names need `min:` or `max:` before them.

    Raises:
        InputError: if neither the name nor a prefix tells which values are better.
    """
    for mode in ("min", "max"):
        if text.startswith(f"{mode}:"):
            return text.removeprefix(f"{mode}:"), mode
    words = set(re.split(r"[/_]", text.lower()))
    low, high = bool(words & _LOWER), bool(words & _HIGHER)
    rule = (
        f"min:{text} or max:{text}, because the name does not show whether low or high values are "
        "better"
    )
    require(low != high, "--monitor", text, rule)
    return text, "min" if low else "max"


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file in its folder, syncs it, and renames it.

    Lightning writes to the system's temporary folder. If that is on another disk, the rename
    becomes a copy, which can be interrupted.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Writes the checkpoint."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with beside(Path(path)) as partial:
            torch.save(checkpoint, partial)


class KeepBest(ModelCheckpoint):
    """Writes `best.ckpt` after the epoch with the best value of a logged metric.

    Args:
        monitor: the metric, in the form that `read_monitor` accepts.
    """

    def __init__(self, monitor: str) -> None:
        name, mode = read_monitor(monitor)
        super().__init__(
            filename="best",
            monitor=name,
            mode=mode,
            save_on_train_epoch_end=True,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the best epoch so far; an epoch with a NaN loss was rolled back and is skipped."""
        loss = trainer.callback_metrics.get("val/loss")
        if loss is not None and not loss.isfinite():
            return
        validated = any(name.startswith("val/") for name in trainer.callback_metrics)
        if validated or not str(self.monitor).startswith("val/"):
            logged = sorted(trainer.callback_metrics)
            rule = f"the name of a logged metric ({listed(logged, 20)})"
            require(self.monitor in logged, "--monitor", self.monitor, rule)
        super().on_train_epoch_end(trainer, pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the best score, with the paths changed to the run's current folder."""
        folder, moved = str(self.dirpath), dict(state_dict)

        def here(path: str) -> str:
            return str(Path(folder, Path(path).name)) if path else path

        moved["dirpath"] = folder
        for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
            moved[key] = here(moved[key])
        moved["best_k_models"] = {here(k): v for k, v in moved["best_k_models"].items()}
        super().load_state_dict(moved)


class KeepLast(Checkpoint):
    """Writes `last.ckpt` after each epoch, at intervals within it, and when a run is stopped.

    Within an epoch, it is written between two optimizer steps if no validation is due. During
    training, `before.ckpt` is the previous `last.ckpt`, in case the newer file is damaged.

    Args:
        finite: checks that loss and weights are finite before each checkpoint.
        stop: indicates that the run is about to stop.
        every_n_steps: interval in optimizer steps within an epoch; None disables it.
        every_minutes: interval in minutes within an epoch; None disables it.
    """

    def __init__(
        self,
        finite: Finite,
        stop: StopGently,
        every_n_steps: int | None,
        every_minutes: float | None,
    ) -> None:
        super().__init__()
        self._finite, self._stop = finite, stop
        self._steps, self._minutes = every_n_steps, every_minutes
        self._saved_at = -1  # global step
        self._saved = time.monotonic()
        self._interval = Interval(_CLOCK_EVERY)
        self._ended = False

    def state_dict(self) -> dict[str, Any]:
        """Returns whether the run has ended, for example by early stopping."""
        return {"ended": self._ended}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores whether the run has ended."""
        self._ended = state_dict["ended"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops training at once if the run has ended and only its test is missing."""
        self._saved_at, self._saved = trainer.global_step, time.monotonic()
        folder = run_folder_of(trainer)
        tested = trainer.strategy.broadcast(folder is not None and (folder / SCORES).is_file())
        if tested and folder and trainer.is_global_zero:
            (folder / SCORES).unlink()  # outdated, because the run is trained further
        elif self._ended and not tested:
            trainer.should_stop = True

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Writes `last.ckpt` if it is due."""
        if between_steps(trainer, batch_idx + 1) and self._is_due(trainer, batch_idx + 1):
            self._save(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes `last.ckpt`."""
        self._ended = trainer.should_stop
        self._save(trainer, pl_module)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Prints the command that resumes the run."""
        last = last_of(trainer)
        if last is None or not trainer.is_global_zero or isinstance(exception, InputError):
            return
        if not last.is_file():
            print("\nStopped before a checkpoint was written: there is nothing to resume.")
            return
        words = command("bloodcell", "fit", "--ckpt_path", near(last.parents[1]))
        when = f"in epoch {trainer.current_epoch + 1}"
        if trainer.testing:
            when = "in the test"
        elif self._stop.trained:
            when = "after the last epoch: training has ended, and only the test is missing"
        print(f"\nStopped {when}. To resume:\n  {words}")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Removes `before.ckpt`, which is no longer needed."""
        last = last_of(trainer)
        if last and trainer.is_global_zero:
            last.with_stem(BEFORE).unlink(missing_ok=True)

    def _is_due(self, trainer: Trainer, batches: int) -> bool:
        if self._stop.stops:
            return True
        if self._steps and trainer.global_step // self._steps > self._saved_at // self._steps:
            return True
        alone = trainer.world_size == 1
        if not self._minutes or not (alone or self._interval.passed(batches)):
            return False
        late = time.monotonic() - self._saved >= 60 * self._minutes
        return late if alone else trainer.strategy.reduce_boolean_decision(late, all=False)

    def _save(self, trainer: Trainer, pl_module: LightningModule) -> None:
        last = last_of(trainer)
        if last is None:
            return
        self._finite.look(trainer, pl_module)
        for logger in trainer.loggers:  # flushes the logs, in case the process is killed
            logger.save()
        if trainer.is_global_zero and last.is_file():
            _keep_before(last)
        trainer.save_checkpoint(last, weights_only=False)
        self._saved_at, self._saved = trainer.global_step, time.monotonic()


def _keep_before(last: Path) -> None:
    before = last.with_stem(BEFORE)
    before.unlink(missing_ok=True)
    try:
        os.link(last, before)
    except OSError:  # the file system has no hard links
        with beside(before) as partial:
            shutil.copyfile(last, partial)
