"""The optimizer, its learning rate schedule, and the checks of the model's settings."""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, cast

import torch
from lightning.pytorch import Trainer, cli
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from bloodcell.data.decode import check_image_size
from bloodcell.errors import InputError, require, require_number

Schedule = Literal["constant", "cosine"]
# keys in the optimizer's groups: the learning rate without `model.schedule`, and the factor by
# which rollbacks and resumed runs scale it
FULL_RATE, FACTOR = "full_rate", "rate_factor"
DEFAULT_LR = 1e-5
# modules of the classes that a checkpoint may name
_MODULES = {one.__name__: one for one in (torch.optim, torch.optim.lr_scheduler, cli)}
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


def follow_schedule(trainer: Trainer, batch_idx: int) -> None:
    """Sets the learning rate of the next step according to the cosine schedule.

    Unless `max_steps` ends the run, steps are counted by epochs: a resumed run may have other
    batches.
    """
    step, steps = trainer.global_step, float(trainer.estimated_stepping_batches)
    if trainer.max_steps < 0 or steps < trainer.max_steps:
        assert trainer.max_epochs is not None
        per_epoch = steps / trainer.max_epochs
        done = trainer.current_epoch * per_epoch + batch_idx // trainer.accumulate_grad_batches
        step = min(round(done), round(steps))
    share = rate_share(step, steps)
    for group in trainer.optimizers[0].param_groups:
        group["lr"] = group[FULL_RATE] * share * group[FACTOR]


def change_rates(groups: Iterable[dict[str, Any]], factor: float) -> None:
    """Multiplies the learning rates of parameter groups, now and after each step of a schedule."""
    for group in groups:
        group["lr"] = group["lr"] * factor
        group[FACTOR] = group.get(FACTOR, 1.0) * factor


@contextmanager
def nominal_rates(optimizer: Optimizer) -> Iterator[None]:
    """Removes the rate factor while a scheduler steps: some set the rate, others multiply it."""
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] / group.get(FACTOR, 1.0)
    yield
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * group.get(FACTOR, 1.0)


