"""Detects a loss or weights that are NaN or infinite, and reports the images of the batch."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from bloodcell.data.batches import Batch
from bloodcell.errors import InputError, listed
from bloodcell.text import command, near
from bloodcell.train.optimizers import change_rates
from bloodcell.train.runs import data_of, last_of
from bloodcell.train.task import Classifier

EVERY = 64  # batches between checks, because reading a value from a GPU blocks the host
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
        """Records the first batch whose loss is NaN or infinite; checks it every few batches."""
        fine = torch.isfinite(outputs["loss"])
        self._first = torch.where(fine, _NEVER, batch_idx).minimum(self._first.to(fine.device))
        costs_nothing = pl_module.device.type == "cpu" and trainer.world_size == 1
        if costs_nothing or (batch_idx + 1) % EVERY == 0:
            self._recover(trainer, pl_module, self._wrong_loss(trainer))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks loss and weights before a validation."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.look(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks the validation loss, before the best checkpoint is chosen.

        Raises:
            InputError: if it is NaN or infinite and no rollback is possible.
        """
        loss = trainer.callback_metrics.get("val/loss")
        if loss is not None and not trainer.sanity_checking and not torch.isfinite(loss):
            problem = f"the validation loss is NaN or infinite in {_epoch(trainer)}."
            self._recover(trainer, pl_module, problem)

    def look(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks loss and weights, and rolls the run back if they are not finite.

        Raises:
            InputError: if they are not finite and no rollback is possible.
        """
        self._recover(trainer, pl_module, self._wrong_loss(trainer) or _wrong_weight(trainer))

    def _recover(self, trainer: Trainer, pl_module: LightningModule, problem: str) -> None:
        if not problem:
            return
        if self._used >= self._most or not _roll_back(trainer, pl_module):
            raise InputError(f"{problem} {_way_out(trainer)}")
        self._used += 1
        self.on_train_epoch_start(trainer, pl_module)
        trainer.print(f"{problem} Restored the last checkpoint, with model.lr={_lr(trainer):g}.")

    def _wrong_loss(self, trainer: Trainer) -> str:
        """Describes the first step whose loss is NaN or infinite; empty if there is none."""
        first = int(trainer.strategy.reduce(self._first, reduce_op="min"))
        if first == _NEVER:
            return ""
        names = listed(data_of(trainer).batch_files(trainer.current_epoch, first), 4)
        step = f"step {first + 1} of {_epoch(trainer)}"
        return f"the loss is NaN or infinite in {step} (images: {names})."


def _wrong_weight(trainer: Trainer) -> str:
    network = trainer.lightning_module
    values = (*network.parameters(), *network.buffers())
    wrong = not all(bool(torch.isfinite(one).all()) for one in values)
    if not trainer.strategy.reduce_boolean_decision(wrong, all=False):  # same on all ranks
        return ""
    return f"a weight of the network is NaN or infinite in {_epoch(trainer)}."


def _epoch(trainer: Trainer) -> str:
    return f"epoch {trainer.current_epoch + 1}, with model.lr={_lr(trainer):g}"


def _lr(trainer: Trainer) -> float:
    return float(trainer.optimizers[0].param_groups[0]["lr"])


def _way_out(trainer: Trainer) -> str:
    last = last_of(trainer)
    own = trainer.lightning_module.hparams.get("optimizer")
    setting = "--model.optimizer.lr" if own else "--model.lr"
    if not last or not last.is_file():
        return f"Start a new run with a lower {setting}: there is no checkpoint to resume."
    if own:  # the parser needs the class before its options
        setting = f"--model.optimizer {own['class_path']} {setting}"
    words = command("bloodcell", "fit", "--ckpt_path", near(last.parents[1]))
    half = trainer.optimizers[0].defaults["lr"] / 2
    return (
        f"Resume from the last checkpoint with a lower rate, e.g. {words} {setting} {half:g}, or "
        f"with a rate that is halved whenever this happens: {words} --rollbacks 3"
    )


def _roll_back(trainer: Trainer, pl_module: LightningModule) -> bool:
    """Restores weights and optimizer from the last checkpoint; returns False if there is none.

    Training continues with the next batch and does not repeat the batches since the checkpoint,
    because they led to the failure.
    """
    path, checkpoint = last_of(trainer), None
    if trainer.is_global_zero and path and path.is_file():
        # on the CPU, where optimizers keep their step counts; loading copies the rest to the device
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    checkpoint = trainer.strategy.broadcast(checkpoint)  # other nodes may not have the file
    if checkpoint is None:
        return False
    pl_module.load_state_dict(checkpoint["state_dict"])
    for optimizer, state in zip(trainer.optimizers, checkpoint["optimizer_states"], strict=True):
        # keeps the options: the scheduler is not rolled back, and old rates may be in the file
        options = [
            {key: value for key, value in group.items() if key != "params"}
            for group in optimizer.param_groups
        ]
        optimizer.load_state_dict(state)
        optimizer.zero_grad(set_to_none=True)  # discards accumulated gradients
        for group, now in zip(optimizer.param_groups, options, strict=True):
            group.update(now)
        change_rates(optimizer.param_groups, 0.5)
    assert isinstance(pl_module, Classifier)
    sums = pl_module.train_metrics.sums()
    if not all(one.isfinite() for one in sums):
        for one in sums:
            one.zero_()
    return True
