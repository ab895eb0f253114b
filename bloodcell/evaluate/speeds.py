"""Results of `bloodcell benchmark`: images per second of each stage, as a table and as JSON."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from bloodcell.files import write_whole


class Speeds(NamedTuple):
    """Images per second with one batch size.

    Attributes:
        batch_size: images per step.
        data: batches picked and augmented, without a network.
        network: training steps of the network alone, on random pixels in device memory.
        training: training as `fit` does it.
        inference: predictions of the network for real images.
        not_network: mean over the rounds of the share of a training step's time outside the
            network, at most 1; noise can make a small share negative.
        not_network_error: standard error of `not_network`.
        compiled: mode of `torch.compile` in training and in the network alone; False if neither
            was compiled.
        memory_gib: peak memory of training on the device; None on a CPU.
        kernels: kernels of the compiled forward and backward pass of a step; this and the following
            are None if nothing was compiled, PyTorch cannot count or the least is unknown.
        traffic_mb: megabytes per image that these kernels read and write, from caches or memory.
        of_least: this traffic divided by the least that a network of this shape needs.
    """

    batch_size: int
    data: float
    network: float
    training: float
    inference: float
    not_network: float
    not_network_error: float
    compiled: str | bool
    memory_gib: float | None
    kernels: int | None = None
    traffic_mb: float | None = None
    of_least: float | None = None


_ROWS = {  # field: its name in the table, and its format
    "data": ("batches without a network", "{:,.0f}"),
    "network": ("network alone", "{:,.1f}"),
    "training": ("training", "{:,.1f}"),
    "inference": ("inference", "{:,.1f}"),
    "not_network": ("time outside the network", "{:.1%}"),
    "not_network_error": ("    standard error", "{:.1%}"),
    "compiled": ("mode of torch.compile", "{}"),
    "memory_gib": ("memory, GiB", "{:.2f}"),
    "kernels": ("kernels in a forward and backward pass", "{:,}"),
    "traffic_mb": ("MB these kernels read and write per image", "{:,.0f}"),
    "of_least": ("multiple of the least traffic", "{:.2f}"),
}


def print_speeds(title: str, cache_build: float, speeds: list[Speeds]) -> None:
    """Prints the table.

    Args:
        title: what was measured.
        cache_build: images per second decoded into the cache.
        speeds: results for each batch size.
    """
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("images per second, unless stated")
    for found in speeds:
        table.add_column(f"batch {found.batch_size}", justify="right")
    table.add_row("decoding into the cache (up to 2,000 images)", f"{cache_build:,.0f}")
    for field, (name, form) in _ROWS.items():
        values = [getattr(found, field) for found in speeds]
        if any(value is not None for value in values):
            table.add_row(
                name, *("" if v is None else form.format("no" if v is False else v) for v in values)
            )
    console = Console(width=max(80, 30 + 14 * len(speeds)))
    console.print(title, style="bold", soft_wrap=True, highlight=False)
    console.print(table)


def write_speeds(
    path: Path, settings: dict[str, Any], cache_build: float, found: list[Speeds]
) -> None:
    """Writes the results as JSON.

    Args:
        path: the file.
        settings: what was measured, and on which machine.
        cache_build: images per second decoded into the cache.
        found: results for each batch size.
    """
    results = settings | {
        "cache_build_images_per_second": cache_build,
        "images_per_second": [speeds._asdict() for speeds in found],
    }
    with write_whole(path) as file:
        file.write(json.dumps(results, indent=1) + "\n")
