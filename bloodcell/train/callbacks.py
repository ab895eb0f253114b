"""What happens around a run: its history, its first batch, how to go on when it stops."""

import csv
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torchvision.utils import make_grid

from bloodcell.data.batches import Batch
from bloodcell.errors import InputError
from bloodcell.report.history import FILE_NAME, Epoch, read_history
from bloodcell.report.summary import command
from bloodcell.report.whole import write_whole


class History(Callback):
    """Writes a line to `metrics.csv` after each epoch, and the images per second to the logger.

    A resumed run goes on below the epochs it keeps. A loss that is no number stops the run, before
    the checkpoints of the epochs before are replaced.
    """

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock of the epoch and of its training part."""
        self._start = self._trained = time.perf_counter()
        self._images = 0
        self._validated = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes that the epoch has validation metrics of its own."""
        self._validated = True

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
        pl_module.log("images_per_second", speed, rank_zero_only=True)
        folder = _run_folder(trainer)
        values = {key: float(value) for key, value in trainer.callback_metrics.items()}
        if folder is not None and trainer.is_global_zero:
            self._report(trainer, folder, values, speed)
        losses = [values["train/loss"], values["val/loss"] if self._validated else 0.0]
        if not all(map(math.isfinite, losses)):
            raise InputError(
                f"the loss is no finite number in epoch {trainer.current_epoch + 1}, with "
                f"model.lr={trainer.optimizers[0].param_groups[0]['lr']:g}. Use a lower "
                "--model.lr; the checkpoints of the epochs before are kept."
            )

    def _report(
        self, trainer: Trainer, folder: Path, values: dict[str, float], speed: float
    ) -> None:
        if not self._validated:
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


class Keep(ModelCheckpoint):
    """Keeps one checkpoint, written at the end of an epoch, after its line in the history.

    Lightning's `save_last` would not do: it saves nothing in an epoch that is not the best.

    Args:
        name: the file's name, less `.ckpt`.
        monitor: what must be lower than before for the file to be replaced; None: each epoch does.
    """

    def __init__(self, name: str, monitor: str | None = None) -> None:
        super().__init__(
            filename=name,
            monitor=monitor,
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


class FirstBatch(Callback):
    """Shows TensorBoard the first training batch, as the network sees it."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Draws the grid once."""
        if trainer.global_step == batch_idx == 0 and isinstance(trainer.logger, TensorBoardLogger):
            grid = make_grid(batch["image"].cpu().byte(), nrow=8)
            trainer.logger.experiment.add_image("train/first_batch", grid, 0)


class HowToGoOn(Callback):
    """Says how to resume when a run is stopped."""

    @rank_zero_only
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Prints what to type if there is a checkpoint to go on from."""
        folder = _run_folder(trainer)
        if folder is not None and (folder / "checkpoints" / "last.ckpt").is_file():
            words = command("bloodcell", "fit", "--ckpt_path", os.path.relpath(folder))
            when = "the test" if trainer.testing else f"epoch {trainer.current_epoch + 1}"
            print(f"\nStopped in {when}. To go on:\n  {words}")
        elif folder is not None:
            print("\nStopped before the end of the first epoch: there is nothing to resume.")


def _run_folder(trainer: Trainer) -> Path | None:
    """The run folder, if there is one: a dry run or a run without a logger has none."""
    logger = trainer.logger
    return Path(logger.log_dir) if isinstance(logger, TensorBoardLogger) else None
