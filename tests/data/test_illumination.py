"""The balance of white: neither lamp nor camera changes what the network sees."""

import pytest
import torch

from bloodcell.data.illumination import balance_white, find_slide_colour
from bloodcell.model.network import Network, PretrainedConfig

TINY = "test_efficientnet"


def make_pictures() -> torch.Tensor:
    """Dark cells on a bright slide, (2, 3, 32, 32)."""
    pictures = torch.full((2, 3, 32, 32), 150.0)
    pictures[:, :, 10:20, 8:22] = torch.tensor([90.0, 40.0, 110.0])[:, None, None]
    return pictures + torch.rand(2, 3, 32, 32)


def test_the_slide_becomes_light_grey_and_black_borders_stay() -> None:
    pictures = make_pictures() * torch.tensor([1.2, 0.9, 0.7])[:, None, None]
    pictures[:, :, :4] = 0
    balanced = balance_white(pictures)
    assert balanced[:, :, 25:].mean((0, 2, 3)).tolist() == pytest.approx([235] * 3, abs=1)
    assert balanced[:, :, :4].max() == 0
    assert 0 <= balanced.min() <= balanced.max() <= 255


def test_another_lamp_gives_the_same_picture() -> None:
    pictures, lamp = make_pictures(), torch.tensor([1.5, 1.0, 0.6])[:, None, None]
    seen = balance_white(pictures * lamp)
    torch.testing.assert_close(seen, balance_white(pictures), atol=1, rtol=0)


def test_nothing_but_black_is_no_error() -> None:
    black = torch.zeros(1, 3, 8, 8)
    assert balance_white(black).max() == 0
    assert find_slide_colour(black, black[:, :1]).flatten().tolist() == [8] * 3


def test_a_network_that_balances_does_not_see_the_lamp() -> None:
    config = PretrainedConfig(white_balance=True)
    assert PretrainedConfig.from_dict(config.as_dict()) == config
    torch.manual_seed(0)
    network = Network(TINY, 3, 32, [], 0.0, "avg", config).eval()
    pictures, lamp = make_pictures(), torch.tensor([1.5, 1.0, 0.6])[:, None, None]
    with torch.inference_mode():
        balanced = (network(pictures * lamp) - network(pictures)).abs().max()
        network.white_balance = False
        plain = (network(pictures * lamp) - network(pictures)).abs().max()
    assert balanced < plain / 5
