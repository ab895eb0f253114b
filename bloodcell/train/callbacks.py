"""What happens around a run: the history of its epochs, its first batch, what to do when it stops."""

import csv
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torchvision.utils import make_grid

from bloodcell.data.datamodule import Batch
from bloodcell.report.history import FILE_NAME, Epoch, read_history


class History(Callback):
    """Writes a line to `metrics.csv` after each epoch, and the images per second to the logger.

    A resumed run goes on below the epochs it keeps.
    """

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock of the epoch and of its training part."""
        self._start = self._trained = time.perf_counter()
        self._images = 0

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
        self._trained = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the line."""
        speed = self._images / (self._trained - self._start)
        pl_module.log("images_per_second", speed, rank_zero_only=True)
        if trainer.fast_dev_run or not trainer.is_global_zero or not trainer.log_dir:
            return
        values = {key: float(value) for key, value in trainer.callback_metrics.items()}
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
        self._write(Path(trainer.log_dir) / FILE_NAME, epoch)

    def _write(self, path: Path, epoch: Epoch) -> None:
        kept = [line for line in read_history(path) if line.epoch < epoch.epoch]
        partial = path.with_suffix(".partial")
        with partial.open("w", newline="") as file:
            lines = csv.writer(file)
            lines.writerow(Epoch._fields)
            lines.writerows([*kept, epoch])
        partial.replace(path)


class FirstBatch(Callback):
    """Shows TensorBoard the first training batch, as the network sees it."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Draws the grid once."""
        if trainer.global_step == 0 and isinstance(trainer.logger, TensorBoardLogger):
            grid = make_grid(batch["image"].cpu(), nrow=8)
            trainer.logger.experiment.add_image("train/first_batch", grid, 0)


class HowToGoOn(Callback):
    """Says how to resume when a run is stopped.

    Args:
        command: what to type.
    """

    def __init__(self, command: str) -> None:
        self.command = command

    @rank_zero_only
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Prints the command if there is a checkpoint to go on from."""
        if not trainer.fast_dev_run and trainer.log_dir:
            last = Path(trainer.log_dir) / "checkpoints" / "last.ckpt"
            if last.is_file():
                print(f"\nStopped in epoch {trainer.current_epoch}. To go on: {self.command}")
            else:
                print("\nStopped before the end of the first epoch: there is nothing to resume.")
