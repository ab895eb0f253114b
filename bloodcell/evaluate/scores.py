"""Predictions and scores of a run: written once, read by everything that reports."""

import csv
import json
import math
import os
import sys
from array import array
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bloodcell.evaluate.metrics import (
    CLASSWISE,
    Estimate,
    Sample,
    average_photos,
    estimate,
    independent_interval,
    sample_of,
)
from bloodcell.files import write_whole
from bloodcell.model.find import SCORES

PREDICTIONS = "predictions.csv"
CONFUSION = "confusion"  # entry of `SCORES`: tested photographs by true and predicted class
_DATASET = "dataset"  # column
_OF_CHOICES = ("accuracy", "balanced_accuracy")
_LEAST = 1e-7  # added to each probability, so that those of an image are not all 0


class Predictions(NamedTuple):
    """Predictions of a model for some images.

    Attributes:
        split: n names of the parts that contain the images.
        file: n paths within the data set.
        photo: n names of the photographs the files were made from.
        true: (n,) labels.
        probability: (n, classes), each row sums to 1.
        class_names: the classes, in the order of the columns.
        dataset: n names of the data sets that contain the images; empty if there is only one.
    """

    split: list[str]
    file: list[str]
    photo: list[str]
    true: NDArray[np.int64]
    probability: NDArray[np.float32]
    class_names: list[str]
    dataset: Sequence[str] = ()

    def only(self, dataset: str) -> "Predictions":
        """Returns the predictions for the images of one data set."""
        kept = [i for i, name in enumerate(self.dataset) if name == dataset]
        split, file, photo = ([of[i] for i in kept] for of in (self.split, self.file, self.photo))
        return Predictions(
            split, file, photo, self.true[kept], self.probability[kept], self.class_names
        )


def score(predictions: Predictions) -> dict[str, Any]:
    """Computes all metrics by file and by photograph, each with its 95 % interval.

    Returns:
        `by_file` and `by_photo`, each with `n` and, by metric, `value`, `low` and `high`; metrics
        of single classes have these by class. `by_file` also has the interval that accuracy would
        have if files were independent. With several data sets, `by_dataset` has all this for each;
        means over classes are over those that occur in it. For a data set that lacks classes,
        `own_classes` has the accuracies if the model could only choose among those that occur.
    """
    found = _score_one(predictions)
    if names := sorted(set(predictions.dataset)):
        parts = {name: predictions.only(name) for name in names}
        found["by_dataset"] = {
            name: _score_one(part) | _score_own_classes(part) for name, part in parts.items()
        }
    return found


def _score_one(predictions: Predictions) -> dict[str, Any]:
    files = sample_of(predictions.true, predictions.probability, predictions.photo)
    right = int((files.probability.argmax(1) == files.true).sum())
    low, high = independent_interval(right, len(files.true))
    independent = {"accuracy_if_files_were_independent": {"low": low, "high": high}}
    names = predictions.class_names
    return {
        "by_file": _as_dict(files, names) | independent,
        "by_photo": _as_dict(average_photos(files), names),
    }


def _score_own_classes(predictions: Predictions) -> dict[str, Any]:
    own = only_own_classes(predictions)
    if own is predictions:
        return {}
    files = sample_of(own.true, own.probability, own.photo)
    by_unit = {"by_file": estimate(files), "by_photo": estimate(average_photos(files))}
    return {
        "own_classes": {
            unit: {name: _plain(found[name][0]) for name in _OF_CHOICES}
            for unit, found in by_unit.items()
        }
    }


def only_own_classes(predictions: Predictions) -> Predictions:
    """Returns the predictions if only classes that occur among the images could be chosen.

    The probabilities of an image then no longer sum to 1.
    """
    occur = np.isin(np.arange(len(predictions.class_names)), predictions.true)
    if occur.all():
        return predictions
    own = np.where(occur, predictions.probability + _LEAST, 0).astype(np.float32)
    return predictions._replace(probability=own)


def count_confusion(predictions: Predictions) -> dict[str, Any]:
    """Counts the photographs by true and predicted class.

    Returns:
        `counts`, a row for each true class with a number for each predicted class, and `of`, what
        was counted.
    """
    files = sample_of(predictions.true, predictions.probability, predictions.photo)
    photos, n = average_photos(files), len(predictions.class_names)
    counts = np.zeros((n, n), np.int64)
    np.add.at(counts, (photos.true, photos.probability.argmax(1)), 1)
    return {"counts": counts.tolist(), "of": f"{len(photos.true):,} test photographs"}


def _as_dict(sample: Sample, class_names: list[str]) -> dict[str, Any]:
    result: dict[str, Any] = {"n": len(sample.true)}
    for name, found in estimate(sample).items():
        if name in CLASSWISE:
            result[name] = dict(zip(class_names, map(_plain, found), strict=True))
        else:
            result[name] = _plain(found[0])
    return result


def _plain(found: Estimate) -> dict[str, float | None]:
    """Replaces values that are not finite, e.g. the AUC of an absent class, by None."""
    return {k: v if math.isfinite(v) else None for k, v in found._asdict().items()}


def write_predictions(folder: Path, predictions: Predictions) -> None:
    """Writes `predictions.csv`.

    Its columns are split, file, photo, class, dataset (with several) and `p_CLASS` for each class.
    """
    names, several = predictions.class_names, bool(predictions.dataset)
    columns = zip(
        predictions.split,
        predictions.file,
        predictions.photo,
        (names[label] for label in predictions.true),
        *([predictions.dataset] if several else []),
        predictions.probability.tolist(),
        strict=True,
    )
    with write_whole(folder / PREDICTIONS) as file:
        lines = csv.writer(file)
        facts = ["split", "file", "photo", "class", *([_DATASET] if several else [])]
        lines.writerow([*facts, *(f"p_{name}" for name in names)])
        for *of_image, probability in columns:
            lines.writerow([*of_image, *(f"{p:.6g}" for p in probability)])


def read_predictions(folder: Path) -> Predictions:
    """Reads what `write_predictions` wrote."""
    split, files, photos, labels, datasets = [], [], [], [], []
    probabilities = array("f")
    path = folder / PREDICTIONS
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:  # of names
        lines = csv.reader(file)
        (header,) = islice(lines, 1)
        several = header[4:5] == [_DATASET]
        names = [name.removeprefix("p_") for name in header[4 + several :]]
        for part, name, photo, label, *values in lines:
            if several:
                datasets.append(sys.intern(values.pop(0)))
            split.append(sys.intern(part))
            files.append(name)
            photos.append(photo)
            labels.append(names.index(label))
            probabilities.extend(map(float, values))
    probability = np.array(probabilities).reshape(len(labels), len(names))
    true = np.array(labels, np.int64)
    return Predictions(split, files, photos, true, probability, names, datasets)


def write_scores(folder: Path, scores: dict[str, Any]) -> None:
    """Writes `scores.json`, whole or not at all."""
    with write_whole(folder / SCORES) as file:
        file.write(json.dumps(scores, indent=2) + os.linesep)
