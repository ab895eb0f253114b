"""`bloodcell explain`: draws heat maps of the evidence for the predicted classes."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bloodcell.data.decode import Notes
from bloodcell.data.image_files import LeftOut
from bloodcell.errors import InputError, require
from bloodcell.evaluate.figures.explained import Explained, draw_explained
from bloodcell.evaluate.figures.style import save
from bloodcell.files import at_home, check_place, is_folder
from bloodcell.infer.decoding import Decoded, decode_batches
from bloodcell.infer.inputs import Named, check_given, find_images, reads
from bloodcell.infer.open import find_trained
from bloodcell.infer.tally import UNLIKE_IMAGES

if TYPE_CHECKING:
    from bloodcell.infer.saved import Saved

_OUT = "explained.png"
MOST = 60  # images per figure
_BATCH_SIZE = 16


def explain(images: list[str], model: str | None = None, out: str = _OUT) -> bool:
    """Draws images beside heat maps of the evidence for their predicted class.

    Coloured, outlined regions support the predicted class.

    Args:
        images: files, folders, .zip files, folders in a .zip (x.zip/folder), patterns, or - to read
            paths from the standard input, one per line.
        model: a run folder, a .ckpt or a .safetensors file (default: the bundled model).
        out: a .png file for up to 60 images, or a folder for one figure per image.

    Returns:
        Whether every image could be read.

    Raises:
        InputError: if an argument is invalid, or there are too many images for one figure.
    """
    check_given(images)
    path = Path(out)
    one_each = is_folder(out)
    if not one_each:
        check_place("--out", out, ".png")
    _check_own(images, out, one_each)
    opened = find_trained(model)
    from bloodcell.infer.saved import load_saved  # imports torch: after the checks

    saved = load_saved(opened)
    rule = "a model whose trunk outputs a feature map, e.g. a convolutional network"
    require(saved.network.has_map, "--model", saved.description.backbone, rule)
    failed: list[Decoded] = []
    left_out, notes = LeftOut(), Notes()
    name = saved.description.name
    draw = _draw_each if one_each else _draw_together
    with ExitStack() as archives:
        own = path.resolve()
        given = find_images(images, archives, left_out)
        found = (one for one in given if Path(one.name).resolve() != own)
        unlike = draw(name, _explain(saved, found, failed, notes), path)
    if unlike:
        print(f"{UNLIKE_IMAGES.format(unlike)}.", file=sys.stderr)
    for line in [*notes.lines(), *([str(left_out)] if left_out else [])]:
        print(line, file=sys.stderr)
    for bad in failed:
        print(f"{bad.name}: {bad.error}", file=sys.stderr)
    return not failed


def _check_own(images: Sequence[str], out: str, one_each: bool) -> None:
    """Raises InputError if `--out` would replace a given image, or the next call read figures."""
    if one_each and (word := reads(images, Path(out))):
        raise InputError(
            f"--out {out} is in {word}: the next call would read the figures as images. Give a "
            "folder outside of it."
        )
    if out != _OUT and any(at_home(word).resolve() == Path(out).resolve() for word in images):
        raise InputError(
            f"--out {out} is a given image, which it would replace. Give another file."
        )


def _draw_each(title: str, images: Iterator[Explained], folder: Path) -> int:
    """Draws a figure per image; returns how many are unlike all training images."""
    folder.mkdir(parents=True, exist_ok=True)
    count = unlike = 0
    for count, image in enumerate(images, 1):
        file = folder / f"{count:04d}_{Path(image.name).stem}.png"
        save(draw_explained(title, [image]), file)
        unlike += bool(image.unlike)
    print(f"{count:,} figures in {folder}")
    return unlike


def _draw_together(title: str, images: Iterator[Explained], path: Path) -> int:
    """Draws one figure; returns how many images are unlike all training images."""
    drawn = list(islice(images, MOST + 1))
    if len(drawn) > MOST:
        raise InputError(
            f"one figure holds at most {MOST} images. Give fewer images, or give --out a "
            "folder for one figure per image."
        )
    if drawn:
        save(draw_explained(title, drawn), path)
        print(path)
    return sum(bool(image.unlike) for image in drawn)


def _explain(
    saved: "Saved", images: Iterator[Named], failed: list[Decoded], notes: Notes
) -> Iterator[Explained]:
    from bloodcell.infer.heat import find_heat

    names = saved.description.class_names
    for batch in decode_batches(images, saved.description.input_format, _BATCH_SIZE):
        failed += [image for image in batch if image.pixels is None]
        for image in batch:
            if image.note:
                notes.add(image.name, image.note)
        good = [(image.name, image.pixels) for image in batch if image.pixels is not None]
        if not good:
            continue
        found = find_heat(saved, np.stack([pixels for _, pixels in good]))
        unlike: list[bool | None] = [None] * len(good)
        if saved.gallery:
            unlike = saved.gallery.are_unlike(found.features).tolist()
        each = zip(good, found.heat, found.probability, unlike, strict=True)
        for (name, pixels), heat, row, far in each:
            probability = dict(zip(names, row.tolist(), strict=True))
            yield Explained(name, pixels, heat, probability, far)
