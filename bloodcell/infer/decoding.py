"""Decodes images ahead of their classification, on all cores."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

from PIL import Image

from bloodcell.data.cell import Cell
from bloodcell.data.crop import AUTO, Field, InputFormat, Pixels, show, show_cells
from bloodcell.data.decode import note_of
from bloodcell.data.image_files import READ_ERRORS
from bloodcell.errors import reason
from bloodcell.infer.inputs import Input
from bloodcell.machine import usable_cpus

NO_CELL = "no white cell found"
_AHEAD = 3  # batches that are decoded while one is classified


class Decoded(NamedTuple):
    """A decoded image, or the reason why decoding failed.

    Attributes:
        name: the image's name in the output.
        pixels: (H, W, 3) in the model's input format; None if decoding failed.
        error: reason why decoding failed; empty otherwise.
        cell: position of the cell in the picture; None for a whole image.
        read: reads the picture's bytes again; all cells of a picture share this object.
        note: how the picture was changed when it was read, e.g. scaled; empty if it was not.
    """

    name: str
    pixels: Pixels | None
    error: str
    cell: Cell | None = None
    read: Callable[[], bytes] | None = None
    note: str = ""


def decode_batches(
    images: Iterable[Input], input_format: InputFormat | None, batch_size: int
) -> Iterator[list[Decoded]]:
    """Yields batches of images, decoded on all cores a few batches ahead.

    Args:
        images: the images.
        input_format: the model's input format; None keeps whole images, reduced if they are large.
        batch_size: images per list; the last list may be shorter.
    """

    def whole(name: str, image: Image.Image) -> list[Decoded]:
        return [Decoded(name, show(image, input_format), "")]

    yield from _decode_ahead(images, whole, batch_size)


def decode_cells(
    images: Iterable[Input], size: int, field: Field, batch_size: int
) -> Iterator[list[Decoded]]:
    """Yields batches of white cells, found on all cores a few batches ahead.

    Args:
        images: the pictures. A picture that has no white cell, or is too small for the field of
            view, yields one `Decoded` with an error.
        size: side of the square crops around the cells in pixels.
        field: width of the field of view relative to the Kaggle images'; 2 is twice as wide, `auto`
            measures it.
        batch_size: pictures decoded together, and largest number of cells per list.
    """

    def cells(name: str, image: Image.Image) -> list[Decoded]:
        found = show_cells(image, size, field)
        decoded = [Decoded(name, pixels, "", cell) for cell, pixels in found]
        return decoded or [Decoded(name, None, f"{NO_CELL}; {_hint(field)}")]

    for together in _decode_ahead(images, cells, batch_size):
        for start in range(0, len(together), batch_size):
            yield together[start : start + batch_size]


def _hint(field: Field) -> str:
    if field == AUTO:
        return "if the picture shows one, the width of its field was measured wrongly: set field"
    return f"if the field of view is wider than about {6.4 * field:.3g} red cells, set field"


Make = Callable[[str, Image.Image], list[Decoded]]


def _decode_ahead(images: Iterable[Input], make: Make, batch_size: int) -> Iterator[list[Decoded]]:
    """Yields the joined results of `make` for every `batch_size` images."""
    waiting: deque[list[Future[list[Decoded]]]] = deque()
    with ThreadPoolExecutor(usable_cpus()) as pool:
        try:
            coming = iter(images)
            while chunk := list(islice(coming, batch_size)):
                waiting.append([pool.submit(_decode, image, make) for image in chunk])
                if len(waiting) > _AHEAD:
                    yield [one for future in waiting.popleft() for one in future.result()]
            while waiting:
                yield [one for future in waiting.popleft() for one in future.result()]
        finally:
            pool.shutdown(cancel_futures=True)


def _decode(image: Input, make: Make) -> list[Decoded]:
    try:
        opened = image.open()
        note = note_of(opened)
        return [one._replace(read=image.read, note=note) for one in make(image.name, opened)]
    except READ_ERRORS as error:
        system = error.strerror if isinstance(error, OSError) else None
        return [Decoded(image.name, None, system or reason(error), read=image.read)]
