"""Arguments of the Trainer that complete the user's settings: precision, logger, callbacks."""

from typing import Any, NamedTuple

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import LearningRateMonitor

from bloodcell import machine
from bloodcell.errors import InputError, require
from bloodcell.model.cpu import has_fast_bfloat16
from bloodcell.train.by_dataset import ByDataset
from bloodcell.train.callbacks import Bar, FirstBatch, History
from bloodcell.train.checkpoints import KeepBest, KeepLast, WholeFiles, read_monitor
from bloodcell.train.finite import Finite
from bloodcell.train.forecast import Forecast
from bloodcell.train.monitors import CheckMonitors
from bloodcell.train.runs import RunLogger
from bloodcell.train.signals import StopGently
from bloodcell.train.sync_norm import SyncNorm


class Keeping(NamedTuple):
    """Settings of checkpoints and rollbacks.

    Attributes:
        every_n_steps: interval of checkpoints within an epoch in steps; None disables them.
        every_minutes: interval of checkpoints within an epoch in minutes; None disables them.
        rollbacks: maximum number of rollbacks after a NaN or infinite loss; each halves the
            learning rate.
        monitor: metric that selects the best checkpoint, in the form that `read_monitor` accepts.
    """

    every_n_steps: int | None
    every_minutes: float | None
    rollbacks: int
    monitor: str = "val/loss"

    def check(self) -> None:
        """Checks the values.

        Raises:
            InputError: if a value is out of range.
        """
        steps, minutes = self.every_n_steps, self.every_minutes
        require(steps is None or steps > 0, "--save_every_n_steps", steps, "1 or more, or null")
        require(minutes is None or minutes > 0, "--save_every_minutes", minutes, "over 0, or null")
        require(self.rollbacks >= 0, "--rollbacks", self.rollbacks, "0 or more, e.g. 3")
        read_monitor(self.monitor)


def check(given: Any) -> None:
    """Checks settings of the Trainer that would otherwise fail only during the run.

    Raises:
        InputError: if there is no GPU and one is requested, or a part would have no batches.
    """
    if given.accelerator in ("gpu", "cuda") and not _has_gpu(given.accelerator):
        raise InputError(
            f"trainer.accelerator={given.accelerator}, but PyTorch {torch.__version__} finds no "
            "GPU. Use --trainer.accelerator cpu, or install the driver or the PyTorch build "
            "that fits the GPU."
        )
    rule = "1 or more, or -1 for no limit"
    require(given.max_epochs != 0, "trainer.max_epochs", 0, rule)
    batches = given.accumulate_grad_batches
    require(batches > 0, "trainer.accumulate_grad_batches", batches, "1 or more")
    for part in ("train", "val", "test"):
        limit = given[f"limit_{part}_batches"]
        rule = "over 0: every part is needed"
        require(limit is None or limit > 0, f"trainer.limit_{part}_batches", limit, rule)


def complete(given: Any, logger: RunLogger | None) -> dict[str, Any]:
    """Chooses the Trainer's arguments that the settings leave open.

    Args:
        given: the `trainer` group of the settings.
        logger: logger of the run folder; None for a run that writes nothing.

    Returns:
        Arguments of the Trainer that replace those of `given`.
    """
    precision = str(given.precision or best_precision(given.accelerator))
    chosen: dict[str, Any] = {"precision": precision, "logger": False}
    if given.benchmark is None and not given.deterministic:
        chosen["benchmark"] = True  # all batches have the same shape
    # TF32 is allowed with mixed precision only; 32-bit precision is exact float32
    half = precision.startswith(("16", "bf16"))
    torch.set_float32_matmul_precision("high" if half else "highest")
    torch.backends.cudnn.allow_tf32 = half
    if logger:
        others = given.logger if isinstance(given.logger, list) else [given.logger]
        chosen["logger"] = [logger, *(one for one in others if one not in (None, True))]
    else:
        chosen["enable_checkpointing"] = False
    plugins = given.plugins if isinstance(given.plugins, list) else [given.plugins]
    chosen["plugins"] = [WholeFiles(), *(one for one in plugins if one is not None)]
    if given.sync_batchnorm:
        chosen["sync_batchnorm"] = False
        chosen["plugins"].append(SyncNorm())
    if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():
        # scripts/slurm.sh requeues; Lightning might resume from another checkpoint
        chosen["plugins"].append(SLURMEnvironment(auto_requeue=False))
    return chosen


def callbacks(given: Any, keeping: Keeping | None, stop: StopGently) -> list[Callback]:
    """Returns the callbacks of a run; `keeping` is None for a verb that does not train."""
    own = given.callbacks if isinstance(given.callbacks, list) else [given.callbacks]
    # first `ByDataset`, because others use its metrics
    chosen: list[Callback] = [ByDataset(), *(one for one in own if one is not None)]
    chosen += [] if given.enable_progress_bar is False else [Bar()]
    if keeping is None:
        return chosen
    finite = Finite(keeping.rollbacks)
    chosen += [CheckMonitors(), History(), FirstBatch(), Forecast(), finite, stop]
    if given.logger is not False and not given.fast_dev_run:
        chosen.append(LearningRateMonitor("epoch"))
        if given.enable_checkpointing is not False:  # KeepLast stores KeepBest's state
            chosen += [
                KeepBest(keeping.monitor),
                KeepLast(finite, stop, keeping.every_n_steps, keeping.every_minutes),
            ]
    return chosen


def best_precision(accelerator: str) -> str:
    """Returns the fastest safe precision: bf16 if the hardware supports it, fp16 on older GPUs."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(False) else "16-mixed"
    if accelerator in ("auto", "cpu") and not torch.backends.mps.is_available():
        return "bf16-mixed" if has_fast_bfloat16() else "32-true"
    return "32-true"


def device_name(device: torch.device) -> str:
    """Returns the name of the GPU or the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return machine.processor()


def _has_gpu(accelerator: str) -> bool:
    metal = accelerator == "gpu" and torch.backends.mps.is_available()
    return torch.cuda.is_available() or metal
