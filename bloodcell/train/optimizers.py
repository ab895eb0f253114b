"""The optimizer, its learning rate schedule, and the checks of the model's settings."""

import math
from collections.abc import Iterable
from typing import Any, Literal, cast

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LRSchedulerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from bloodcell.errors import require, require_number

Schedule = Literal["constant", "cosine"]
FULL_RATE = "full_rate"  # key in the optimizer's groups: the learning rate before the schedule
DEFAULT_LR = 1e-5
_WARM_UP = 0.1  # share of all steps
_WATCHED = "val/loss"  # default metric of ReduceLROnPlateau


def rate_share(step: int, steps: float) -> float:
    """Returns the share of the full learning rate at a step: linear warm-up times a cosine.

    The cosine is that of Loshchilov and Hutter, "SGDR" (ICLR 2017), without restarts.

    Args:
        step: number of the step, from 0.
        steps: number of steps of the whole run.
    """
    done = step / steps
    return min(1.0, (step + 1) / (_WARM_UP * steps)) * (1 + math.cos(math.pi * done)) / 2


def follow_schedule(trainer: Trainer) -> None:
    """Sets the learning rate of the next step according to the cosine schedule."""
    share = rate_share(trainer.global_step, float(trainer.estimated_stepping_batches))
    for group in trainer.optimizers[0].param_groups:
        group["lr"] = group[FULL_RATE] * share


def build_adam(
    parameters: Iterable[nn.Parameter], lr: float, weight_decay: float, fused: bool
) -> Optimizer:
    """Returns Adam with Keras' epsilon and decoupled weight decay (Loshchilov and Hutter, 2019)."""
    return Adam(
        parameters,
        lr,
        eps=1e-7,
        weight_decay=weight_decay,
        decoupled_weight_decay=True,
        fused=fused,
    )


def prepare_optimizer(optimizer: Optimizer) -> Optimizer:
    """Stores the full learning rate in each group, and allows loading of older states."""
    for group in optimizer.param_groups:
        group[FULL_RATE] = group["lr"]
    optimizer.register_load_state_dict_pre_hook(_complete_state)
    return optimizer


def with_scheduler(
    optimizer: Optimizer, make_scheduler: LRSchedulerCallable | None
) -> OptimizerLRScheduler:
    """Returns the optimizer and its scheduler, if any, in the form that Lightning expects."""
    if not make_scheduler:
        return optimizer
    scheduler: Any = make_scheduler(optimizer)
    monitor = getattr(scheduler, "monitor", _WATCHED)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": monitor}}


def step_plateaus(trainer: Trainer) -> None:
    """Steps the schedulers that depend on a metric, such as ReduceLROnPlateau."""
    for config in trainer.lr_scheduler_configs:
        metric = trainer.callback_metrics.get(str(config.monitor))
        if config.reduce_on_plateau and metric is not None:
            cast(ReduceLROnPlateau, config.scheduler).step(float(metric))


def check_settings(hp: Any) -> None:
    """Checks the model's settings.

    Raises:
        InputError: if a value is out of range, or a given optimizer or scheduler overrides it.
    """
    for name in ("dropout", "lr", "weight_decay", "smoothing"):
        require_number(f"model.{name}", hp[name], "a number, e.g. 0.1")
    within = 0 <= hp["dropout"] < 1
    require(within, "model.dropout", hp["dropout"], "0 or more and less than 1, e.g. 0.5")
    widths, lr = hp["hidden"], hp["lr"]
    require(min(widths, default=1) > 0, "model.hidden", widths, "widths over 0, e.g. [8, 8]")
    require(lr > 0, "model.lr", lr, "over 0, e.g. 1e-4")
    decay, smoothing, momentum = hp["weight_decay"], hp["smoothing"], hp["bn_momentum"]
    require(0 <= decay < 1, "model.weight_decay", decay, "0 to under 1, e.g. 0.02")
    require(0 <= smoothing < 1, "model.smoothing", smoothing, "0 to under 1, e.g. 0.1")
    rule = "over 0 to 1, e.g. 0.1, or null"
    require(momentum is None or 0 < momentum <= 1, "model.bn_momentum", momentum, rule)
    rule = "{} with an optimizer of your own, which has its own: give model.optimizer.{}"
    own = hp["optimizer"] is not None
    require(not own or lr == DEFAULT_LR, "model.lr", lr, rule.format(DEFAULT_LR, "lr"))
    require(not own or decay == 0, "model.weight_decay", decay, rule.format(0, "weight_decay"))
    rule = "constant with model.scheduler, which takes its place: leave one of them out"
    free = hp["scheduler"] is None or hp["schedule"] == "constant"
    require(free, "model.schedule", hp["schedule"], rule)


def drop_callables(hp: Any) -> None:
    """Removes functions from the settings, because a checkpoint cannot store them."""
    for name in ("optimizer", "scheduler"):
        if callable(hp[name]):
            hp[name] = None


def _complete_state(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Adds keys that old checkpoints lack, and keeps the current `fused`, before loading."""
    for now, group in zip(optimizer.param_groups, state["param_groups"], strict=True):
        group.setdefault(FULL_RATE, now[FULL_RATE])
        if type(optimizer) is Adam:
            group["fused"] = now["fused"]
