"""Measures a training step of d8's network with and without padded copies, in turns.

python scripts/benchmark_padding.py [BATCH_SIZE]

OMP_NUM_THREADS sets the number of threads. The step is compiled and in bfloat16, without data.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from bloodcell.memory import keep_memory
from bloodcell.model.compiled import CompiledPass
from bloodcell.model.mirror import Mirror
from bloodcell.model.network import BACKBONE, Network
from bloodcell.model.pretrained import KERAS

_SIDE, _CLASSES = 224, 4
_WARM_UP, _ROUNDS = 3, 12


def make_step(batch_size: int, mirrors: bool) -> Callable[[], None]:
    """Returns one training step of a new network."""
    torch.manual_seed(0)
    network = Network(BACKBONE, _CLASSES, _SIDE, [8], 0.5, "flatten", KERAS)
    if not mirrors:
        network._mirror = Mirror(nn.Identity())  # the trunk is never told to mirror
    forward = CompiledPass(network, "default", torch.device("cpu"))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-5, fused=True)
    pixels = torch.randint(0, 256, (batch_size, 3, _SIDE, _SIDE), dtype=torch.uint8)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    targets = torch.randint(0, _CLASSES, (batch_size,))

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(forward(pixels).float(), targets)
        torch.autograd.backward(loss)
        optimizer.step()

    return step


def main(batch_size: int) -> None:
    keep_memory()
    steps = {name: make_step(batch_size, name == "mirrored") for name in ("copied", "mirrored")}
    for step in steps.values():
        for _ in range(_WARM_UP):
            step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(_ROUNDS):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    print(f"batch {batch_size}, {torch.get_num_threads()} threads, median of {_ROUNDS} steps")
    for name, taken in seconds.items():
        middle = statistics.median(taken)
        print(f"{name:9}{middle * 1e3:7.0f} ms {batch_size / middle:7.1f} images/s")
    pairs = zip(*seconds.values(), strict=True)
    print(f"ratio    {statistics.median(copied / mirrored for copied, mirrored in pairs):7.3f}")


if __name__ == "__main__":
    if len(sys.argv) > 2 or not all(word.isdecimal() and int(word) for word in sys.argv[1:]):
        sys.exit(__doc__)
    main(*map(int, sys.argv[1:] or ["32"]))
