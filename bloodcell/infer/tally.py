"""Counts predictions, for the lines that `predict` prints at the end."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bloodcell.data.decode import summarise
from bloodcell.data.image_files import LeftOut
from bloodcell.infer.answers import Answer
from bloodcell.infer.cells import UNLIKE, UNREADABLE, UNSURE, differential
from bloodcell.infer.inputs import NO_CELL

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
        self.counts: Counter[str] = Counter()
        self.notes: dict[str, str] = {}
        self.left_out = LeftOut()
        self.drawn: list[Path] = []

    def add(self, answer: Answer) -> None:
        """Counts a prediction."""
        aside = self._cells and answer.unlike  # left out of the differential count
        self.counts[UNLIKE if aside else _kind(answer)] += 1
        self._unlike += bool(answer.unlike)
        if answer.note:
            self.notes[answer.file] = answer.note

    def summary(self, names: list[str], seconds: float) -> str:
        """Returns the lines to print.

        Args:
            names: the classes.
            seconds: time that the predictions took.
        """
        n = self.counts.total()
        if self._cells:
            n -= self.counts[NO_CELL] + self.counts[UNREADABLE]
            lines = [differential(self.counts, names, self._scores), f"{n / seconds:,.0f} cells/s"]
        else:
            kinds = [kind for kind in (*names, UNSURE, UNREADABLE) if self.counts[kind]]
            by_class = ", ".join(f"{kind} {self.counts[kind]:,}" for kind in kinds) or "none"
            lines = [f"{n:,} image{'s' * (n != 1)}: {by_class} ({n / seconds:,.0f} images/s)"]
            if self._unlike:
                lines.append(f"{UNLIKE_IMAGES.format(self._unlike)} (column `unlike`).")
        lines += summarise(self.notes)
        return "\n".join([*lines, *([str(self.left_out)] if self.left_out else [])])


def _kind(answer: Answer) -> str:
    if answer.error:
        return NO_CELL if answer.error.startswith(NO_CELL) else UNREADABLE
    return answer.class_name or UNSURE
