"""Measures a training step of d8's network without each way of saving memory traffic, in turns.

python scripts/benchmark_step.py [BATCH_SIZE]

OMP_NUM_THREADS sets the number of threads. The step is compiled and in bfloat16, without data.
Each variant has its own process, as PyTorch reads some of the settings only once.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

from bloodcell.memory import keep_memory

VARIANTS = {  # what each does without
    "as trained": "",
    "padded copies of maps": "mirror",
    "the compiler's own settings": "options",
    "pages of 4 KiB": "pages",
    "all three": "mirror options pages",
}
SIDE, _CLASSES, _WARM_UP, _ROUNDS = 224, 4, 4, 15


def make_step(batch_size: int, without: str = "") -> Callable[[], None]:
    """Returns one training step of a new network."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    from bloodcell.model import compiled
    from bloodcell.model.mirror import Mirror
    from bloodcell.model.network import BACKBONE, Network
    from bloodcell.model.pretrained import KERAS

    torch.manual_seed(0)
    network = Network(BACKBONE, _CLASSES, SIDE, [8], 0.5, "flatten", KERAS)
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
    keep_memory()


def run_variant(batch_size: int, without: str) -> None:
    """Runs a step for each line of the standard input, and prints the seconds it took."""
    prepare_process(without)
    step = make_step(batch_size, without)
    for _ in range(_WARM_UP):
        step()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        step()
        print(time.perf_counter() - start, flush=True)


def main(batch_size: int) -> None:
    """Prints the table."""
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    with ExitStack() as stack:
        processes = {}
        for name, without in VARIANTS.items():
            command = [sys.executable, __file__, str(batch_size), without]
            pipe = subprocess.PIPE
            process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
            )
            processes[name] = stack.enter_context(process)
            assert process.stdout
            if process.stdout.readline() != "ready\n":  # one after the other
                sys.exit(f"{name}: {' '.join(command)} failed")
        for _ in range(_ROUNDS):
            for name, process in processes.items():
                assert process.stdin
                assert process.stdout
                process.stdin.write("\n")
                process.stdin.flush()
                seconds[name].append(float(process.stdout.readline()))
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    print(f"batch {batch_size}, {threads} threads, median of {_ROUNDS} steps")
    best, *_ = seconds.values()
    for name, taken in seconds.items():
        middle = statistics.median(taken)
        ratio = statistics.median(other / one for one, other in zip(best, taken, strict=True))
        speed = f"{middle * 1e3:7.0f} ms {batch_size / middle:7.1f} images/s"
        print(f"{name:28}{speed} {ratio:7.3f} times as long")


if __name__ == "__main__":
    words = sys.argv[1:]
    if len(words) > 2 or not all(word.isdecimal() and int(word) for word in words[:1]):
        sys.exit(__doc__)
    if len(words) == 2:
        run_variant(int(words[0]), words[1])
    else:
        main(*map(int, words or ["32"]))
