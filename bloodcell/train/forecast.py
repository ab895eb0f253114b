"""Estimates, near the start of a run, how long it will take."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from bloodcell.data.batches import Batch
from bloodcell.text import clock

_SKIPPED = 5  # batches: compilation and memory allocation slow the first ones down
_TIMED = 20
_SHORT = 60  # seconds; shorter estimates are not printed
_VALIDATION = 1 / 3  # time of a validation batch relative to a training batch: no backward pass


class Forecast(Callback):
    """Times a few batches, and prints the estimated time of the remaining ones."""

    def __init__(self) -> None:
        self._batches = 0
        self._start = 0.0
        self._printed = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restarts the measurement, because a validation interrupted it."""
        self._batches = 0

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Starts the timer, or reads it and prints the estimate."""
        self._batches += 1  # since the start or the last validation
        if self._batches == _SKIPPED:
            self._start = time.perf_counter()
        elif self._batches == _SKIPPED + _TIMED and not self._printed:
            self._printed = True
            each = (time.perf_counter() - self._start) / _TIMED
            seconds = each * batches_left(trainer, batch_idx + 1)
            if seconds > _SHORT:
                sooner = "; early stopping may end it sooner" * bool(
                    trainer.early_stopping_callback
                )
                trainer.print(
                    f"about {clock(seconds)} left, {each * 1e3:,.0f} ms per batch{sooner}"
                )


def batches_left(trainer: Trainer, done: int) -> float:
    """Returns the remaining work in training batches, including the validations.

    Args:
        trainer: the trainer, during training.
        done: number of batches of this epoch that are done.

    Returns:
        The number of batches; 0 if the run has no end.
    """
    epochs, steps = trainer.max_epochs, trainer.max_steps
    each = float(trainer.num_training_batches)
    left = each * (epochs - trainer.current_epoch) - done if epochs and epochs > 0 else float("inf")
    if steps > 0:
        left = min(left, (steps - trainer.global_step) * trainer.accumulate_grad_batches)
    if left == float("inf"):
        return 0.0
    validation = sum(float(n) for n in trainer.num_val_batches) * _VALIDATION
    return left + validation * left / each
