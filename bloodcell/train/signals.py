"""Ctrl-C, SIGTERM and SLURM's signal: a run ends where it can go on."""

import contextlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import (
    SIGTERMException,
)

from bloodcell.data.batches import Batch

_SIGNALS = [signal.SIGINT, signal.SIGTERM]
if hasattr(signal, "SIGUSR1"):  # not on Windows
    _SIGNALS.append(signal.SIGUSR1)
_AGREE_EVERY = 16  # batches: several devices must stop at the same one
_SAYS = "\nstopping after this step, or this validation; Ctrl-C once more stops at once\n"


def between_steps(trainer: Trainer, batches: int) -> bool:
    """Whether the next thing after so many batches of an epoch is another step.

    Not if a validation is due, the epoch ends, or gradients are still being added up.

    Args:
        trainer: that trains.
        batches: that it has done in this epoch.
    """
    every: float | None = trainer.val_check_batch
    if trainer.check_val_every_n_epoch is None:  # then batches are counted across epochs
        batches = trainer.fit_loop.total_batch_idx + 1
    validates = every is None or batches % every == 0  # None: by the clock, so it may
    return not (trainer.is_last_batch or validates or trainer.fit_loop._should_accumulate())


class StopGently(Callback):
    """Ends training between two steps when a signal asks for it; the second Ctrl-C ends it at once.

    Lightning's own handlers stop at an arbitrary place (Ctrl-C), or let processes wait for each
    other (SIGTERM, of which it tells them from within the handler).

    Attributes:
        signal: what asked; None if nothing did.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._trains = self._leader = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens to the signals."""
        self._trains, self._leader = True, trainer.is_global_zero
        self._listen()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens: a test can be stopped anywhere, as it is done again."""
        self._listen()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Lets the run end after this step, on all devices; after a validation if one is due."""
        batches = batch_idx + 1
        agreed = trainer.world_size == 1 or batches % _AGREE_EVERY == 0
        if agreed and between_steps(trainer, batches):
            self._end(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lets the run end after this epoch, on all devices."""
        self._end(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gives the signals back."""
        self._trains = False
        self._give_back()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gives the signals back."""
        self._give_back()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Gives the signals back."""
        self._give_back()

    def _end(self, trainer: Trainer) -> None:
        asked = trainer.strategy.reduce_boolean_decision(self.signal is not None, all=False)
        if asked:  # Lightning ends the loop between two steps
            trainer._signal_connector.received_sigterm = True

    def _listen(self) -> None:
        if self._before or threading.current_thread() is not threading.main_thread():
            return
        for number in _SIGNALS:
            # a process in the background is told to ignore Ctrl-C, which is for the one before it
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _note(self, number: int, _: FrameType | None) -> None:
        again, self.signal = self.signal is not None, signal.Signals(number)
        if not self._trains and number != signal.SIGINT:
            raise SIGTERMException
        if number == signal.SIGINT and (again or not self._trains):
            raise KeyboardInterrupt
        if self._leader and not again:
            with contextlib.suppress(OSError):  # not print: the signal may have come within one
                os.write(sys.__stderr__.fileno(), _SAYS.encode())  # type: ignore[union-attr]
