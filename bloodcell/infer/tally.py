"""Counts predictions, for the lines that `predict` prints at the end."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bloodcell.data.decode import Notes
from bloodcell.data.image_files import LeftOut
from bloodcell.infer.answers import Answer
from bloodcell.infer.cells import Counts, Uncounted, differential
from bloodcell.infer.decoding import NO_CELL

UNLIKE_IMAGES = "unlike all training images: {:,}. Their classes are unreliable"


class Tally:
    """Counts the predictions, and collects the notes on their images.

    Args:
        cells: whether the predictions are of cells.
        scores: the model's `scores.json`.
    """

    def __init__(self, cells: bool, scores: Mapping[str, Any]) -> None:
        self._cells, self._scores = cells, scores
        self._unlike = 0
        self.counts: Counts = Counter()
        self._notes = Notes()
        self.left_out = LeftOut()
        self.drawn: list[Path] = []

    def add(self, answer: Answer) -> None:
        """Counts a prediction."""
        aside = self._cells and answer.unlike  # left out of the differential count
        self.counts[Uncounted.UNLIKE if aside else _kind(answer)] += 1
        self._unlike += bool(answer.unlike)
        if answer.note:
            self._notes.add(answer.file, answer.note)

    def summary(self, names: list[str], seconds: float) -> str:
        """Returns the lines to print.

        Args:
            names: the classes.
            seconds: time that the predictions took.
        """
        n = self.counts.total()
        if self._cells:
            n -= self.counts[Uncounted.NO_CELL] + self.counts[Uncounted.UNREADABLE]
            lines = [differential(self.counts, names, self._scores), f"{n / seconds:,.0f} cells/s"]
        else:
            kinds: list[str | Uncounted] = [*names, Uncounted.UNSURE, Uncounted.UNREADABLE]
            counted = [f"{_text(one)} {self.counts[one]:,}" for one in kinds if self.counts[one]]
            by_class = ", ".join(counted) or "none"
            lines = [f"{n:,} image{'s' * (n != 1)}: {by_class} ({n / seconds:,.0f} images/s)"]
            if self._unlike:
                lines.append(f"{UNLIKE_IMAGES.format(self._unlike)} (column `unlike`).")
        lines += self._notes.lines()
        return "\n".join([*lines, *([str(self.left_out)] if self.left_out else [])])


def _kind(answer: Answer) -> str | Uncounted:
    if answer.error:
        none = answer.error.startswith(NO_CELL)
        return Uncounted.NO_CELL if none else Uncounted.UNREADABLE
    return answer.class_name or Uncounted.UNSURE


def _text(kind: str | Uncounted) -> str:
    return kind.value if isinstance(kind, Uncounted) else kind
