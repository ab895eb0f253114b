"""The checkpoints of a run: the best, and the last, from which it goes on as if never stopped."""

import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import (
    SIGTERMException,
)

from bloodcell.data.batches import Batch
from bloodcell.errors import InputError
from bloodcell.evaluate.scores import SCORES
from bloodcell.files import beside
from bloodcell.model.checkpoint import BEFORE
from bloodcell.text import command
from bloodcell.train.finite import Finite
from bloodcell.train.runs import last_of, run_folder_of
from bloodcell.train.signals import between_steps

CLOCK_EVERY = 32  # batches; several devices must agree on the time, which makes them wait


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place, makes sure that the disk has it, and moves it there.

    Lightning's own writes into the system's folder for temporary files, which may be on another
    disk: what is moved from there is copied, and a copy can be cut off.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Writes it."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with beside(Path(path)) as partial:
            torch.save(checkpoint, partial)


class KeepBest(ModelCheckpoint):
    """Keeps `best.ckpt`, of the epoch with the lowest validation loss."""

    def __init__(self) -> None:
        super().__init__(
            filename="best",
            monitor="val/loss",
            save_on_train_epoch_end=True,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the best score so far, also where the run folder was moved to."""
        folder, moved = str(self.dirpath), dict(state_dict)

        def here(path: str) -> str:
            return str(Path(folder, Path(path).name)) if path else path

        moved["dirpath"] = folder
        for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
            moved[key] = here(moved[key])
        moved["best_k_models"] = {here(k): v for k, v in moved["best_k_models"].items()}
        super().load_state_dict(moved)


class KeepLast(Checkpoint):
    """Keeps `last.ckpt`: after each epoch, now and then within one, and when a run is stopped.

    Within an epoch it is written between two steps of the optimizer, where no validation is due.
    While a run trains, `before.ckpt` is what `last.ckpt` was before, should the disk damage it.

    Args:
        finite: what makes sure that only numbers are kept.
        every_n_steps: how often within an epoch; None for never.
        every_minutes: likewise, whichever comes first.
    """

    def __init__(
        self, finite: Finite, every_n_steps: int | None, every_minutes: float | None
    ) -> None:
        super().__init__()
        self._finite, self._steps, self._minutes = finite, every_n_steps, every_minutes
        self._saved_at = -1  # global step
        self._saved = time.monotonic()
        self._ended = False

    def state_dict(self) -> dict[str, Any]:
        """Whether the run had come to its end, by early stopping say."""
        return {"ended": self._ended}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes it up."""
        self._ended = state_dict["ended"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends a run at once that had come to its end when it was stopped in its test."""
        self._saved_at, self._saved = trainer.global_step, time.monotonic()
        folder = run_folder_of(trainer)
        tested = trainer.strategy.broadcast(folder is not None and (folder / SCORES).is_file())
        if tested and folder and trainer.is_global_zero:  # of an end that is none any more
            (folder / SCORES).unlink()
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
        """Writes it if it is time."""
        if between_steps(trainer, batch_idx + 1) and self._is_due(trainer, batch_idx + 1):
            self._save(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes it."""
        self._ended = trainer.should_stop
        self._save(trainer, pl_module)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Writes it, if the run was asked to stop and has got further since; says how to go on."""
        whole = trainer.global_step > self._saved_at and not trainer.fit_loop._should_accumulate()
        if isinstance(exception, SIGTERMException) and trainer.training and whole:
            self._save(trainer, pl_module)
        last = last_of(trainer)
        if last is None or not trainer.is_global_zero or isinstance(exception, InputError):
            return
        if not last.is_file():
            print("\nStopped before a checkpoint was written: there is nothing to resume.")
            return
        words = command("bloodcell", "fit", "--ckpt_path", os.path.relpath(last.parents[1]))
        when = "the test" if trainer.testing else f"epoch {trainer.current_epoch + 1}"
        print(f"\nStopped in {when}. To go on:\n  {words}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Removes what was kept in case: the last is whole."""
        last = last_of(trainer)
        if last and trainer.is_global_zero:
            last.with_stem(BEFORE).unlink(missing_ok=True)

    def _is_due(self, trainer: Trainer, batches: int) -> bool:
        if self._steps and trainer.global_step // self._steps > self._saved_at // self._steps:
            return True
        alone = trainer.world_size == 1
        if not self._minutes or not (alone or batches % CLOCK_EVERY == 0):
            return False
        late = time.monotonic() - self._saved >= 60 * self._minutes
        return late if alone else trainer.strategy.reduce_boolean_decision(late, all=False)

    def _save(self, trainer: Trainer, pl_module: LightningModule) -> None:
        last = last_of(trainer)
        if last is None:
            return
        self._finite.look(trainer, pl_module)
        for logger in trainer.loggers:  # what it has logged must not be lost with the process
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
    except OSError:  # a file system without links
        with beside(before) as partial:
            shutil.copyfile(last, partial)
