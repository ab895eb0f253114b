"""Counts the kernels of a compiled training step, and the bytes that they read and write."""

import copy
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from bloodcell.errors import InputError
from bloodcell.evaluate.speeds import Speeds
from bloodcell.model.compiled import Compile, CompiledPass
from bloodcell.train.task import Classifier

# The least number of times that a pass and its gradient read or write the output of a convolution
# that BatchNorm follows. Forward: written, and read by the next convolution. Backward: read with
# its gradient for BatchNorm's sums, both once more for the gradients of the convolution, read for
# those of the next one, and its gradient written.
_ACCESSES = 2 + 6
_MOSTLY = 0.9
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


def add_traffic(speeds: Speeds, trainer: Trainer, model: Classifier, side: int) -> Speeds:
    """Adds the kernels and the traffic of a training step to its speeds.

    Args:
        speeds: the speeds, which stay as they are if nothing is compiled or counted.
        trainer: the trainer that measured them.
        model: the model that was trained.
        side: side of the square images in pixels.
    """
    if not speeds.compiled:
        return speeds
    print(f"batch {speeds.batch_size}: counting the traffic of a step", flush=True)
    model.train()  # except for frozen layers
    network = copy.deepcopy(model.network).to(trainer.strategy.root_device)
    context = trainer.precision_plugin.forward_context
    try:
        found = count_traffic(network, model.compile_how, speeds.batch_size, side, context)
    except (RuntimeError, InputError):  # the measured speeds are kept
        return speeds
    if found is None:
        return speeds
    of_least = found.mb / found.least_mb
    return speeds._replace(kernels=found.kernels, traffic_mb=found.mb, of_least=of_least)


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
        None if nothing is compiled, if this version of PyTorch does not count, or if the least
        traffic is unknown: with frozen layers, or where BatchNorm follows few of the layers.
    """
    if not all(p.requires_grad for p in network.parameters()):
        return None
    device = next(network.parameters()).device
    images = torch.zeros((batch_size, 3, side, side), dtype=torch.uint8, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    torch.compiler.reset()  # a pass that is compiled already would not be counted
    with context():
        least = _least_bytes(network, images)
        if least is None:
            return None
        with _counting() as counted:
            compiled = CompiledPass(network, how, device, math.inf)
            compiled(images)
    if not compiled.mode or not counted.n_bytes:
        return None
    mb, least_mb = (n / batch_size / 1e6 for n in (counted.n_bytes, least))
    return Traffic(counted.kernels, mb, least_mb)


class _Counter(logging.Handler):
    """Adds up what PyTorch's compiler logs about the graphs that it compiles."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = self.n_bytes = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Reads a record, if this version of PyTorch gives it these numbers."""
        found = record.args
        if isinstance(found, Mapping) and {"nodes_num_elem", "num_bytes_accessed"} <= set(found):
            self.kernels += len(found["nodes_num_elem"])  # type: ignore[arg-type]
            self.n_bytes += found["num_bytes_accessed"]  # type: ignore[operator]


@contextmanager
def _counting() -> Iterator[_Counter]:
    """Lets PyTorch's compiler count, without its caches."""
    log, counter = logging.getLogger(_LOG), _Counter()
    level = log.level
    before = log.propagate, torch.compiler.config.force_disable_caches
    log.setLevel(logging.INFO)
    log.propagate = False  # nobody needs to read it
    log.addHandler(counter)
    torch.compiler.config.force_disable_caches = True
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*force_disable_caches.*")
            yield counter
    finally:
        log.setLevel(level)  # an assignment to `level` would not reach the logger's cache
        log.propagate, torch.compiler.config.force_disable_caches = before
        log.removeHandler(counter)


@torch.no_grad()
def _least_bytes(network: nn.Module, images: Tensor) -> int | None:
    """Returns the least number of bytes that a pass and its gradient read and write.

    None if less than `_MOSTLY` of the outputs of the network's layers are inputs of BatchNorm.
    """
    normalised, values, width = 0, 0, 4

    def note_norm(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        nonlocal normalised, width
        normalised += given[0].nelement()
        width = given[0].element_size()

    def note_layer(_: nn.Module, __: Any, output: Tensor) -> None:
        nonlocal values
        values += output.nelement()

    handles = []
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            handles.append(module.register_forward_pre_hook(note_norm))
        elif isinstance(module, nn.Conv2d | nn.Linear):
            handles.append(module.register_forward_hook(note_layer))
    network(images)
    for handle in handles:
        handle.remove()
    if normalised < _MOSTLY * values or not normalised:
        return None
    weights = sum(p.nelement() for p in network.parameters())
    # weights are read in both passes, their gradients written in 32 bits; images are read twice
    return _ACCESSES * normalised * width + weights * (2 * width + 4) + 2 * images.nbytes
