import copy
import shutil
from collections.abc import Callable

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from bloodcell.model.network import Network, PretrainedConfig
from bloodcell.model.norm import FusedNormAct, _NormAct, fuse_norms

CHANNELS = 5
ACTIVATIONS = [nn.ReLU6, nn.ReLU, nn.Identity]


def layer(activation: type[nn.Module], seen: float = 0.0) -> BatchNormAct2d:
    """A layer in training whose running mean is `seen`."""
    torch.manual_seed(0)
    norm = BatchNormAct2d(CHANNELS, eps=1e-3, momentum=0.1, act_layer=activation)
    nn.init.uniform_(norm.weight, 0.5, 4.0)
    nn.init.uniform_(norm.bias, -1.0, 4.0)
    assert norm.running_mean is not None
    nn.init.constant_(norm.running_mean, seen)
    return norm.train()


def maps(mean: float = 0.0) -> Tensor:
    values = torch.randn(4, CHANNELS, 9, 7, generator=torch.Generator().manual_seed(1)) + mean
    return values.bfloat16().to(memory_format=torch.channels_last)


def run(norm: nn.Module, forward: Callable[[Tensor], Tensor], x: Tensor) -> dict[str, Tensor]:
    """All results of a pass and its gradient, in 64 bits."""
    x = x.clone().requires_grad_()
    y = forward(x)
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=torch.double)
    torch.autograd.backward(y, upstream.to(y.dtype))
    assert x.grad is not None
    found = {"y": y, "x": x.grad, **{f"{k}.grad": p.grad for k, p in norm.named_parameters()}}
    return {k: v.detach().double() for k, v in (found | dict(norm.named_buffers())).items()}  # type: ignore[union-attr]


def check_exactness(
    found: dict[str, Tensor], plain: dict[str, Tensor], exact: dict[str, Tensor]
) -> None:
    for name, value in exact.items():
        size = float(value.abs().max())
        error, allowed = (float((one[name] - value).abs().max()) for one in (found, plain))
        assert error <= 1.5 * allowed + 2e-6 * size, name


def fused(
    norm: BatchNormAct2d, backend: str = "aot_eager"
) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    torch.compiler.reset()
    holder = nn.Sequential(copy.deepcopy(norm))
    fuse_norms(holder)
    assert type(holder[0]) is FusedNormAct
    return holder[0], torch.compile(holder[0], backend=backend, dynamic=False)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("mean", "seen"), [(0.0, 0.0), (3.0, 3.0), (3.0, 0.0), (60.0, 58.0)])
def test_results_are_as_exact_as_those_of_timm(
    monkeypatch: pytest.MonkeyPatch, activation: type[nn.Module], mean: float, seen: float
) -> None:
    norm, x = layer(activation, seen), maps(mean)
    exact_norm = copy.deepcopy(norm).double()
    exact = run(exact_norm, exact_norm, x.double())
    plain_norm = copy.deepcopy(norm)
    plain = run(plain_norm, plain_norm, x)
    monkeypatch.delattr("timm.layers.norm_act.F")  # so that timm's layer would fail
    found = run(*fused(norm), x)
    assert found.keys() == exact.keys()
    check_exactness(found, plain, exact)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_sums_over_many_pixels_are_exact_enough() -> None:
    norm = layer(nn.ReLU6)
    x = torch.randn(32, CHANNELS, 64, 64, generator=torch.Generator().manual_seed(1)) + 3
    x = x.bfloat16().to(memory_format=torch.channels_last)
    exact_norm, plain_norm = copy.deepcopy(norm).double(), copy.deepcopy(norm)
    exact, plain = run(exact_norm, exact_norm, x.double()), run(plain_norm, plain_norm, x)
    check_exactness(run(*fused(norm, "inductor"), x), plain, exact)


def test_the_running_mean_keeps_the_digits_of_the_variance() -> None:
    norm = layer(nn.ReLU, seen=1000.0)
    x = maps().float() + 1000.0  # bfloat16 has no such values: the function itself is exact enough
    y, mean, variance = _NormAct.apply(x, norm.weight, norm.bias, norm.running_mean, 1e-3, None)
    expected, around = x.double().mean((0, 2, 3)), x.double().var((0, 2, 3), correction=0)
    torch.testing.assert_close(mean.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(variance.double(), around, rtol=1e-5, atol=0)
    assert y.isfinite().all()


@pytest.mark.parametrize("case", ["evaluation", "32 bits", "not compiled", "one value"])
def test_everything_else_is_timms_layer(case: str) -> None:
    norm = layer(nn.ReLU6)
    x = maps()
    plain, (other, forward) = copy.deepcopy(norm), fused(norm)
    if case == "evaluation":
        plain.eval()
        other.eval()
        assert torch.equal(forward(x), plain(x))
        return
    if case == "one value":
        with pytest.raises(RuntimeError, match="more than 1 value per channel"):
            forward(x[:1, :, :1, :1])
        return
    x = x.float() if case == "32 bits" else x
    expected_of: Callable[[Tensor], Tensor] = plain
    if case == "not compiled":
        forward = other
    else:
        expected_of = torch.compile(plain, backend="aot_eager", dynamic=False)
    found, expected = run(other, forward, x), run(plain, expected_of, x)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_only_known_activations_are_fused() -> None:
    def count(backbone: str) -> int:
        network = Network(backbone, 4, 64, [8], 0.0, "flatten", PretrainedConfig())
        return sum(isinstance(module, FusedNormAct) for module in network.modules())

    assert count("mobilenetv1_100") == 27
    assert count("efficientnet_b0") == 16  # those without activation; the others have SiLU
    assert count("resnet18") == 0
