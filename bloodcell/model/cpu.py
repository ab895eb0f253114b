"""What a CPU needs to train as fast as it can.

Measured with mobilenetv1_100 on two cores: RESULTS.md has the figures.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn


def has_fast_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 by itself: Intel's AMX, or AVX-512 as in AMD's Zen 4."""
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def spare_slow_kernels(trunk: nn.Module) -> None:
    """Makes strided depthwise convolutions compute in float32 where autocast would have bfloat16.

    oneDNN has no fast kernel for their gradients in bfloat16: four of them took a third of a step.

    Args:
        trunk: changed in place; its parameters and their names stay the same.
    """
    for module in trunk.modules():
        if not isinstance(module, nn.Conv2d) or max(module.stride) == 1:
            continue
        if module.groups == module.in_channels > 1:
            module.forward = partial(_in_float32, module.forward)  # type: ignore[method-assign]


def _in_float32(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if x.device.type != "cpu" or x.dtype != torch.bfloat16:
        return forward(x)
    with torch.autocast("cpu", enabled=False):
        return forward(x.float()).to(torch.bfloat16)
