"""Measures a training step of d8's network without each of the ways that make it faster, in turns.

python scripts/benchmark_step.py 32

OMP_NUM_THREADS sets the number of threads. The step is compiled and in bfloat16, without data.
Each measurement has a new process: PyTorch reads some settings only once, and the place of a
process in memory changes its speed.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from arguments import count, make_parser

from bloodcell.memory import keep_memory, use_huge_pages

VARIANTS = {  # words for what each does without
    "as trained": "",
    "padded copies of maps": "mirror",
    "the compiler's own settings": "options",
    "BatchNorm of timm and PyTorch": "norms",
    "convolutions of 1 by 1": "products",
    "pages of 4 KiB": "pages",
    "all five": "mirror options norms products pages",
}
SIDE, _CLASSES, _WARM_UP, _STEPS, _ROUNDS = 224, 4, 4, 10, 2


def make_step(batch_size: int, without: str = "") -> Callable[[], None]:
    """Returns one training step of a new network."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    from bloodcell.model import compiled, norm
    from bloodcell.model import network as module
    from bloodcell.model.mirror import Mirror
    from bloodcell.model.pretrained import KERAS

    torch.manual_seed(0)
    if "norms" in without:
        norm._LARGEST.clear()
    if "products" in without:
        vars(module)["multiply_pointwise"] = lambda trunk: None
    network = module.Network(module.BACKBONE, _CLASSES, SIDE, [8], 0.5, "flatten", KERAS)
    if "mirror" in without:
        network.mirror = Mirror(nn.Identity())  # the trunk is never told to mirror
    if "options" in without:
        compiled._CPU_OPTIONS.clear()
    forward = compiled.CompiledPass(network, "default", torch.device("cpu"))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-5, fused=True)
    pixels = torch.randint(0, 256, (batch_size, 3, SIDE, SIDE), dtype=torch.uint8)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    targets = torch.randint(0, _CLASSES, (batch_size,))

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(forward(pixels).float(), targets)
        torch.autograd.backward(loss)
        optimizer.step()

    return step


def prepare_process(without: str = "") -> None:
    """Sets up the memory allocator; call this before PyTorch is imported."""
    if "pages" in without:
        os.environ["THP_MEM_ALLOC_ENABLE"] = "0"
    use_huge_pages()
    keep_memory()


def time_step(batch_size: int, without: str) -> None:
    """Prints the median seconds of a step."""
    prepare_process(without)
    step = make_step(batch_size, without)
    for _ in range(_WARM_UP):
        step()
    seconds = []
    for _ in range(_STEPS):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    print(statistics.median(seconds))


def main(batch_size: int) -> None:
    """Prints the table."""
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for number in range(_ROUNDS):
        for name, without in VARIANTS.items():
            command = [sys.executable, __file__, str(batch_size), without]
            ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            seconds[name].append(float(ran.stdout))
            print(f"round {number + 1}, {name}: {seconds[name][-1]:.3f} s", flush=True)
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    print(f"batch {batch_size}, {threads} threads, {_ROUNDS} rounds of {_STEPS} steps")
    best, *_ = seconds.values()
    for name, taken in seconds.items():
        ratios = ", ".join(f"{other / one:.3f}" for one, other in zip(best, taken, strict=True))
        middle = statistics.median(taken)
        speed = f"{middle * 1e3:7.0f} ms {batch_size / middle:7.1f} images/s"
        print(f"{name:32}{speed}   times as long: {ratios}")


if __name__ == "__main__":
    parser = make_parser(__doc__)
    parser.add_argument("batch_size", type=count, nargs="?", default=32, help="default: 32")
    parser.add_argument(
        "without",
        nargs="?",
        choices=VARIANTS.values(),
        help="print the seconds of a step without these; '' for the step as trained",
    )
    given = parser.parse_args()
    if given.without is None:
        main(given.batch_size)
    else:
        time_step(given.batch_size, given.without)
