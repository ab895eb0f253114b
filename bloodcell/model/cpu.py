"""Fast training on a CPU; RESULTS.md has measurements with mobilenetv1_100 on two cores."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def has_fast_bfloat16() -> bool:
    """Returns whether the CPU multiplies bfloat16 in hardware (Intel's AMX, or AVX-512 BF16).

    Older releases of PyTorch have no function for this; there, the CPU flags of Linux are read.
    """
    if hasattr(torch.cpu, "get_capabilities"):
        found = torch.cpu.get_capabilities()
        return bool(found.get("amx_tile") or found.get("avx512_bf16"))
    flags = Path("/proc/cpuinfo")
    words = set(flags.read_text().split()) if flags.is_file() else set()
    return not words.isdisjoint(("amx_tile", "avx512_bf16"))


def spare_slow_kernels(trunk: nn.Module) -> None:
    """Runs strided depthwise convolutions in float32 under bfloat16 autocast.

    oneDNN lacks a fast bfloat16 kernel for their gradients; four layers took a third of a step.

    Args:
        trunk: modified in place; the parameters and their names do not change.
    """
    for module in trunk.modules():
        if not isinstance(module, nn.Conv2d) or max(module.stride) == 1:
            continue
        if module.groups == module.in_channels > 1:
            vars(module)["forward"] = partial(_in_float32, module, module.forward)


def multiply_pointwise(trunk: nn.Module) -> None:
    """Computes convolutions of 1 by 1 as matrix products in compiled bfloat16 training.

    oneDNN has faster kernels for the gradients of a product.

    Args:
        trunk: modified in place; the parameters and their names do not change.
    """
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d) and _is_pointwise(module):
            vars(module)["forward"] = partial(_as_product, module, module.forward)


def _is_pointwise(convolution: nn.Conv2d) -> bool:
    c = convolution
    pads = isinstance(c.padding, str) or max(c.padding) > 0
    return max(*c.kernel_size, *c.stride, c.groups) == 1 and not pads


def _as_product(convolution: nn.Conv2d, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    compiled = torch.compiler.is_compiling() and convolution.training
    if not compiled or x.device.type != "cpu" or x.dtype != torch.bfloat16:
        return forward(x)
    pixels = x.permute(0, 2, 3, 1)  # contiguous, as maps are channels-last
    return F.linear(pixels, convolution.weight.flatten(1), convolution.bias).permute(0, 3, 1, 2)


def _in_float32(convolution: nn.Conv2d, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    cast = x.dtype == torch.bfloat16 and convolution.weight.dtype == torch.float32
    if x.device.type != "cpu" or not cast:
        return forward(x)
    with torch.autocast("cpu", enabled=False):
        return forward(x.float()).to(torch.bfloat16)
