"""Finds the white cells in images of a slide, draws them and counts them by class."""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bloodcell.data.cell import Cell
from bloodcell.data.crop import Field
from bloodcell.data.decode import open_rgb
from bloodcell.data.image_files import READ_ERRORS
from bloodcell.errors import InputError, reason
from bloodcell.evaluate.differential import estimate_shares
from bloodcell.evaluate.figures.cells import draw_cells
from bloodcell.evaluate.metrics import Estimate, independent_interval
from bloodcell.evaluate.scores import CONFUSION
from bloodcell.evaluate.unseen import UNSEEN
from bloodcell.files import write_whole_bytes
from bloodcell.infer.answers import Answer
from bloodcell.infer.decoding import NO_CELL
from bloodcell.infer.inputs import reads
from bloodcell.infer.runtime import Runtime


class Uncounted(Enum):
    """Answers that count for no class; not strings, because a class may have any name."""

    UNSURE = "unsure"
    UNREADABLE = "unreadable"
    UNLIKE = "unlike"
    NO_CELL = "no cell"


Counts = Counter[str | Uncounted]

_WILSON = (
    "The 95 % intervals (Wilson) show how far each share can be from that of the whole smear.\n"
    "They do not include errors of the model"
)
_LEGEND = f"{_WILSON}, which has no table of its errors."
_LEGEND_OF_SURE = (
    f"{_WILSON}: with --abstain, the counted cells have\n"
    "fewer than those on which its errors were measured, so the shares are not corrected."
)
_CORRECTED = (
    "Corrected: the share without the errors that the model makes, as measured on {}.\n"
    "The 95 % intervals are of the corrected share; they include the sampling error of\n"
    "{:,} cells, and the model's errors as estimated from those photographs."
)
_WIDENED = (
    "\nThe intervals were widened to contain the intervals that follow from the errors on {},\n"
    "each tested by a model that was trained without it. Another laboratory can cause other errors."
)
_UNTESTED = "\nNot among those photographs, so not corrected for their own errors: {}."
_NOT_COUNTED = {
    Uncounted.UNSURE: "unsure, and not counted: {:,}",
    Uncounted.UNLIKE: "unlike all training images, and not counted: {:,}",
    Uncounted.NO_CELL: (
        "images without a white cell: {:,}. If they show some, set --field to the width of their "
        "field of view: 1 is about 6.4 red cells, 3 is three times that width, auto measures it."
    ),
    Uncounted.UNREADABLE: "images unreadable: {:,}",
}


class Cells(NamedTuple):
    """Settings for finding and drawing the white cells of images.

    Attributes:
        field: width of the field of view, relative to that of the Kaggle images; `auto` measures
            it, None takes that of the model's training.
        draw: folder for copies of the images with boxes around the cells; None writes none.
    """

    field: Field | None = None
    draw: Path | None = None

    def check_folder(self, given: Sequence[str]) -> None:
        """Checks that the next call cannot read the drawings as images of the slide.

        Args:
            given: files, folders and patterns to read.

        Raises:
            InputError: if `--draw` is a file, or they would read the drawings.
        """
        if self.draw is None:
            return
        if self.draw.exists() and not self.draw.is_dir():
            raise InputError(f"--draw {self.draw} is a file. Give a folder for the drawings.")
        if word := reads(given, self.draw):
            raise InputError(
                f"--draw {self.draw} is in {word}: the next call would read the drawings as "
                "images of the slide. Give a folder outside of it."
            )

    def prepare(self, model: Runtime) -> Runtime:
        """Returns the model that classifies squares cropped around cells.

        Raises:
            InputError: if the model was trained on whole images.
        """
        if model.description.crop != "cell":
            raise InputError(
                f"--cells needs a model of single cells; {model.description.name} was trained on "
                "whole images (data.crop=none). Give --model one that was trained with "
                "--data.crop cell, or leave --model out for the bundled one."
            )
        return model.on_squares

    def draw_each(
        self, answers: Iterable[Answer], names: Sequence[str], drawn: list[Path]
    ) -> Iterator[Answer]:
        """Yields the predictions, and draws each image after the predictions for its cells.

        Args:
            answers: predictions for cells, grouped by image.
            names: the classes.
            drawn: receives the path of each drawing.
        """
        if self.draw is None:
            yield from answers
            return
        self.draw.mkdir(parents=True, exist_ok=True)
        taken = Counter[str]()
        for read, group in groupby(answers, lambda answer: answer.read):
            of_cells = list(group)
            yield from of_cells
            first = of_cells[0]
            if read is None or not (first.cell or first.error.startswith(NO_CELL)):
                continue
            path = self.draw / _free_name(Path(first.file).stem, taken)
            try:
                picture = draw_cells(open_rgb(read()), list(_labels(of_cells)), names)
                write_whole_bytes(path, picture)
            except READ_ERRORS as error:  # the file may have changed, or the new name be too long
                print(f"{path} could not be drawn ({reason(error)})", file=sys.stderr)
                continue
            drawn.append(path)


