import copy
import sys
from typing import Any

import pytest
import timm
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from bloodcell.model.mirror import Mirror
from bloodcell.model.network import Network, PretrainedConfig, create_trunk
from bloodcell.model.pretrained import KERAS

BACKBONES = ["mobilenetv1_100", "mobilenetv2_035", "test_efficientnet", "mixnet_s"]


def images(size: int) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)).double()


def keras_trunk(backbone: str) -> nn.Module:
    torch.manual_seed(0)
    return create_trunk(backbone, KERAS).double().eval()


def keras_network() -> Network:
    torch.manual_seed(0)
    return Network("mobilenetv1_100", 4, 64, [8], 0.0, "flatten", KERAS)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("size", [33, 64, 70])
def test_a_mirrored_trunk_answers_like_keras_padding(backbone: str, size: int) -> None:
    trunk = keras_trunk(backbone)
    expected = trunk(images(size))
    names = list(trunk.state_dict())
    mirror = Mirror(trunk)
    assert list(trunk.state_dict()) == names
    assert torch.equal(trunk(images(size)), expected), "only after it is switched on"
    mirror.switch(True)
    assert mirror.on
    torch.testing.assert_close(mirror.flip(trunk(mirror.flip(images(size)))), expected)
    assert not torch.allclose(trunk(images(size)), expected), "the image is not symmetric"
    mirror.switch(False)
    assert torch.equal(mirror.flip(trunk(mirror.flip(images(size)))), expected)


def test_the_gradients_are_those_of_keras_padding() -> None:
    plain, mirrored = keras_trunk("mobilenetv1_100"), keras_trunk("mobilenetv1_100")
    mirror = Mirror(mirrored)
    mirror.switch(True)
    plain.train()(images(64)).square().sum().backward()
    mirrored.train()(mirror.flip(images(64))).square().sum().backward()
    for (name, one), other in zip(plain.named_parameters(), mirrored.parameters(), strict=True):
        assert other.grad is not None, name
        torch.testing.assert_close(other.grad, one.grad)


@pytest.mark.parametrize(
    ("backbone", "config"),
    [
        ("mobilenetv1_100", PretrainedConfig()),  # PyTorch's padding: nothing to save
        ("mobilenetv3_small_050", KERAS),  # not one of the known trunks
        ("tf_efficientnet_cc_b0_4e", KERAS),  # kernels that depend on the image
        ("vit_tiny_patch16_224", PretrainedConfig()),
    ],
)
def test_other_trunks_are_left_alone(backbone: str, config: PretrainedConfig) -> None:
    trunk = create_trunk(backbone, config)
    mirror = Mirror(trunk)
    mirror.switch(True)
    assert not mirror.on
    assert not any("forward" in vars(module) for module in trunk.modules())


@pytest.mark.parametrize(("blur", "known"), [(None, True), ("blur", False)])
def test_a_trunk_with_blurred_strides_is_left_alone(blur: str | None, known: bool) -> None:
    options: dict[str, Any] = {"num_classes": 0, "global_pool": "", "pad_type": "same"}
    mirror = Mirror(timm.create_model("test_efficientnet", aa_layer=blur, **options))
    mirror.switch(True)
    assert mirror.on is known


def test_a_trunk_with_an_unpadded_convolution_is_left_alone() -> None:
    trunk = keras_trunk("mobilenetv1_100")
    fixed = [one for one in trunk.modules() if isinstance(one, nn.Conv2d) and max(one.stride) == 1]
    next(one for one in fixed if max(one.kernel_size) == 3).padding = (0, 0)
    mirror = Mirror(trunk)
    mirror.switch(True)
    assert not mirror.on


def test_training_makes_no_padded_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    network, pixels = keras_network(), torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    monkeypatch.setattr(sys.modules[Conv2dSame.__module__], "pad_same", None)  # fails if called
    assert network(pixels).shape == (2, 4)
    network.trunk.eval()  # as of a frozen trunk
    assert network(pixels).shape == (2, 4)
    with pytest.raises(TypeError):
        network.eval()(pixels)
    assert network.train()(pixels).shape == (2, 4)


def test_after_training_the_trunk_can_be_used_by_itself() -> None:
    network, pixels = keras_network(), images(64).float()
    network(pixels)
    fresh = create_trunk("mobilenetv1_100", KERAS).eval().to(memory_format=torch.channels_last)
    fresh.load_state_dict(network.trunk.state_dict())
    assert torch.equal(network.eval().trunk(pixels), fresh(pixels))


def test_training_and_evaluation_see_the_same_maps() -> None:
    network = keras_network().double()
    pixels = images(64) * 50 + 128
    network.trunk.eval()  # fixed statistics
    trained = network.maps(pixels)
    torch.testing.assert_close(network.eval().maps(pixels), trained)


def test_a_copy_uses_its_own_weights_and_its_own_switch() -> None:
    network = keras_network()
    other = copy.deepcopy(network)
    pixels = torch.full((2, 3, 64, 64), 200, dtype=torch.uint8)
    before = network(pixels)
    with torch.no_grad():
        for weights in other.trunk.parameters():
            weights.zero_()
    other.eval()
    assert torch.equal(network(pixels), before)
    assert not torch.equal(other.train()(pixels), before)


def test_one_compilation_serves_all_epochs() -> None:
    network, pixels = keras_network(), torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    compiled = torch.compile(network.forward, backend="aot_eager", dynamic=False)
    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled(pixels)
        network.eval()(pixels)  # a validation
        for module in network.modules():  # as Lightning does after it
            module.training = True
        trained = compiled(pixels)
    torch.testing.assert_close(trained, network(pixels))
