"""Stops a run after Ctrl-C, SIGTERM or SLURM's SIGUSR1 at a step where it can be resumed."""

import contextlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from bloodcell.data.batches import Batch
from bloodcell.train.lightning_internals import count_epochs, skip_sigterm_broadcast

_SIGNALS = [signal.SIGINT, signal.SIGTERM]
if hasattr(signal, "SIGUSR1"):  # not on Windows
    _SIGNALS.append(signal.SIGUSR1)
_AGREE_EVERY = 16  # batches, at least, between checks whether all devices should stop
_MESSAGE = "\nstopping after this step or validation; press Ctrl-C again to stop at once\n"


def between_steps(trainer: Trainer, batches: int) -> bool:
    """Returns whether another training step follows, so that a checkpoint may be written.

    False if the epoch ends, a validation is due, or gradients are still being accumulated.
    `batches` is the number of finished batches of this epoch, in `on_train_batch_end`.
    """
    accumulates = batches % trainer.accumulate_grad_batches != 0
    every: float | None = trainer.val_check_batch
    if trainer.check_val_every_n_epoch is None:  # Lightning then counts batches across epochs
        batches = trainer.fit_loop.total_batch_idx + 1
    validates = every is None or batches % every == 0  # None: validation is due by time
    return not (trainer.is_last_batch or validates or accumulates)


class Interval:
    """Says when at least `every` batches have passed, at the same batches on all devices.

    A multiple of `every` would not do: a validation may be due at each of them.

    Args:
        every: number of batches.
    """

    def __init__(self, every: int) -> None:
        self._every, self._last = every, 0

    def passed(self, batches: int) -> bool:
        """Returns whether it has passed since this last returned True, or the epoch began.

        Args:
            batches: number of finished batches of the epoch.
        """
        if batches < self._last:  # a new epoch
            self._last = 0
        passed = batches - self._last >= self._every
        if passed:
            self._last = batches
        return passed


class StopGently(Callback):
    """Stops training between two steps after a signal; a second Ctrl-C stops it at once.

    Lightning's own handlers stop at an arbitrary line (Ctrl-C), or can deadlock several processes
    (SIGTERM, which the handler forwards to them).

    The decision is made at the end of a batch or an epoch, and `KeepLast` then writes a checkpoint.
    The exception is raised at the next hook, after the hooks of all callbacks have run.

    Attributes:
        signal: the received signal; None if there was none.
        stops: whether all devices have agreed to stop.
        trained: whether training has ended, so that only the test is missing.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.stops = self.trained = False
        self._before: dict[signal.Signals, Any] = {}
        self._trains = self._leader = False
        self._interval = Interval(_AGREE_EVERY)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prepares Lightning's loops before they are restored from a checkpoint."""
        count_epochs(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Installs the handlers."""
        skip_sigterm_broadcast(trainer)
        self._trains, self._leader = True, trainer.is_global_zero
        self.trained = False
        self._listen()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Installs the handlers; a test may stop anywhere, because resuming repeats it."""
        self._listen()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Decides whether to stop after this step, unless a validation is due."""
        batches = batch_idx + 1
        if between_steps(trainer, batches) and (
            trainer.world_size == 1 or self._interval.passed(batches)
        ):
            self._decide(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decides whether to stop after this epoch."""
        self._decide(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raises SIGTERMException if the run is to stop."""
        self._stop()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Raises SIGTERMException if the run is to stop."""
        self._stop()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restores the handlers; raises SIGTERMException if the run is to stop before its test."""
        self._trains, self.trained = False, True
        self._restore()
        self._decide(trainer)
        self._stop()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restores the handlers."""
        self._restore()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Restores the handlers."""
        self._restore()

    def _decide(self, trainer: Trainer) -> None:
        received = self.signal is not None
        self.stops |= trainer.strategy.reduce_boolean_decision(received, all=False)

    def _stop(self) -> None:
        if self.stops:
            raise SIGTERMException

    def _listen(self) -> None:
        self.signal, self.stops = None, False  # forgets an earlier run of the same Trainer
        if self._before or threading.current_thread() is not threading.main_thread():
            return
        for number in _SIGNALS:
            # a shell makes background processes ignore Ctrl-C, which must not change
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _note(self, number: int, _: FrameType | None) -> None:
        again, self.signal = self.signal is not None, signal.Signals(number)
        if not self._trains and number != signal.SIGINT:
            raise SIGTERMException
        if number == signal.SIGINT and (again or not self._trains):
            raise KeyboardInterrupt
        if self._leader and not again and sys.__stderr__:
            with contextlib.suppress(OSError):  # print is not reentrant
                os.write(sys.__stderr__.fileno(), _MESSAGE.encode())
