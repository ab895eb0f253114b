"""Losses and weights that are no numbers: noticed, and told with the images that were seen."""

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

EVERY = 64  # batches: reading a number from a GPU makes the host wait for it
_RATES = ("lr", "initial_lr", FULL_RATE)  # in an optimizer's groups: halved by a rollback
_NEVER = torch.iinfo(torch.int64).max


class Finite(Callback):
    """Stops a run whose loss is no finite number, or takes it back to its last checkpoint.

    Args:
        rollbacks: how often it may be taken back, each time with half the learning rate.
    """

    def __init__(self, rollbacks: int = 0) -> None:
        self._most, self._used = rollbacks, 0
        self._first = torch.tensor(_NEVER)  # batch of this epoch; it stays on the device

    def state_dict(self) -> dict[str, Any]:
        """How often the run was taken back."""
        return {"used": self._used}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes it up."""
        self._used = state_dict["used"]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins anew: nothing was wrong."""
        self._first = torch.tensor(_NEVER, device=pl_module.device)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Notes the first batch whose loss is no number; looks at the note now and then."""
        fine = torch.isfinite(outputs["loss"])
        self._first = torch.where(fine, _NEVER, batch_idx).minimum(self._first.to(fine.device))
        costs_nothing = pl_module.device.type == "cpu" and trainer.world_size == 1
        if costs_nothing or (batch_idx + 1) % EVERY == 0:
            self._mend(trainer, pl_module, self._wrong_loss(trainer))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks before time is spent on a validation."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.look(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes sure that the validation loss is a number, before the best checkpoint is chosen.

        Raises:
            InputError: if it is none.
        """
        loss = trainer.callback_metrics.get("val/loss")
        if loss is not None and not torch.isfinite(loss):
            said = f"the validation loss is no finite number in {_epoch(trainer)}."
            raise InputError(f"{said} {_way_out(trainer)}")

    def look(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes sure that loss and weights are finite, or takes the run back.

        Raises:
            InputError: if they are not, and it cannot be taken back.
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
        """Which step's loss is no number; nothing if all is well."""
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
    if not trainer.strategy.reduce_boolean_decision(wrong, all=False):  # one answer for all ranks
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
    """Takes weights and optimizer back to the last checkpoint; False if there is none.

    The run goes on with the next batch, not with that of the checkpoint: those in between did
    harm once.
    """
    path = last_of(trainer)
    if path is None or not path.is_file():
        return False
    checkpoint = torch.load(path, map_location=pl_module.device, weights_only=True)
    pl_module.load_state_dict(checkpoint["state_dict"])
    for optimizer, state in zip(trainer.optimizers, checkpoint["optimizer_states"], strict=True):
        # of what is used now: a checkpoint may be older than the last rollback
        halved = [
            {key: group[key] / 2 for key in _RATES if key in group}
            for group in optimizer.param_groups
        ]
        optimizer.load_state_dict(state)
        optimizer.zero_grad(set_to_none=True)  # of the batches before, which are added up
        for group, rates in zip(optimizer.param_groups, halved, strict=True):
            group.update(rates)
    for config in trainer.lr_scheduler_configs:
        scheduler: Any = config.scheduler
        if hasattr(scheduler, "base_lrs"):  # one that watches a metric has none
            scheduler.base_lrs = [rate / 2 for rate in scheduler.base_lrs]
    assert isinstance(pl_module, Classifier)
    for one in pl_module.train_metrics.sums():
        one.zero_()
    return True
