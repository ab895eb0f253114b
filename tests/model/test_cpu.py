import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bloodcell.memory import keep_memory
from bloodcell.model.cpu import has_fast_bfloat16, multiply_pointwise, spare_slow_kernels
from bloodcell.model.network import Network, PretrainedConfig, create_trunk

MOBILENET = "mobilenetv1_100"


def output(trunk: torch.nn.Module) -> Tensor:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        said: Tensor = trunk(images)
    return said


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_memory_is_used_again() -> None:
    import resource

    if not keep_memory():
        pytest.skip("no glibc")

    def page_faults() -> int:
        for _ in range(4):
            torch.ones(2**24)  # 64 MiB
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    page_faults()
    before = page_faults()
    assert page_faults() - before < 1000  # it would be 65,536


@pytest.mark.skipif(sys.platform != "linux", reason="pages of Linux")
@pytest.mark.parametrize("choice", [None, "0"])
def test_large_tensors_lie_in_huge_pages(choice: str | None) -> None:
    allowed = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not allowed.is_file() or "[madvise]" not in allowed.read_text():
        pytest.skip("this system does not let programs choose")
    program = """
from pathlib import Path

from bloodcell.memory import use_huge_pages

use_huge_pages()
import torch

ones = torch.ones(2**24)  # 64 MiB
print(Path("/proc/self/smaps_rollup").read_text())
"""
    variables = {name: value for name, value in os.environ.items() if "THP" not in name}
    if choice:
        variables["THP_MEM_ALLOC_ENABLE"] = choice
    ran = subprocess.run(
        [sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=True
    )
    (huge,) = (line.split()[1] for line in ran.stdout.splitlines() if "AnonHugePages" in line)
    assert (int(huge) > 2**15) == (choice is None)  # KiB


def test_strided_depthwise_convolutions_compute_in_float32() -> None:
    trunk = create_trunk(MOBILENET, PretrainedConfig())
    names = list(trunk.state_dict())
    spare_slow_kernels(trunk)
    assert list(trunk.state_dict()) == names
    spared = [name for name, module in trunk.named_modules() if "forward" in vars(module)]
    assert spared == [f"blocks.{stage}.0.conv_dw" for stage in (1, 2, 3, 4)]
    conv = trunk.get_submodule("blocks.1.0.conv_dw")
    assert isinstance(conv, torch.nn.Conv2d)
    x = torch.randn(2, 64, 9, 9).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        said = conv(x)
    exact = functional.conv2d(x.float(), conv.weight, stride=2, padding=1, groups=64)
    assert torch.equal(said, exact.bfloat16())


def test_every_parameter_gets_a_gradient_in_bfloat16() -> None:
    network = Network(MOBILENET, 4, 64, [8], 0.0, "flatten", PretrainedConfig())
    functional.cross_entropy(output(network).float(), torch.tensor([0, 1])).backward()  # type: ignore[no-untyped-call]
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


def test_a_copy_has_weights_of_its_own() -> None:
    network = Network(MOBILENET, 4, 64, [8], 0.0, "flatten", PretrainedConfig()).eval()
    before, other = output(network), copy.deepcopy(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert torch.equal(output(other), before)


def test_fast_bfloat16_is_what_the_system_says() -> None:
    said = Path("/proc/cpuinfo")
    if not said.is_file():
        pytest.skip("no /proc/cpuinfo")
    flags = said.read_text().split()
    assert has_fast_bfloat16() == ("amx_bf16" in flags or "avx512_bf16" in flags)


def test_pointwise_convolutions_are_products_in_compiled_training() -> None:
    torch.manual_seed(0)
    layers = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 6, 3), nn.Conv2d(6, 4, 1, stride=2)
    trunk = nn.Sequential(*layers).bfloat16()
    plain, names = copy.deepcopy(trunk), list(trunk.state_dict())
    multiply_pointwise(trunk)
    assert list(trunk.state_dict()) == names
    x = torch.randn(2, 8, 9, 7).bfloat16().to(memory_format=torch.channels_last)
    assert torch.equal(trunk(x), plain(x)), "only if it is compiled"
    called: list[object] = []

    def keep(graph: torch.fx.GraphModule, _: object) -> Callable[..., Any]:
        called.extend(node.target for node in graph.graph.nodes)
        return graph.forward

    def gradients(network: nn.Module) -> list[Tensor]:
        said = torch.compile(network, backend=keep, dynamic=False)(x)
        total = said.float().square().sum()
        return list(torch.autograd.grad(total, list(network.parameters())))

    found = gradients(trunk)
    assert called.count(torch.conv2d) == 2
    assert called.count(functional.linear) == 1
    for one, other in zip(found, gradients(plain), strict=True):
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.02 * float(other.abs().max()))
