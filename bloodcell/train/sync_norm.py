"""BatchNorm statistics over the batches of all devices, on GPUs and CPUs."""

from types import MethodType
from typing import Any, cast

import torch
import torch.distributed as dist
from lightning.pytorch.plugins import LayerSync
from torch import Tensor, nn


class SyncNorm(LayerSync):
    """Makes the BatchNorm layers of a network use the statistics of all devices.

    Lightning's default, torch.nn.SyncBatchNorm, drops the activation that timm's BatchNorm layers
    contain. timm's `convert_sync_batchnorm` keeps it, but builds on the same class, which raises
    ValueError for tensors on a CPU.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        """Synchronises the BatchNorm layers; weights, buffers and their names do not change."""
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.forward = MethodType(_forward, module)  # type: ignore[method-assign]
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Undoes `apply`."""
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.__dict__.pop("forward", None)
        return model


def is_synchronised(network: nn.Module) -> bool:
    """Returns whether `SyncNorm` has been applied to the network."""
    norms = (one for one in network.modules() if isinstance(one, nn.BatchNorm2d))
    return any("forward" in vars(one) for one in norms)


@torch.compiler.disable  # type: ignore[untyped-decorator]  # it calls all_reduce
def _forward(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Applies BatchNorm to (B, C, H, W), then the activation of timm's layer."""
    if not norm.training:
        return type(norm).forward(norm, x)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    world = dist.get_world_size()
    n = x.numel() / x.shape[1] * world
    values = x.float()
    mean = _sum(values.mean((0, 2, 3))) / world
    away = values - mean[:, None, None]
    variance = _sum(away.square().mean((0, 2, 3))) / world
    with torch.no_grad():
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked += 1
        momentum = norm.momentum
        if momentum is None:  # a plain mean of all batches, e.g. for StochasticWeightAveraging
            assert norm.num_batches_tracked is not None
            momentum = 1 / float(norm.num_batches_tracked)
        unbiased, kind = variance * (n / max(n - 1, 1)), norm.running_mean.dtype
        norm.running_mean.lerp_(mean.to(kind), momentum)
        norm.running_var.lerp_(unbiased.to(kind), momentum)
    scale = (variance + norm.eps).rsqrt() * norm.weight
    y = (away * scale[:, None, None] + norm.bias[:, None, None]).to(x.dtype)
    for name in ("drop", "act"):
        y = getattr(norm, name, nn.Identity())(y)
    return y


def _sum(x: Tensor) -> Tensor:
    return cast(Tensor, _Sum.apply(x))


class _Sum(torch.autograd.Function):
    """The sum over all devices; its gradient is the sum of the devices' gradients."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total
