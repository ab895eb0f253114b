"""Detects a loss or weights that are NaN or infinite, and reports the images of the batch."""

import os
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from bloodcell.data.batches import Batch
from bloodcell.errors import InputError, listed
from bloodcell.text import command
from bloodcell.train.optimizers import FULL_RATE
from bloodcell.train.runs import data_of, last_of
from bloodcell.train.task import Classifier

EVERY = 64  # batches between checks, because reading a value from a GPU blocks the host
_RATES = ("lr", "initial_lr", FULL_RATE)  # keys of parameter groups that a rollback halves
_NEVER = torch.iinfo(torch.int64).max


class Finite(Callback):
    """Stops a run whose loss is NaN or infinite, or rolls it back to its last checkpoint.

    Args:
        rollbacks: maximum number of rollbacks; each halves the learning rate.
    """

    def __init__(self, rollbacks: int = 0) -> None:
        self._most, self._used = rollbacks, 0
        self._first = torch.tensor(_NEVER)  # first bad batch of this epoch, on the device

    def state_dict(self) -> dict[str, Any]:
        """Returns the number of rollbacks so far."""
        return {"used": self._used}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the number of rollbacks."""
        self._used = state_dict["used"]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Resets the record of the first bad batch."""
        self._first = torch.tensor(_NEVER, device=pl_module.device)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Records the first batch whose loss is NaN or infinite, and checks the record at times."""
        fine = torch.isfinite(outputs["loss"])
        self._first = torch.where(fine, _NEVER, batch_idx).minimum(self._first.to(fine.device))
        costs_nothing = pl_module.device.type == "cpu" and trainer.world_size == 1
        if costs_nothing or (batch_idx + 1) % EVERY == 0:
            self._mend(trainer, pl_module, self._wrong_loss(trainer))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks loss and weights before a validation."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.look(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks the validation loss before the best checkpoint is chosen.

        Raises:
            InputError: if it is NaN or infinite.
        """
        loss = trainer.callback_metrics.get("val/loss")
        if loss is not None and not torch.isfinite(loss):
            said = f"the validation loss is no finite number in {_epoch(trainer)}."
            raise InputError(f"{said} {_way_out(trainer)}")

    def look(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks loss and weights, and rolls the run back if they are not finite.

        Raises:
            InputError: if they are not finite and no rollback is possible.
        """
        self._mend(trainer, pl_module, self._wrong_loss(trainer) or _wrong_weight(trainer))

    def _mend(self, trainer: Trainer, pl_module: LightningModule, said: str) -> None:
        if not said:
            return
        if self._used >= self._most or not _roll_back(trainer, pl_module):
            raise InputError(f"{said} {_way_out(trainer)}")
        self._used += 1
        self.on_train_epoch_start(trainer, pl_module)
        trainer.print(f"{said} Back to the last checkpoint, with model.lr={_lr(trainer):g}.")

    def _wrong_loss(self, trainer: Trainer) -> str:
        """Describes the first step whose loss is NaN or infinite; empty if there is none."""
        first = int(trainer.strategy.reduce(self._first, reduce_op="min"))
        if first == _NEVER:
            return ""
        names = listed(data_of(trainer).batch_files(trainer.current_epoch, first), 4)
        step = f"step {first + 1} of {_epoch(trainer)}"
        return f"the loss is no finite number in {step}, of {names}."


def _wrong_weight(trainer: Trainer) -> str:
    network = trainer.lightning_module
    values = (*network.parameters(), *network.buffers())
    wrong = not all(bool(torch.isfinite(one).all()) for one in values)
    if not trainer.strategy.reduce_boolean_decision(wrong, all=False):  # same on all ranks
        return ""
    return f"a weight of the network is no finite number in {_epoch(trainer)}."


def _epoch(trainer: Trainer) -> str:
    return f"epoch {trainer.current_epoch + 1}, with model.lr={_lr(trainer):g}"


def _lr(trainer: Trainer) -> float:
    return float(trainer.optimizers[0].param_groups[0]["lr"])


def _way_out(trainer: Trainer) -> str:
    last = last_of(trainer)
    anew = "Start anew with a lower --model.lr"
    if not last or not last.is_file():
        return f"{anew}: there is no checkpoint to go back to."
    words = command("bloodcell", "fit", "--ckpt_path", os.path.relpath(last.parents[1]))
    return f"{anew}, or halve it from the last checkpoint on: {words} --rollbacks 3"


def _roll_back(trainer: Trainer, pl_module: LightningModule) -> bool:
    """Restores weights and optimizer from the last checkpoint; returns False if there is none.

    Training continues with the next batch and does not repeat the batches since the checkpoint,
    because they led to the failure.
    """
    path = last_of(trainer)
    if path is None or not path.is_file():
        return False
    checkpoint = torch.load(path, map_location=pl_module.device, weights_only=True)
    pl_module.load_state_dict(checkpoint["state_dict"])
    for optimizer, state in zip(trainer.optimizers, checkpoint["optimizer_states"], strict=True):
        # halves the current rates: the checkpoint may be older than the last rollback
        halved = [
            {key: group[key] / 2 for key in _RATES if key in group}
            for group in optimizer.param_groups
        ]
        optimizer.load_state_dict(state)
        optimizer.zero_grad(set_to_none=True)  # discards accumulated gradients
        for group, rates in zip(optimizer.param_groups, halved, strict=True):
            group.update(rates)
    for config in trainer.lr_scheduler_configs:
        scheduler: Any = config.scheduler
        if hasattr(scheduler, "base_lrs"):  # ReduceLROnPlateau has none
            scheduler.base_lrs = [rate / 2 for rate in scheduler.base_lrs]
    assert isinstance(pl_module, Classifier)
    for one in pl_module.train_metrics.sums():
        one.zero_()
    return True
