from typing import Any

import pytest
import torch
from torch import nn

from bloodcell.errors import InputError
from bloodcell.model.network import Network, PretrainedConfig, create_trunk, make_head

TINY = "test_efficientnet"


def network(**changes: object) -> Network:
    settings = {
        "backbone": TINY,
        "n_classes": 4,
        "image_size": 64,
        "hidden": [8],
        "dropout": 0.5,
        "pool": "flatten",
        "config": PretrainedConfig(),
    }
    return Network(**(settings | changes))  # type: ignore[arg-type]


def widths(module: nn.Module) -> list[tuple[int, int]]:
    return [(m.in_features, m.out_features) for m in module.modules() if isinstance(m, nn.Linear)]


@pytest.mark.parametrize(
    ("hidden", "expected"),
    [([], [(20, 4)]), ([8], [(20, 8), (8, 4)]), ([8, 16, 3], [(20, 8), (8, 16), (16, 3), (3, 4)])],
)
def test_the_head_is_as_wide_as_asked(hidden: list[int], expected: list[tuple[int, int]]) -> None:
    head = make_head(20, hidden, 4, 0.5)
    assert widths(head) == expected
    kinds = [type(m).__name__ for m in head.children()]
    assert kinds == ["Linear", "ReLU", "Dropout"] * len(hidden) + ["Dropout"] * (not hidden) + [
        "Linear"
    ]
    assert all(m.bias.eq(0).all() for m in head.modules() if isinstance(m, nn.Linear))


@pytest.mark.parametrize("backbone", [TINY, "mobilenetv3_small_050", "mobilenetv1_100"])
@pytest.mark.parametrize("image_size", [32, 70])
def test_flatten_follows_the_image_size(backbone: str, image_size: int) -> None:
    flat = network(backbone=backbone, image_size=image_size)
    channels, height, width = flat.eval().trunk(torch.zeros(1, 3, image_size, image_size)).shape[1:]
    assert widths(flat.head)[0][0] == channels * height * width
    pooled = network(backbone=backbone, image_size=image_size, pool="avg")
    assert widths(pooled.head)[0][0] == channels
    images = torch.zeros(2, 3, image_size, image_size, dtype=torch.uint8)
    assert flat(images).shape == pooled.eval()(images).shape == (2, 4)


def test_every_parameter_learns() -> None:
    model = network(dropout=0.0)
    model(torch.randint(0, 255, (4, 3, 64, 64))).square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []


def test_pixels_are_scaled_as_the_recipe_says() -> None:
    model = network(config=PretrainedConfig(mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0)))
    seen = []
    model.trunk.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.eval()(torch.full((1, 3, 64, 64), 255, dtype=torch.uint8))
    torch.testing.assert_close(seen[0][0, :, 0, 0], torch.tensor([1.0, 3.0, 1.0]))


def test_dropout_rests_in_evaluation() -> None:
    model = network(dropout=0.5, hidden=[64])
    images = torch.randint(0, 255, (2, 3, 64, 64))
    model.eval()
    assert torch.equal(model(images), model(images))
    model.head.train()
    assert not torch.equal(model(images), model(images))


def test_maps_with_channels_last() -> None:
    trunk = "test_mambaout"
    pooled = network(backbone=trunk, pool="avg", image_size=96).eval()
    flat = network(backbone=trunk, image_size=96).eval()
    _, height, width, channels = pooled.trunk(torch.zeros(1, 3, 96, 96)).shape
    assert height == width == 3
    assert widths(pooled.head)[0][0] == channels
    assert widths(flat.head)[0][0] == height * width * channels
    images = torch.zeros(2, 3, 96, 96, dtype=torch.uint8)
    assert pooled(images).shape == flat(images).shape == (2, 4)


def test_a_trunk_of_another_size_or_family() -> None:
    with pytest.raises(InputError, match=r"data\.image_size=32 does not fit model\.backbone \("):
        network(backbone="vit_tiny_patch16_224", image_size=32)
    options: dict[str, str | float] = {"pad_type": "same"}
    with pytest.raises(
        InputError, match=r"'resnet18' cannot be built with the options that model\.weights='w\.h5'"
    ):
        create_trunk("resnet18", PretrainedConfig("w.h5", options=options))


def test_an_unknown_backbone_names_the_default_and_the_nearest() -> None:
    default = r"Use, for example, mobilenetv1_100 \(the default\)"
    for wrong, found in (("mobilnetv9", ", mobilenetv"), ("nonsense_", "; timm")):
        with pytest.raises(
            InputError, match=rf"model\.backbone='{wrong}' is not a timm model\. {default}{found}"
        ):
            create_trunk(wrong, PretrainedConfig())


@pytest.mark.parametrize(
    ("backbone", "image_size", "width"),
    [
        ("test_vit", 160, 64),  # tokens, of which timm takes the first
        ("test_vit3", 160, 96),  # pooled by an attention layer
        ("test_vit4", 160, 96),  # pooled by mean, normalised afterwards
        ("crossvit_tiny_240", 240, 288),  # always (B, C)
    ],
)
def test_a_trunk_without_a_map_is_pooled_as_timm_does(
    backbone: str, image_size: int, width: int
) -> None:
    model = network(backbone=backbone, image_size=image_size, pool="avg", dropout=0.0).eval()
    assert widths(model.head) == [(width, 8), (8, 4)]
    assert model.trunk.head_hidden_size == width
    assert not model.has_map
    images = torch.randint(0, 255, (2, 3, image_size, image_size), dtype=torch.uint8)
    maps = model.maps(images)
    assert maps.shape == (2, width, 1, 1)
    scaled = (images - model.mean) / model.std
    trunk: Any = model.trunk
    pooled = trunk.forward_head(trunk.forward_features(scaled), pre_logits=True)
    assert torch.equal(maps[:, :, 0, 0], pooled)
    assert torch.equal(model(images), model.classify(maps))


def test_a_trunk_without_a_map_cannot_be_flattened() -> None:
    with pytest.raises(InputError, match=r"model\.pool=flatten cannot be .* avg, because .*_vit"):
        network(backbone="test_vit", image_size=160)
    assert network().has_map


@pytest.mark.parametrize("backbone", [TINY, "mobilenetv1_100"])
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16, torch.float16])
def test_pixels_of_any_type(backbone: str, weights: torch.dtype) -> None:
    """Also with weights in 16 bits, as with trainer.precision bf16-true and 16-true."""
    model = network(backbone=backbone, hidden=[]).eval().to(weights)
    images = torch.randint(0, 256, (2, 3, 64, 64))
    expected = model(images.byte())
    assert expected.dtype == weights
    for kind in (torch.float64, torch.float32, torch.int64):
        torch.testing.assert_close(model(images.to(kind)), expected, rtol=0.05, atol=0.05)
