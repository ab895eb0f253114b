"""The white cells of a slide: found on its pictures, drawn there, and counted by class."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from bloodcell.data.decode import open_rgb
from bloodcell.errors import InputError
from bloodcell.report.figures.cells import draw_cells
from bloodcell.report.metrics import independent_interval
from bloodcell.report.whole import write_whole_bytes
from bloodcell.use.answers import Answer
from bloodcell.use.images import NO_CELL, find_images
from bloodcell.use.model import Model

UNSURE, UNREADABLE = "unsure", "unreadable"
_LEGEND = (
    "95 % intervals (Wilson) of the count alone: how far so few cells can be from the whole "
    "smear.\nThey say nothing of cells that the model names wrongly."
)


class Cells(NamedTuple):
    """How the white cells of pictures are found and shown.

    Attributes:
        field: how many times as wide as on the Kaggle set's pictures the field of view is.
        draw: folder for each picture with its cells boxed and named; None: none is drawn.
    """

    field: float = 1.0
    draw: Path | None = None

    def check(self, model: Model) -> None:
        """Makes sure that a model can be asked about cut out cells.

        Raises:
            InputError: if it was trained on whole pictures, or cuts a cell out by itself.
        """
        if model.description.crop != "cell":
            raise InputError(
                f"--cells needs a model of single cells; {model.description.name} was trained on "
                "whole pictures (data.crop=none). Leave --model out for the one that comes along, "
                "or train one with --data.crop cell."
            )
        if model.look is None:
            raise InputError(
                "--cells: an exported .onnx finds and cuts one cell of a picture by itself. Give "
                "the run folder it was made from, or its .safetensors."
            )

    def draw_each(
        self, answers: Iterable[Answer], names: Sequence[str], given: Sequence[str]
    ) -> Iterator[Answer]:
        """Passes answers on, and draws each picture when all its cells are named.

        Args:
            answers: of cells, those of a picture one after another.
            names: the classes.
            given: what was named on the command line: the pictures are read again.
        """
        if self.draw is None:
            yield from answers
            return
        self.draw.mkdir(parents=True, exist_ok=True)
        taken: set[str] = set()
        with ExitStack() as archives:
            pictures = find_images(given, archives)
            for name, group in groupby(answers, lambda answer: answer.file):
                of_picture = list(group)
                picture = next(one for one in pictures if one.name == name)
                yield from of_picture
                cells = [(answer.cell, answer) for answer in of_picture if answer.cell]
                if of_picture[0].error not in ("", NO_CELL):
                    continue
                labels = [
                    (cell, said.class_name or UNSURE, max((said.probability or {"": 0.0}).values()))
                    for cell, said in cells
                ]
                drawn = draw_cells(open_rgb(picture.read()), labels, names)
                write_whole_bytes(self.draw / _free_name(Path(name).stem, taken), drawn)


def differential(counts: Counter[str], names: Sequence[str]) -> str:
    """The differential count: of each class how many cells, and what share of all.

    Args:
        counts: of cells by class, and of `UNSURE`, `NO_CELL` and `UNREADABLE`.
        names: the classes.
    """
    kinds = [*names, *([UNSURE] if counts[UNSURE] else [])]
    total = sum(counts[kind] for kind in kinds)
    wide = max(map(len, kinds))
    lines = [f"{total:,} white cells"]
    for kind in kinds if total else []:
        low, high = independent_interval(counts[kind], total)
        share = counts[kind] / total
        lines.append(f"  {kind:{wide}}  {counts[kind]:6,}  {share:6.1%}  [{low:.1%}, {high:.1%}]")
    for kind in (NO_CELL, UNREADABLE):
        if counts[kind]:
            lines.append(
                f"  pictures {'without a white cell' if kind == NO_CELL else kind}: "
                f"{counts[kind]:,}"
            )
    return "\n".join([*lines, *([_LEGEND] if total else [])])


def _free_name(stem: str, taken: set[str]) -> str:
    """A name that no other picture of this command has."""
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}"
    taken.add(name)
    return f"{name}.png"
