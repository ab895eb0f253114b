"""BatchNorm with its activation for compiled training on a CPU.

PyTorch's compiler computes the variance of a batch by Welford's method, and tests each value of the
gradient against both ends of ReLU6. Here, both sums of the statistics are taken in one pass, and
one comparison is enough.
"""

from typing import Any

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

# Largest output of each activation whose gradient is known here; others keep timm's layer. ReLU has
# no upper end; None stands for no activation.
_LARGEST = {nn.ReLU6: 6.0, nn.ReLU: float("inf"), nn.Identity: None}


class FusedNormAct(BatchNormAct2d):
    """timm's BatchNorm with activation, faster in a compiled bfloat16 pass of training on a CPU.

    In all other cases it is timm's layer.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) to the same shape, and updates the running statistics in training."""
        y: Tensor
        running_mean, running_variance = self.running_mean, self.running_var
        here = torch.compiler.is_compiling() and self.training and self.momentum is not None
        if not (here and _is_mixed(x, running_mean)):
            y = super().forward(x)  # type: ignore[no-untyped-call]
            return y
        assert running_mean is not None
        assert running_variance is not None
        y, mean, variance = _NormAct.apply(
            x, self.weight, self.bias, running_mean.clone(), self.eps, _LARGEST[type(self.act)]
        )
        n = x.numel() // x.shape[1]
        with torch.no_grad():
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
            assert self.momentum is not None
            running_mean.lerp_(mean, self.momentum)
            running_variance.lerp_(variance * (n / (n - 1)), self.momentum)
        return y


def _is_mixed(x: Tensor, statistics: Tensor | None) -> bool:
    """Returns whether a CPU computes bfloat16 maps with statistics in 32 bits.

    Such maps are rounded more coarsely than the sum of their squares.
    """
    return (
        x.device.type == "cpu"
        and x.dtype == torch.bfloat16
        and statistics is not None
        and statistics.dtype == torch.float32
        and x.numel() > x.shape[1]  # timm's layer refuses a single value
    )


def fuse_norms(trunk: nn.Module) -> None:
    """Replaces timm's BatchNorm layers with known activations by `FusedNormAct`.

    Args:
        trunk: modified in place; the parameters and their names do not change.
    """
    for module in trunk.modules():
        if type(module) is not BatchNormAct2d or type(module.act) not in _LARGEST:
            continue
        plain = module.affine and module.track_running_stats and module.momentum is not None
        if plain and isinstance(module.drop, nn.Identity):
            module.__class__ = FusedNormAct


class _NormAct(torch.autograd.Function):
    """Normalises bfloat16 maps (B, C, H, W) and applies an activation, in 32 bits.

    The squares are taken around a given value of each channel, the running mean: around zero, a
    mean far from it would leave few digits for the variance.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        near: Tensor,
        eps: float,
        largest: float | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the activations, and the mean and variance (C,) of the batch."""
        n = x.numel() // x.shape[1]
        away = x.float() - _on_maps(near)
        mean = away.sum((0, 2, 3)) / n
        variance = ((away * away).sum((0, 2, 3)) / n - mean * mean).clamp(min=0)
        inverse = (variance + eps).rsqrt()
        y = (away - _on_maps(mean)) * _on_maps(inverse * weight) + _on_maps(bias)
        if largest is not None:
            y = y.clamp(0, largest)
        mean = mean + near
        ctx.save_for_backward(x, weight, bias, mean, inverse)
        ctx.largest = largest
        ctx.mark_non_differentiable(mean, variance)
        return y.to(x.dtype), mean, variance

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients of the maps, weights and biases."""
        x, weight, bias, mean, inverse = ctx.saved_tensors
        n = x.numel() // x.shape[1]
        away, scale = x.float() - _on_maps(mean), inverse * weight
        passed = gradient.float()
        if ctx.largest is not None:
            middle = ctx.largest / 2
            y = away * _on_maps(scale) + _on_maps(bias)
            inside = (y - middle).abs() < middle if middle < float("inf") else y > 0
            passed = torch.where(inside, passed, 0)
        of_bias = passed.sum((0, 2, 3))
        of_away = (passed * away).sum((0, 2, 3))
        centred = passed - _on_maps(of_bias / n) - away * _on_maps(of_away * inverse.square() / n)
        of_x = (_on_maps(scale) * centred).to(x.dtype)
        return of_x, of_away * inverse, of_bias, None, None, None


def _on_maps(channels: Tensor) -> Tensor:
    return channels[:, None, None]
