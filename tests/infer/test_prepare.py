import pytest
import torch
from torch import Tensor, nn

from bloodcell.infer.prepare import prepare_network
from bloodcell.model.network import Network, PretrainedConfig
from bloodcell.model.pretrained import KERAS

SIDE = 64


def untrained(backbone: str, config: PretrainedConfig) -> Network:
    torch.manual_seed(0)
    return Network(backbone, 4, SIDE, [8], 0.5, "flatten", config)


def with_trained_norms(network: Network) -> Network:
    """Gives BatchNorm layers other statistics, as training does."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, 0.0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.normal_(module.bias, 0.0, 0.2)
    return network.eval()


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def features(network: Network) -> Tensor:
    images = torch.randint(0, 256, (3, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        return network.maps(images)


@pytest.mark.parametrize(
    ("backbone", "config", "left"),
    [
        ("mobilenetv1_100", KERAS, 0),
        ("mobilenetv1_100", PretrainedConfig(white_balance=True), 0),
        ("mobilenetv3_small_050", PretrainedConfig(), 0),
        ("resnet18", PretrainedConfig(), 0),
        ("densenet121", PretrainedConfig(), 62),  # most come before their convolution
    ],
)
def test_the_features_stay_the_same_without_norms(
    backbone: str, config: PretrainedConfig, left: int
) -> None:
    network = with_trained_norms(untrained(backbone, config))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    prepared = prepare_network(network, SIDE)
    assert norms(prepared) == left < norms(network)
    expected = features(network)
    torch.testing.assert_close(
        features(prepared), expected, rtol=0, atol=1e-5 * float(expected.abs().max())
    )
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key])


def test_a_network_without_norms_is_copied() -> None:
    network = untrained("convnext_atto", PretrainedConfig()).eval()
    copied = prepare_network(network, SIDE)
    assert copied is not network
    assert torch.equal(features(copied), features(network))


class Forked(nn.Module):
    """Uses the output of a convolution with and without BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.convolution(x)
        y: Tensor = self.norm(x) + x
        return y


class Repeated(nn.Module):
    """Uses a convolution with BatchNorm twice."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.convolution(self.norm(self.convolution(x))))
        return y


@pytest.mark.parametrize("trunk", [Forked, Repeated])
def test_norms_stay_where_the_features_would_change(trunk: type[nn.Module]) -> None:
    network = untrained("mobilenetv1_100", PretrainedConfig())
    network.trunk = trunk()
    with_trained_norms(network)
    kept = prepare_network(network, SIDE)
    assert norms(kept) == 1
    assert torch.equal(features(kept), features(network))


def test_keras_padding_copies_no_features(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = prepare_network(with_trained_norms(untrained("mobilenetv1_100", KERAS)), SIDE)
    monkeypatch.delattr("timm.layers.padding.F")
    assert features(prepared).shape == (3, 1024, 2, 2)
