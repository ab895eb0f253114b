import pytest
import torch
import torch.distributed as dist
from torch import nn

from bloodcell.train.sync_norm import SyncNorm


@pytest.fixture
def _one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "get_world_size", lambda: 1)
    monkeypatch.setattr(dist, "all_reduce", lambda _: None)


@pytest.mark.usefixtures("_one_device")
@pytest.mark.parametrize("momentum", [0.1, None])
def test_on_one_device_it_is_pytorchs_layer(momentum: float | None) -> None:
    """Without a momentum, as StochasticWeightAveraging sets it, statistics are plain means."""
    plain, synced = (nn.BatchNorm2d(3, momentum=momentum) for _ in range(2))
    SyncNorm().apply(nn.Sequential(synced))
    for seed in range(3):
        x = 2 * torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(seed)) + 1
        torch.testing.assert_close(synced(x), plain(x))
    torch.testing.assert_close(synced.state_dict(), plain.state_dict())


@pytest.mark.usefixtures("_one_device")
def test_weights_of_16_bits() -> None:
    norm = nn.BatchNorm2d(3).bfloat16()
    SyncNorm().apply(nn.Sequential(norm))
    assert norm(torch.rand(4, 3, 5, 5).bfloat16()).dtype == torch.bfloat16
    assert norm.running_mean is not None
    assert norm.running_mean.count_nonzero() == 3
