"""The history of a run: `metrics.csv`, one line per epoch."""

import csv
import math
from pathlib import Path
from typing import NamedTuple

FILE_NAME = "metrics.csv"


class Epoch(NamedTuple):
    """One line of the history.

    Attributes:
        epoch: from 0.
        train_loss: mean cross-entropy during the epoch, dropout on.
        train_acc: accuracy by file during the epoch, dropout on, 0 to 1.
        val_loss: mean cross-entropy after the epoch; NaN if it was not validated.
        val_acc: accuracy by file after the epoch, 0 to 1; NaN if it was not validated.
        lr: learning rate.
        images_per_second: training only, all devices.
        seconds: training and validation.
    """

    epoch: int
    train_loss: float
    train_acc: float
    val_loss: float
    val_acc: float
    lr: float
    images_per_second: float
    seconds: float


def read_history(path: Path) -> list[Epoch]:
    """Reads `metrics.csv`; a run without one has no epochs."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [
            Epoch(int(line["epoch"]), *(float(line[name]) for name in Epoch._fields[1:]))
            for line in csv.DictReader(file)
        ]


def best(history: list[Epoch]) -> Epoch:
    """Returns the epoch with the lowest validation loss, the first of several equal ones.

    Args:
        history: at least one epoch; the first is returned if none was validated.
    """
    validated = (line for line in history if not math.isnan(line.val_loss))
    return min(validated, key=lambda line: line.val_loss, default=history[0])
