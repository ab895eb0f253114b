"""What is shown of a run: its history, its progress, its first batch."""

import csv
import math
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torchvision.utils import make_grid

from bloodcell.data.batches import Batch
from bloodcell.evaluate.history import FILE_NAME, Epoch, read_history
from bloodcell.files import write_whole
from bloodcell.train.runs import run_folder_of


class History(Callback):
    """Writes a line to `metrics.csv` after each epoch, and what was trained to the loggers.

    A resumed run goes on below the epochs it keeps. Lightning would log after the checkpoint was
    written, so that a run stopped in between would lack the epoch in TensorBoard.
    """

    def __init__(self) -> None:
        self._start = self._trained = time.perf_counter()
        self._images = 0
        self._validation: dict[str, float] = {}

    def state_dict(self) -> dict[str, Any]:
        """What an epoch has cost so far, and its validation, if it had one within."""
        seconds = time.perf_counter() - self._start
        return {"seconds": seconds, "images": self._images, "validation": self._validation}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes it up."""
        self._start = self._trained = time.perf_counter() - state_dict["seconds"]
        self._images, self._validation = state_dict["images"], state_dict["validation"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gives an epoch that goes on the validation that it had: the best may be that."""
        found = {key: torch.tensor(value) for key, value in self._validation.items()}
        trainer._logger_connector._callback_metrics.update(found)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock of the epoch and of its training part."""
        self._start = self._trained = time.perf_counter()
        self._images = 0
        self._validation = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes that the epoch has validation metrics of its own."""
        if trainer.sanity_checking:
            return
        found = trainer.callback_metrics.items()
        self._validation = {key: float(value) for key, value in found if key.startswith("val/")}

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Counts images; the last one stops the clock of the training part."""
        self._images += len(batch["target"]) * trainer.world_size
        if trainer.is_last_batch and pl_module.device.type == "cuda":
            torch.cuda.synchronize()  # until then the device was only asked
        self._trained = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the line."""
        speed = self._images / (self._trained - self._start)
        folder = run_folder_of(trainer)
        values = {key: float(value) for key, value in trainer.callback_metrics.items()}
        if folder is not None and trainer.is_global_zero:
            self._report(trainer, folder, values, speed)
        logged = {key: value for key, value in values.items() if key.startswith("train/")}
        logged |= {"images_per_second": speed, "epoch": trainer.current_epoch}
        step = trainer.fit_loop.epoch_loop._batches_that_stepped - 1  # as Lightning counts
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
            lr=trainer.optimizers[0].param_groups[0]["lr"],
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


class Bar(RichProgressBar):
    """A bar without numbers: they stand in the line `History` prints after each epoch."""

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Shows none."""
        return {}

    def _get_train_description(self, current_epoch: int) -> str:
        """Counts epochs from 1, as the lines do."""
        return f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}"


class FirstBatch(Callback):
    """Shows TensorBoard the first training batch, as the network sees it."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Draws the grid once."""
        if trainer.global_step == batch_idx == 0 and isinstance(trainer.logger, TensorBoardLogger):
            grid = make_grid(batch["image"].cpu().byte(), nrow=8)
            trainer.logger.experiment.add_image("train/first_batch", grid, 0)
