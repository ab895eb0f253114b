"""Counts the kernels of a compiled training step, and the bytes that they read and write."""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bloodcell.model.compiled import Compile, CompiledPass

# The least number of times that a pass and its gradient read or write the output of a convolution
# that BatchNorm follows. Forward: written, and read by the next convolution. Backward: read with
# its gradient for BatchNorm's sums, both once more for the gradients of the convolution, read for
# those of the next one, and its gradient written.
_ACCESSES = 2 + 6
_LOG = "torch._inductor.compile_fx.__inductor_metrics"  # while it is on, the compiler counts bytes


class Traffic(NamedTuple):
    """Work of one forward and backward pass, without the optimizer.

    Attributes:
        kernels: number of kernels, including those of libraries.
        mb: megabytes read and written per image, from caches or memory.
        least_mb: megabytes per image that a network of this shape must read and write, if each
            kernel does as much as possible with what it has read.
    """

    kernels: int
    mb: float
    least_mb: float


def count_traffic(
    network: nn.Module, how: Compile, batch_size: int, side: int, context: Callable[[], Any]
) -> Traffic | None:
    """Compiles a training pass once more, and counts what its kernels read and write.

    Args:
        network: maps uint8 pixels to logits; in training mode. BatchNorm's statistics change.
        how: as `model.compile`.
        batch_size: images per batch.
        side: side of the square images in pixels.
        context: returns the context of a pass, which sets its precision.

    Returns:
        None if nothing is compiled, if this version of PyTorch does not count, or if the network
        has no BatchNorm layers, without which the least traffic is unknown.
    """
    if not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return None
    device = next(network.parameters()).device
    images = torch.zeros((batch_size, 3, side, side), dtype=torch.uint8, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    with context():
        least = _least_bytes(network, images)
        torch.compiler.reset()  # a pass that is compiled already would not be counted
        with _counting() as counted:
            compiled = CompiledPass(network, how, device, math.inf)
            compiled(images)
            kernels, n_bytes = counted()
    if not compiled.mode or not n_bytes:
        return None
    return Traffic(kernels, n_bytes / batch_size / 1e6, least / batch_size / 1e6)


@contextmanager
def _counting() -> Iterator[Callable[[], tuple[int, int]]]:
    """Lets PyTorch's compiler count; yields a function that returns the kernels and the bytes."""
    try:
        from torch._inductor import config, metrics

        metrics.reset()
        no_cache: AbstractContextManager[Any] = config.patch(fx_graph_cache=False)
    except (ImportError, AttributeError):  # not a documented interface
        yield lambda: (0, 0)
        return
    log = logging.getLogger(_LOG)
    before = log.level, log.propagate
    log.setLevel(logging.INFO)
    log.propagate = False  # nobody needs to read it
    try:
        with no_cache:
            yield lambda: (
                sum(n > 0 for _, n in metrics.nodes_num_elem),
                metrics.num_bytes_accessed,
            )
    finally:
        log.setLevel(before[0])
        log.propagate = before[1]


@torch.no_grad()
def _least_bytes(network: nn.Module, images: Tensor) -> int:
    """Returns the least number of bytes that a pass and its gradient read and write."""
    sizes = []

    def note(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        sizes.append((given[0].nelement(), given[0].element_size()))

    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    handles = [norm.register_forward_pre_hook(note) for norm in norms]
    network(images)
    for handle in handles:
        handle.remove()
    weights = sum(p.nelement() for p in network.parameters() if p.requires_grad)
    width = max(size for _, size in sizes)
    # weights are read in both passes, their gradients written in 32 bits; images are read twice
    return (
        sum(_ACCESSES * n * size for n, size in sizes)
        + weights * (2 * width + 4)
        + (2 * images.nbytes)
    )
