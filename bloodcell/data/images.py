"""The decoded images of a table, in one tensor."""

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from bloodcell.data.augment import cut_margin
from bloodcell.data.batches import ImageDataset
from bloodcell.data.cache import open_cached
from bloodcell.data.crop import InputFormat
from bloodcell.data.decode import Report, allocate, decode_into
from bloodcell.data.placement import Gather
from bloodcell.data.source import Source
from bloodcell.data.table import Table
from bloodcell.errors import InputError


class Images(NamedTuple):
    """Decoded images.

    Attributes:
        pixels: (n, 3, H, W) uint8.
        places: the index of each table row in `pixels`.
        report: unreadable files with the reasons, and notes on others.
    """

    pixels: Tensor
    places: dict[int, int]
    report: Report


def open_images(
    source: Source, table: Table, rows: list[int], input_format: InputFormat, cache_gib: float
) -> Images:
    """Opens the decoded images of a table in the cache, or decodes some into memory.

    Args:
        source: the image files.
        table: the table of all images.
        rows: the table rows that are needed; the cache always has all rows.
        input_format: size and crop of the images.
        cache_gib: limit of the cache in GiB; 0 decodes into memory.
    """
    if cache_gib:
        rows = list(range(len(table.rows)))
    names = [table.rows[i].path for i in rows]
    if cache_gib:
        pixels, report = open_cached(source, names, input_format, cache_gib)
    else:
        pixels = allocate(len(rows), input_format.decoded)
        report = decode_into(pixels, source, names, input_format)
    with warnings.catch_warnings():  # the array is read-only on purpose; batches are copies
        warnings.filterwarnings("ignore", ".*array is not writable.*")
        images = torch.from_numpy(pixels)
    places = {i: place for place, i in enumerate(rows)}
    return Images(images.permute(0, 3, 1, 2), places, report)  # (n, H, W, 3) -> (n, 3, H, W)


def make_datasets(
    images: Images,
    table: Table,
    parts: dict[str, list[int]],
    gather: Gather,
    pin: bool,
    repeats: bool,
    margin: int = 0,
) -> dict[str, ImageDataset]:
    """Makes the datasets of some parts, without unreadable images.

    Args:
        images: the decoded images.
        table: the table of all images.
        parts: the table rows of each part.
        gather: returns images by their index.
        pin: as for `ImageDataset`.
        repeats: as for `ImageDataset`, of the training part.
        margin: pixels on all sides of the images that only the training part shows.

    Raises:
        InputError: if no image of a part can be read.
    """
    datasets = {}

    def middle(places: Tensor) -> Tensor:
        return cut_margin(gather(places), margin)

    for part, rows in parts.items():
        kept = [i for i in rows if table.rows[i].path not in images.report.unreadable]
        if not kept:
            raise InputError(
                f"data.unreadable=skip leaves no image in the {part} part. Fix the images."
            )
        places = torch.tensor([images.places[i] for i in kept])
        targets = torch.tensor([table.labels[i] for i in kept])
        trained = part == "train"
        datasets[part] = ImageDataset(
            *(gather if trained else middle, places, targets, torch.tensor(kept), pin),
            repeats=repeats and trained,
            middle=middle,
        )
    return datasets