def _labels(answers: Iterable[Answer]) -> Iterator[tuple[Cell, str, float]]:
    for answer in answers:
        if answer.cell and answer.probability:
            label = answer.class_name or Uncounted.UNSURE.value
            label = f"{Uncounted.UNLIKE.value}: {label}" if answer.unlike else label
            yield answer.cell, label, max(answer.probability.values())


def differential(
    counts: Counts, names: Sequence[str], scores: Mapping[str, Any] | None = None
) -> str:
    """Returns the differential count: the number and share of cells of each class, as text.

    Cells without a class and cells unlike all training images are not counted.

    Args:
        counts: number of cells for each class, and of those that count for none.
        names: the classes.
        scores: the model's `scores.json`, which may contain its confusion matrix.
    """
    numbers = [counts[name] for name in names]
    total, wide = sum(numbers), max(map(len, names))
    lines = [f"{total:,} white cell{'s' * (total != 1)}"]
    tested, legend = (scores or {}).get(CONFUSION), _LEGEND
    if tested and counts[Uncounted.UNSURE]:  # the others have fewer errors than all tested images
        tested, legend = None, _LEGEND_OF_SURE
    if tested and total:
        corrected = estimate_shares(numbers, np.array(tested["counts"], float))
        legend = _CORRECTED.format(tested["of"], total)
        pairs = zip(names, tested["counts"], strict=True)
        if untested := [name for name, row in pairs if not sum(row)]:
            legend += _UNTESTED.format(", ".join(untested))
        if unseen := (scores or {}).get(UNSEEN):
            others = estimate_shares(numbers, np.array(unseen[CONFUSION], float))
            corrected = [_join(*both) for both in zip(corrected, others, strict=True)]
            legend += _WIDENED.format(", ".join(unseen["datasets"]))
    for place, (name, number) in enumerate(zip(names, numbers, strict=True)) if total else ():
        line = f"  {name:{wide}}  {number:6,}  {number / total:6.1%}"
        low, high = independent_interval(number, total)
        if tested:
            share, low, high = corrected[place]
            line += f"  corrected {share:6.1%}"
        lines.append(f"{line}  [{low:.1%}, {high:.1%}]")
    for kind, text in _NOT_COUNTED.items():
        if counts[kind]:
            lines.append(f"  {text.format(counts[kind])}")
    return "\n".join([*lines, *([legend] if total else [])])


def _join(one: Estimate, other: Estimate) -> Estimate:
    """Returns an estimate whose interval contains that of another."""
    return Estimate(one.value, min(one.low, other.low), max(one.high, other.high))


def _free_name(stem: str, taken: Counter[str]) -> str:
    """Returns a new file name.

    Args:
        stem: its beginning.
        taken: by name, the last number that was appended to it.
    """
    name = stem
    while name in taken:
        taken[stem] += 1
        name = f"{stem}-{taken[stem]}"
    taken[name] = 1
    return f"{name}.cells.png"
