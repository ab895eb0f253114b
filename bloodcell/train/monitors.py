"""Checks, before training, the names of the metrics that callbacks and schedulers watch."""

import difflib
from collections.abc import Iterator
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from bloodcell.errors import InputError, listed
from bloodcell.train.by_dataset import val_names
from bloodcell.train.checkpoints import KeepBest
from bloodcell.train.optimizers import follows_metric
from bloodcell.train.task import Classifier


class CheckMonitors(Callback):
    """Refuses metrics that nothing logs; Lightning rejects them only after an epoch."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks every name.

        Raises:
            InputError: if a metric is not logged; the message suggests the most similar one.
        """
        assert isinstance(pl_module, Classifier)
        scores = pl_module.val_metrics
        names = [f"val/{name}" for name in (*scores.means, *scores.scores)]
        names += [f"train/{name}" for name in pl_module.train_metrics.means]
        names += val_names(vars(trainer).get("datamodule"))
        others = any(_may_log(one) for one in (*_callbacks(trainer), pl_module))
        for setting, monitor in _monitors(trainer):
            misspelt = monitor.replace("_", "/", 1) in names
            if monitor in names or (others and not misspelt):
                continue
            near = difflib.get_close_matches(monitor, names, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise InputError(
                f"{setting}={monitor} cannot be used: it must be the name of a logged metric "
                f"({listed(names, 20)}).{hint}"
            )


def _monitors(trainer: Trainer) -> Iterator[tuple[str, str]]:
    """Yields each setting that names a metric, and the name."""
    for one in _callbacks(trainer):
        monitor = getattr(one, "monitor", None)
        if isinstance(monitor, str):
            own = isinstance(one, KeepBest)
            yield "--monitor" if own else f"{type(one).__name__}.monitor", monitor
    for config in trainer.lr_scheduler_configs:
        if follows_metric(config.scheduler):
            yield "model.scheduler.monitor", str(config.monitor)


def _callbacks(trainer: Trainer) -> list[Any]:
    found: list[Any] = vars(trainer)["callbacks"]  # Lightning declares no type for it
    return found


def _may_log(one: object) -> bool:
    """Returns whether code of the user may log further metrics."""
    return type(one).__module__.partition(".")[0] not in ("bloodcell", "lightning")
