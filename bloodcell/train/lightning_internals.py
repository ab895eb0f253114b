"""All private names of Lightning that this package uses."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import RichProgressBar


class NumberedBar(RichProgressBar):
    """Numbers epochs from 1, as `metrics.csv` and the printed lines do; Lightning starts with 0."""

    def _get_train_description(self, current_epoch: int) -> str:
        text = f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}"
        return text.ljust(len(self.validation_description))  # the bar keeps its place


def skip_sigterm_broadcast(trainer: Trainer) -> None:
    """Stops Lightning from asking all devices before each step whether SIGTERM has arrived.

    The host waits for the answer, and so for the device. `StopGently` asks every few steps.
    """
    loop: Any = trainer.fit_loop.epoch_loop
    loop._broadcast_sigterm_tensor = lambda: None


def count_epochs(trainer: Trainer) -> None:
    """Lets a run with `max_steps` be resumed like one without.

    Lightning would begin with the end of the last finished epoch, without its batches.
    """
    loop: Any = trainer.fit_loop
    loop._iteration_based_training = lambda: False
