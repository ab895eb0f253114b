"""What a CPU needs to train as fast as it can.

Measured with mobilenetv1_100 on two cores: RESULTS.md has the figures.
"""

import ctypes
import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # of glibc's <malloc.h>
_NEVER, _BYTES_AT_ONCE = -1, 64 * 2**20


def keep_memory() -> bool:
    """Makes the process keep the memory it frees, where glibc allocates it.

    A training step takes and frees gigabytes. By default glibc gives large blocks back to the
    system and gets new ones, which the system has to fill with zeros page by page: a third of the
    time of a step at 224 pixels.

    Returns:
        Whether the allocator could be told.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    settings = (
        (_M_MMAP_MAX, 0),
        (_M_TRIM_THRESHOLD, _NEVER),
        (_M_TOP_PAD, _BYTES_AT_ONCE),
    )
    return all([mallopt(key, value) for key, value in settings])


def has_fast_bfloat16() -> bool:
    """Whether the CPU multiplies matrices of bfloat16 by itself, as Intel's AMX does."""
    return torch.cpu._is_amx_tile_supported()


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
