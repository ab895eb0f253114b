"""Compares a training step of d8's network with the limits of this CPU.

python scripts/roofline.py 32

OMP_NUM_THREADS sets the number of threads. A step cannot be faster than its multiplications at the
speed of a large matrix product, nor than its memory traffic at the speed of a copy.
"""

import time
from collections.abc import Callable

from arguments import count, make_parser
from benchmark_step import SIDE, make_step, prepare_process

_REPEATS = 10
_SIZES = {"256 MiB": 256, "16 MiB": 16, "1 MiB": 1}  # read, and as many written, by a copy


def best_seconds(work: Callable[[], object]) -> float:
    """Returns the shortest of several times."""
    taken = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)


def main(batch_size: int) -> None:
    """Prints the limits and the step."""
    prepare_process()
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from bloodcell import machine
    from bloodcell.model.network import BACKBONE, Network
    from bloodcell.model.pretrained import KERAS
    from bloodcell.train.traffic import count_traffic
    from bloodcell.train.trainer import device_name

    cpu = torch.device("cpu")
    described = machine.describe(device_name(cpu))
    print(f"{described['device']}, {torch.get_num_threads()} threads, {described['git_commit']}")
    copies = {}
    for name, mib in _SIZES.items():
        source = torch.randn(mib * 2**19).bfloat16()
        target = torch.empty_like(source)
        copies[name] = 2 * source.nbytes / best_seconds(lambda: target.copy_(source))  # noqa: B023
        print(f"copy of {name}: {copies[name] / 1e9:.1f} GB/s read and written")
    peaks = {}
    for kind in (torch.bfloat16, torch.float32):
        matrix = torch.randn(2048, 2048).to(kind)
        product = torch.empty_like(matrix)
        taken = best_seconds(lambda: torch.mm(matrix, matrix, out=product))  # noqa: B023
        peaks[kind] = 2 * 2048**3 / taken
        print(f"matrix product in {kind}: {peaks[kind] / 1e9:,.0f} GFLOP/s")

    network = Network(BACKBONE, 4, SIDE, [8], 0.5, "flatten", KERAS)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, SIDE, SIDE))
    flops = 3 * counter.get_total_flops()  # each of the two gradients takes as many
    traffic = count_traffic(
        network, "default", batch_size, SIDE, lambda: torch.autocast("cpu", torch.bfloat16)
    )
    assert traffic
    step = make_step(batch_size)
    for _ in range(4):
        step()
    slow, fast = copies["256 MiB"], copies["1 MiB"]
    print(f"{flops / 1e9:.2f} GFLOP an image; {traffic.kernels} kernels a step")
    print(f"{traffic.mb:.0f} MB read and written an image; the least is {traffic.least_mb:.0f} MB")
    rows = {
        "step": batch_size / best_seconds(step),
        "limit of its multiplications": peaks[torch.bfloat16] / flops,
        "limit of its traffic, from memory": slow / traffic.mb / 1e6,
        "limit of its traffic, from a cache": fast / traffic.mb / 1e6,
        "limit of the least traffic, from memory": slow / traffic.least_mb / 1e6,
    }
    for name, speed in rows.items():
        print(f"{name:40}{speed:9.1f} images/s")


if __name__ == "__main__":
    parser = make_parser(__doc__)
    parser.add_argument("batch_size", type=count, nargs="?", default=32, help="default: 32")
    main(parser.parse_args().batch_size)
