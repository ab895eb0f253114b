import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bloodcell.errors import InputError
from bloodcell.model.compiled import Compile, CompiledPass

CPU = torch.device("cpu")
Forward = Callable[[Tensor], Tensor]


@pytest.fixture
def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 4))


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that pass through the compiled network."""
    found: list[int] = []

    def compile_(forward: Forward, **_: Any) -> Forward:
        return lambda images: found.append(len(images)) or forward(images)  # type: ignore[func-returns-value]

    monkeypatch.setattr("torch.compile", compile_)
    return found


def pixels(n: int) -> Tensor:
    return torch.rand(n, 3, 2, 2, generator=torch.Generator().manual_seed(n))


def test_only_batches_of_the_first_shape_are_compiled(
    network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def compile_(forward: Forward, options: dict[str, int], dynamic: bool) -> Forward:
        assert options
        assert not dynamic
        return lambda images: sizes.append(len(images)) or forward(images)  # type: ignore[func-returns-value]

    monkeypatch.setattr("torch.compile", compile_)
    training_pass = CompiledPass(network, "default", CPU)
    for n in (8, 8, 3, 8):
        assert torch.equal(training_pass(pixels(n)), network(pixels(n)))
    assert sizes == [8, 8, 8, 8]  # the first to try it


@pytest.mark.parametrize(
    ("how", "n_pixels", "compiler", "vectors", "compiled"),
    [
        ("auto", 1e12, "/usr/bin/g++", "AVX512", True),
        ("auto", 1e12, "/usr/bin/g++", "SVE256", True),
        ("auto", 1e12, "/usr/bin/g++", "AVX2", False),
        ("auto", 1e12, None, "AVX512", False),
        ("auto", 1e6, "/usr/bin/g++", "AVX512", False),
        (False, 1e12, "/usr/bin/g++", "AVX512", False),
        ("default", 0, None, "AVX2", True),
    ],
)
def test_a_cpu_compiles_long_trainings(
    network: nn.Module,
    monkeypatch: pytest.MonkeyPatch,
    how: Compile,
    n_pixels: float,
    compiler: str | None,
    vectors: str,
    compiled: bool,
) -> None:
    compiles: list[Forward] = []

    def compile_(forward: Forward, **_: Any) -> Forward:
        compiles.append(forward)
        return forward

    monkeypatch.setattr("torch.compile", compile_)
    monkeypatch.setattr("shutil.which", lambda _: compiler)
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: vectors)
    training_pass = CompiledPass(network, how, CPU, n_pixels)
    training_pass(pixels(8))
    assert training_pass.mode == ("default" if compiled else False)
    assert compiles == [network.forward] * compiled


def test_a_gpu_and_other_modes_use_the_compilers_own_settings(
    network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "torch.compile",
        lambda forward, **given: found.append(given) or forward,  # type: ignore[func-returns-value]
    )
    CompiledPass(network, "default", torch.device("cuda"))
    CompiledPass(network, "max-autotune", CPU)
    assert [given["mode"] for given in found] == ["default", "max-autotune"]
    assert not any("options" in given for given in found)


def test_trying_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.compile", lambda forward, **_: forward)
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4))
    CompiledPass(network, "default", CPU)(pixels(8))
    assert network.get_buffer("0.num_batches_tracked") == 1
    assert all(p.grad is None for p in network.parameters())


def test_trying_leaves_the_random_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.compile", lambda forward, **_: forward)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 64), nn.Dropout(0.5))
    training_pass = CompiledPass(network, "default", CPU)
    torch.manual_seed(3)
    first = training_pass(pixels(8))
    torch.manual_seed(3)
    assert torch.equal(training_pass(pixels(8)), first)


def test_a_short_first_batch_is_not_compiled(network: nn.Module, sizes: list[int]) -> None:
    """As in a run that is resumed before the last batch of an epoch."""
    training_pass = CompiledPass(network, "default", CPU, batch_size=8)
    for n in (3, 8, 8):
        assert torch.equal(training_pass(pixels(n)), network(pixels(n)))
    assert sizes == [8, 8, 8]  # the first to try it


def test_cuda_graphs_are_recorded_in_the_trial(network: nn.Module, sizes: list[int]) -> None:
    """The first pass of a graph only warms up; the second one records it."""
    CompiledPass(network, "reduce-overhead", torch.device("cuda"))(pixels(8))
    assert sizes == [8, 8, 8]


def test_trying_leaves_other_devices_alone(
    network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their random states are read only by starting each of them."""
    monkeypatch.setattr("torch.compile", lambda forward, **_: forward)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    CompiledPass(network, "default", CPU)(pixels(8))


def test_memory_that_runs_out_is_no_failure_of_the_compiler(
    network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Tensor) -> Tensor:
        raise RuntimeError("backend='inductor' raised:\nOutOfMemoryError: CUDA out of memory.")

    monkeypatch.setattr("torch.compile", lambda *_, **__: full)
    monkeypatch.setattr("bloodcell.model.compiled._best_mode", lambda *_: "default")
    with pytest.raises(RuntimeError, match="CUDA out of memory"):
        CompiledPass(network, "auto", CPU)(pixels(8))


def test_gradients_of_several_batches_rule_out_cuda_graphs(network: nn.Module) -> None:
    with pytest.raises(
        InputError, match=r"model\.compile=reduce-overhead cannot be used: it must b"
    ):
        CompiledPass(network, "reduce-overhead", torch.device("cuda"), accumulates=True)


class FailingBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        return logits.clone()

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Tensor:
        raise torch._dynamo.exc.TorchDynamoException("no compiler here")


def fails_forward(images: Tensor) -> Tensor:
    raise torch._dynamo.exc.TorchDynamoException("no compiler here")


@pytest.mark.parametrize("way", ["forward", "backward"])
def test_a_compiler_that_fails(
    network: nn.Module, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    def fails_backward(images: Tensor) -> Tensor:
        said: Tensor = FailingBackward.apply(network(images))
        return said

    fails = {"forward": fails_forward, "backward": fails_backward}[way]
    monkeypatch.setattr("torch.compile", lambda *_, **__: fails)
    monkeypatch.setattr("bloodcell.model.compiled._best_mode", lambda *_: "reduce-overhead")
    by_itself = CompiledPass(network, "auto", CPU)
    with pytest.warns(UserWarning, match=r"not compiled \(no compiler here\)"):
        said = by_itself(pixels(8))
    assert torch.equal(said, network(pixels(8)))
    assert torch.equal(by_itself(pixels(8)), said)  # without a second warning
    assert by_itself.mode is False
    with pytest.raises(
        InputError, match=r"model\.compile=default, but PyTorch's compiler does not"
    ):
        CompiledPass(network, "default", CPU)(pixels(8))


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_for_real(network: nn.Module) -> None:
    training_pass = CompiledPass(network, "default", CPU)
    loss = training_pass(pixels(8)).square().sum()
    torch.autograd.backward(loss)
    compiled = [p.grad for p in network.parameters()]
    network.zero_grad()
    torch.autograd.backward(network(pixels(8)).square().sum())
    for one, parameter in zip(compiled, network.parameters(), strict=True):
        assert one is not None
        assert torch.allclose(one, parameter.grad, atol=1e-5)  # type: ignore[arg-type]
    assert list(network.state_dict()) == ["1.weight", "1.bias"]
