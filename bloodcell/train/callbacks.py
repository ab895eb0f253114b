"""Callbacks that report the progress of a run: history, progress bar, first batch."""

import csv
import math
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch.optim import Optimizer
from torchvision.utils import make_grid

from bloodcell.data.batches import Batch
from bloodcell.evaluate.history import FILE_NAME, Epoch, read_history
from bloodcell.files import write_whole
from bloodcell.train.lightning_internals import NumberedBar
from bloodcell.train.runs import run_folder_of


class History(Callback):
    """Writes a line to `metrics.csv` after each epoch, and logs the training metrics.

    A resumed run appends to the existing lines. Lightning itself logs an epoch only after its
    checkpoint is written, so a run that stopped in between would lack that epoch in TensorBoard.
    """

    def __init__(self) -> None:
        self._start = self._trained = time.perf_counter()
        self._images = 0
        self._lr = 0.0  # of the last step
        self._validation: dict[str, float] = {}

    def state_dict(self) -> dict[str, Any]:
        """Returns time, images, learning rate and validation metrics of the current epoch."""
        seconds = time.perf_counter() - self._start
        counted = {"seconds": seconds, "images": self._images, "lr": self._lr}
        return {**counted, "validation": self._validation}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the state of the epoch; the oldest checkpoints lack the learning rate."""
        self._start = self._trained = time.perf_counter() - state_dict["seconds"]
        self._images, self._validation = state_dict["images"], state_dict["validation"]
        self._lr = state_dict.get("lr", 0.0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restores the validation metrics of a resumed epoch, so that `KeepBest` can compare it."""
        found = {key: torch.tensor(value) for key, value in self._validation.items()}
        trainer.callback_metrics.update(found)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the timers of the epoch and of its training steps."""
        self._start = self._trained = time.perf_counter()
        self._images = 0
        self._validation = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the validation metrics of the epoch."""
        if trainer.sanity_checking:
            return
        found = trainer.callback_metrics.items()
        self._validation = {key: float(value) for key, value in found if key.startswith("val/")}

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Keeps the learning rate of the step, before a scheduler sets the next one."""
        self._lr = float(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Counts images and records the time, so that the training speed excludes validation."""
        self._images += len(batch["target"]) * trainer.world_size
        if trainer.is_last_batch and pl_module.device.type == "cuda":
            torch.cuda.synchronize()  # waits for the device, which works asynchronously
        self._trained = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the epoch to `metrics.csv` and logs its training metrics."""
        speed = self._images / (self._trained - self._start)
        folder = run_folder_of(trainer)
        values = {key: float(value) for key, value in trainer.callback_metrics.items()}
        if folder is not None and trainer.is_global_zero:
            self._report(trainer, folder, values, speed)
        logged = {key: value for key, value in values.items() if key.startswith("train/")}
        logged |= {"images_per_second": speed, "epoch": trainer.current_epoch}
        step = trainer.global_step - 1  # the last step, counted from 0, as Lightning does
        for logger in trainer.loggers:
            logger.log_metrics(logged, step)

    def _report(
        self, trainer: Trainer, folder: Path, values: dict[str, float], speed: float
    ) -> None:
        if not self._validation:
            values |= {"val/loss": math.nan, "val/acc": math.nan}
        epoch = Epoch(
            epoch=trainer.current_epoch,
            train_loss=values["train/loss"],
            train_acc=values["train/acc"],
            val_loss=values["val/loss"],
            val_acc=values["val/acc"],
            lr=self._lr,
            images_per_second=round(speed, 1),
            seconds=round(time.perf_counter() - self._start, 2),
        )
        self._write(folder / FILE_NAME, epoch)
        trainer.print(
            f"epoch {epoch.epoch + 1:3d} of {trainer.max_epochs}"
            f"   train loss {epoch.train_loss:.4f} acc {epoch.train_acc:.4f}"
            f"   val loss {epoch.val_loss:.4f} acc {epoch.val_acc:.4f}   {speed:,.0f} images/s"
        )

    def _write(self, path: Path, epoch: Epoch) -> None:
        kept = [line for line in read_history(path) if line.epoch < epoch.epoch]
        with write_whole(path) as file:
            lines = csv.writer(file)
            lines.writerow(Epoch._fields)
            lines.writerows([*kept, epoch])


class Bar(NumberedBar):
    """A progress bar without metrics; `History` prints them after each epoch."""

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Returns no metrics."""
        return {}


class FirstBatch(Callback):
    """Writes the first training batch, after augmentation, to TensorBoard."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Writes the batch as a grid of images before the first step."""
        if trainer.global_step == batch_idx == 0 and isinstance(trainer.logger, TensorBoardLogger):
            grid = make_grid(batch["image"].cpu().byte(), nrow=8)
            trainer.logger.experiment.add_image("train/first_batch", grid, 0)
