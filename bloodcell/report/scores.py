"""Predictions and scores of a run: written once, read by everything that reports."""

import csv
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

PREDICTIONS = "predictions.csv"
SCORES = "scores.json"


class Predictions(NamedTuple):
    """What a model said of some images.

    Attributes:
        split: n names of the part each image lies in.
        file: n paths within the data set.
        photo: n names of the photographs the files were made from.
        true: (n,) labels.
        probability: (n, classes), each row sums to 1.
        class_names: the classes, in the order of the columns.
    """

    split: list[str]
    file: list[str]
    photo: list[str]
    true: NDArray[np.int64]
    probability: NDArray[np.float32]
    class_names: list[str]


def accuracy_by_file(predictions: Predictions) -> float:
    """Share of files whose most probable class is the true one, 0 to 1."""
    return float((predictions.probability.argmax(1) == predictions.true).mean())


def accuracy_by_photo(predictions: Predictions) -> tuple[float, int]:
    """Accuracy over photographs, the probabilities of a photograph's files averaged.

    Returns:
        The accuracy, 0 to 1, and the number of photographs.
    """
    names, photo = np.unique(predictions.photo, return_inverse=True)
    total = np.zeros((len(names), len(predictions.class_names)))
    np.add.at(total, photo, predictions.probability)
    true = np.zeros(len(names), np.int64)
    true[photo] = predictions.true
    return float((total.argmax(1) == true).mean()), len(names)


def write_predictions(folder: Path, predictions: Predictions) -> None:
    """Writes `predictions.csv`: split, file, photo, class, one column `p_CLASS` for each class."""
    names = predictions.class_names
    columns = zip(
        predictions.split,
        predictions.file,
        predictions.photo,
        (names[label] for label in predictions.true),
        predictions.probability.tolist(),
        strict=True,
    )
    partial = folder / (PREDICTIONS + ".partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(["split", "file", "photo", "class", *(f"p_{name}" for name in names)])
        for *facts, probability in columns:
            lines.writerow([*facts, *(f"{p:.6g}" for p in probability)])
    partial.replace(folder / PREDICTIONS)


def read_predictions(folder: Path) -> Predictions:
    """Reads what `write_predictions` wrote."""
    with (folder / PREDICTIONS).open(newline="", encoding="utf-8") as file:
        header, *lines = csv.reader(file)
    names = [name.removeprefix("p_") for name in header[4:]]
    return Predictions(
        [line[0] for line in lines],
        [line[1] for line in lines],
        [line[2] for line in lines],
        np.array([names.index(line[3]) for line in lines], np.int64),
        np.array([line[4:] for line in lines], np.float32).reshape(len(lines), len(names)),
        names,
    )


def write_scores(folder: Path, scores: dict[str, Any]) -> None:
    """Writes `scores.json`, whole or not at all."""
    partial = folder / (SCORES + ".partial")
    partial.write_text(json.dumps(scores, indent=2) + os.linesep)
    partial.replace(folder / SCORES)