def keep_rate(checkpoint: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Changes the rates in a checkpoint if the resumed run has another learning rate.

    Args:
        checkpoint: the checkpoint, before its optimizers are restored.
        settings: model settings of the resumed run.
    """
    then, now = checkpoint["hyper_parameters"], settings
    owns = [one.get("optimizer") for one in (then, now)]
    if any(owns):  # without a class path, the rate of a custom optimizer is unknown
        then, now = (own["init_args"] if own else {} for own in owns)
    if then.get("lr") and now.get("lr"):
        for state in checkpoint.get("optimizer_states", []):
            change_rates(state["param_groups"], now["lr"] / then["lr"])


def check_ends(trainer: Trainer, schedule: Schedule) -> None:
    """Raises InputError if the schedule needs a last step and the run has none."""
    rule = (
        "constant if the number of training steps is unknown. For cosine, set trainer.max_steps, "
        "or set trainer.max_epochs and train on data of a known length"
    )
    # -1 for data of unknown length
    ends = schedule == "constant" or 0 < trainer.estimated_stepping_batches < math.inf
    require(ends, "model.schedule", schedule, rule)


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
    """Stores the full rate and its factor in each group, and allows loading of older states."""
    for group in optimizer.param_groups:
        group |= {FULL_RATE: group["lr"], FACTOR: 1.0}
    optimizer.register_load_state_dict_pre_hook(_complete_state)
    return optimizer


def with_scheduler(optimizer: Optimizer, given: Any) -> OptimizerLRScheduler:
    """Returns the optimizer and its scheduler, if any, in the form that Lightning expects.

    Args:
        optimizer: the optimizer.
        given: as for `restored`.
    """
    make_scheduler = restored("scheduler", given)
    if not make_scheduler:
        return optimizer
    scheduler: Any = make_scheduler(optimizer)
    # Lightning would raise an error if the metric is missing, and step on an outdated value
    config: Any = {"scheduler": scheduler, "reduce_on_plateau": False}
    config["monitor"] = getattr(scheduler, "monitor", _WATCHED)
    return {"optimizer": optimizer, "lr_scheduler": config}


def restored(setting: str, given: Any) -> Callable[..., Any] | None:
    """Returns the function that builds the optimizer or the scheduler.

    Args:
        setting: `optimizer` or `scheduler`.
        given: the function, None, or its class path and options, as checkpoints contain them.

    Raises:
        InputError: if it is neither an optimizer nor a scheduler of torch.optim.
    """
    if not isinstance(given, Mapping):
        return cast(Callable[..., Any] | None, given)
    module, _, name = given["class_path"].rpartition(".")
    kind = getattr(_MODULES.get(module), name, None)
    if not isinstance(kind, type) or not issubclass(kind, Optimizer | LRScheduler):
        raise InputError(
            f"model.{setting}={given['class_path']} cannot be restored from a checkpoint. Give it "
            f"again: Classifier.load_from_checkpoint(..., {setting}=...)."
        )
    return partial(kind, **given.get("init_args", {}))


def follows_metric(scheduler: Any) -> bool:
    """Returns whether a scheduler depends on a metric, so that `step_plateaus` steps it."""
    return isinstance(scheduler, ReduceLROnPlateau)


def step_plateaus(trainer: Trainer) -> None:
    """Steps the schedulers that depend on a metric, such as ReduceLROnPlateau.

    An epoch without a validation is skipped: its validation metrics are those of an earlier one.
    """
    validated = trainer.fit_loop.epoch_loop.val_loop.batch_progress.total.completed > 0
    for config in trainer.lr_scheduler_configs:
        metric = trainer.callback_metrics.get(str(config.monitor))
        outdated = str(config.monitor).startswith("val/") and not validated
        if follows_metric(config.scheduler) and metric is not None and not outdated:
            scheduler = cast(ReduceLROnPlateau, config.scheduler)
            with nominal_rates(scheduler.optimizer):
                scheduler.step(float(metric))


def check_settings(hp: Any) -> None:
    """Checks the model's settings.

    Raises:
        InputError: if a value is out of range, or a given optimizer or scheduler overrides it.
    """
    for name in ("dropout", "lr", "weight_decay", "smoothing"):
        require_number(f"model.{name}", hp[name], "a number, e.g. 0.1")
    names, size = hp["class_names"], hp["image_size"]
    distinct = 2 <= len(set(names)) == len(names)
    require(distinct, "class_names", names, "two or more different names")
    check_image_size("image_size", size)
    within = 0 <= hp["dropout"] < 1
    require(within, "model.dropout", hp["dropout"], "0 or more and less than 1, e.g. 0.5")
    widths, lr = hp["hidden"], hp["lr"]
    require(min(widths, default=1) > 0, "model.hidden", widths, "widths over 0, e.g. [8, 8]")
    require(lr > 0, "model.lr", lr, "over 0, e.g. 1e-4")
    decay, smoothing, momentum = hp["weight_decay"], hp["smoothing"], hp["bn_momentum"]
    require(0 <= decay < 1, "model.weight_decay", decay, "0 to under 1, e.g. 0.02")
    require(0 <= smoothing < 1, "model.smoothing", smoothing, "0 to under 1, e.g. 0.1")
    rule = "greater than 0 and at most 1, e.g. 0.1, or null"
    require(momentum is None or 0 < momentum <= 1, "model.bn_momentum", momentum, rule)
    rule = "left at its default ({}) if model.optimizer is given: set model.optimizer.{} instead"
    own = hp["optimizer"] is not None
    require(not own or lr == DEFAULT_LR, "model.lr", lr, rule.format(DEFAULT_LR, "lr"))
    require(not own or decay == 0, "model.weight_decay", decay, rule.format(0, "weight_decay"))
    rule = "constant if model.scheduler is given, which replaces it. Leave one of them out"
    free = hp["scheduler"] is None or hp["schedule"] == "constant"
    require(free, "model.schedule", hp["schedule"], rule)


def _complete_state(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Adds keys that old checkpoints lack, and keeps the current `fused`, before loading."""
    for now, group in zip(optimizer.param_groups, state["param_groups"], strict=True):
        group.setdefault(FACTOR, 1.0)
        group.setdefault(FULL_RATE, now[FULL_RATE] / group[FACTOR])
        if type(optimizer) is Adam:
            group["fused"] = now["fused"]


def build_like(optimizer: Optimizer, network: nn.Module) -> Optimizer:
    """Builds an optimizer of the same class and options for the trained parameters of a network.

    Args:
        optimizer: its `defaults` may contain more than its constructor accepts, as of AdamW.
        network: any network.
    """
    known = inspect.signature(type(optimizer)).parameters
    options = {name: value for name, value in optimizer.defaults.items() if name in known}
    trained = [p for p in network.parameters() if p.requires_grad]
    return type(optimizer)(trained, **options)
