"""Prepares a network for inference: without passes over feature maps that training needs."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from bloodcell.model.network import Network
from bloodcell.model.norm import FusedNormAct

_TOLERANCE = 1e-4  # relative to the largest feature; rounding changes features by some 1e-6
Pair = tuple[nn.Conv2d, nn.BatchNorm2d]


@torch.no_grad()
def prepare_network(network: Network, size: int) -> Network:
    """Returns a faster copy for inference, with the same features up to rounding.

    BatchNorm layers that follow a convolution become part of it, and Keras' padding is that of a
    mirror. If the features change, as in a network that uses the output of a convolution elsewhere
    as well, the whole copy is a plain one.

    Args:
        network: in evaluation mode, on the CPU, in float32; it does not change.
        size: side of its square images in pixels.
    """
    prepared = copy.deepcopy(network)
    probe = torch.randint(0, 256, (1, 3, size, size), generator=torch.Generator().manual_seed(0))
    with _find_pairs(prepared) as pairs:
        expected = prepared.maps(probe)
    names = {module: name for name, module in prepared.named_modules()}
    for convolution, norm in pairs:
        _fold(convolution, norm)
        rest = [norm.drop, norm.act] if isinstance(norm, BatchNormAct2d) else []
        prepared.set_submodule(names[norm], nn.Sequential(*rest))
    prepared.mirror.stays = True
    prepared.to(memory_format=torch.channels_last)
    error = (prepared.maps(probe) - expected).abs().max()
    same = error <= _TOLERANCE * expected.abs().max()
    return prepared if same else copy.deepcopy(network)


@contextmanager
def _find_pairs(network: nn.Module) -> Iterator[list[Pair]]:
    """Lists, during a pass, each BatchNorm layer whose input is the output of a convolution."""
    pairs: list[Pair] = []
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # keeps the outputs, so that no id returns

    def note(module: nn.Module, _: Any, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        made[id(output)] = module, output

    def look(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        if module.running_mean is not None and id(given[0]) in made:
            pairs.append((made[id(given[0])][0], module))

    handles = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(note))
        elif type(module) in (nn.BatchNorm2d, BatchNormAct2d, FusedNormAct):
            handles.append(module.register_forward_pre_hook(look))
    try:
        yield pairs
    finally:
        for handle in handles:
            handle.remove()


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Changes a convolution to include a BatchNorm layer."""
    norm.double()
    convolution.double()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    statistics = norm.running_mean, norm.running_var, norm.eps
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight, convolution.bias, *statistics, norm.weight, norm.bias
    )
    convolution.float()
