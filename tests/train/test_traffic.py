import logging
import shutil
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from bloodcell.model import compiled
from bloodcell.train.traffic import Traffic, count_traffic

SIDE, CHANNELS = 16, 8


def network() -> nn.Module:
    """A network with known maps; it divides by 255 so that it accepts uint8 pixels."""
    torch.manual_seed(0)
    layers = [
        *(nn.Conv2d(3, CHANNELS, 3, padding=1), nn.BatchNorm2d(CHANNELS), nn.ReLU6()),
        *(nn.Conv2d(CHANNELS, CHANNELS, 1), nn.BatchNorm2d(CHANNELS), nn.ReLU6()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 4)),
    ]
    return nn.Sequential(Scale(), *layers).to(memory_format=torch.channels_last).train()


class Scale(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 255


def count(batch_size: int) -> Traffic:
    found = count_traffic(network(), "default", batch_size, SIDE, nullcontext)
    assert found is not None
    return found


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_the_traffic_of_a_known_network() -> None:
    found = count(8)
    maps, pixels = 2 * CHANNELS * SIDE**2, 3 * SIDE**2
    weights = sum(p.nelement() for p in network().parameters())
    least = 8 * maps * 4 + 2 * pixels + weights * (4 + 4 + 4) / 8  # bytes
    assert found.least_mb == pytest.approx(least / 1e6)
    assert 1 <= found.mb / found.least_mb < 4
    assert found.kernels > 8  # at least two convolutions with BatchNorm, and their gradients
    assert count(8) == found, "counted again, not taken from a cache"


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_cpu_stores_less_than_by_the_compilers_own_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        ours = count(8)
        monkeypatch.setattr(compiled, "_CPU_OPTIONS", {})
        assert ours.mb < count(8).mb


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_the_compiler_counts_no_more_afterwards() -> None:
    log = logging.getLogger("torch._inductor.compile_fx.__inductor_metrics")
    assert not log.isEnabledFor(logging.INFO)
    count(2)
    assert not log.isEnabledFor(logging.INFO)


def test_nothing_is_counted_if_nothing_is_compiled() -> None:
    assert count_traffic(network(), False, 4, SIDE, nullcontext) is None


def test_the_least_traffic_is_unknown_without_norms() -> None:
    plain = nn.Sequential(Scale(), nn.Conv2d(3, 4, 3), nn.Flatten())
    assert count_traffic(plain, "default", 4, SIDE, nullcontext) is None


def test_the_least_traffic_is_unknown_with_frozen_layers() -> None:
    frozen = network()
    next(frozen.parameters()).requires_grad_(False)
    assert count_traffic(frozen, "default", 4, SIDE, nullcontext) is None
