"""Figures of a model's predictions: confusion matrix, reliability diagram, worst photographs."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bloodcell.evaluate.figures.style import BLUE, GREY, RED, draw_grid, shorten, size_for, styled
from bloodcell.evaluate.metrics import CALIBRATION_BINS, Sample, average_photos, sample_of
from bloodcell.evaluate.scores import Predictions

_NAME = 22  # characters of a class or photograph that fit above a picture
_NUMBERS_UP_TO = 12  # classes; with more, the cells are too small for numbers


class Worst(NamedTuple):
    """A photograph that a model is most wrong about.

    Attributes:
        photo: its name.
        file: index of the prediction of the file with the lowest probability of the true class.
        true: true class.
        predicted: class with the highest mean probability over its files.
        p_predicted: probability of the predicted class, 0 to 1.
        p_true: probability of the true class, 0 to 1.
        files: number of its files.
        files_wrong: number of files with a wrong prediction.
    """

    photo: str
    file: int
    true: str
    predicted: str
    p_predicted: float
    p_true: float
    files: int
    files_wrong: int


@styled
def draw_confusion(title: str, predictions: Predictions) -> Figure:
    """Draws confusion matrices by file and by photograph: counts and shares of the true class."""
    names = predictions.class_names
    side = max(3.4, 0.85 * min(len(names), _NUMBERS_UP_TO) + 1.2)
    figure = Figure(figsize=(2 * side + 1.6, side + 1.0), layout="constrained")
    figure.suptitle(title)
    shades = None
    axes = figure.subplots(1, 2, sharey=True)
    for ax, (by, sample) in zip(axes, _both(predictions), strict=True):
        predicted = sample.probability.argmax(1)
        counts = np.zeros((len(names), len(names)), np.int64)
        np.add.at(counts, (sample.true, predicted), 1)
        share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        shades = ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
        ax.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")
        ax.set_yticks(range(len(names)), names)
        ax.set(
            xlabel="predicted class",
            title=f"{by}: {int(np.trace(counts)):,} of {counts.sum():,} right",
        )
        ax.grid(visible=False)
        for (true, named), count in np.ndenumerate(counts):
            if len(names) > _NUMBERS_UP_TO:
                break
            text = f"{count:,}\n{share[true, named]:.0%}"
            colour = "white" if share[true, named] > 0.5 else "black"
            ax.text(named, true, text, ha="center", va="center", color=colour, fontsize=9)
    axes[0].set_ylabel("true class")
    assert shades is not None
    figure.colorbar(shades, ax=list(axes), label="share of the true class", shrink=0.8)
    return figure


@styled
def draw_reliability(title: str, predictions: Predictions) -> Figure:
    """Draws reliability diagrams: accuracy and number of predictions by confidence."""
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(2, 2, sharex=True, height_ratios=[3, 1])
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    for column, (by, sample) in enumerate(_both(predictions)):
        above, below = axes[:, column]
        confidence = sample.probability.max(1)
        right = sample.probability.argmax(1) == sample.true
        place = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
        count = np.bincount(place, minlength=CALIBRATION_BINS)
        some = count > 0
        mean = np.bincount(place, confidence, CALIBRATION_BINS)[some] / count[some]
        share = np.bincount(place, right, CALIBRATION_BINS)[some] / count[some]
        above.plot([0, 1], [0, 1], color=GREY, linestyle="--", label="perfectly calibrated")
        above.plot(mean, share, color=BLUE, marker="o", markersize=5, label="the model")
        above.set(ylim=(-0.03, 1.03), xlim=(0, 1.02), title=by)
        bars = below.bar(
            edges[:-1], count, np.diff(edges), align="edge", color=BLUE, edgecolor="white"
        )
        labels = [f"{n:,}" if n else "" for n in count]
        upright = max(map(len, labels)) > 3  # longer numbers are wider than a bar
        below.bar_label(bars, labels, padding=2, fontsize=7, rotation=90 if upright else 0)
        below.margins(y=0.6 if upright else 0.25)  # room for the numbers
        below.yaxis.get_major_locator().set_params(integer=True)
        below.set(xlabel="probability of the predicted class")
    axes[0, 0].set_ylabel("accuracy")
    axes[1, 0].set_ylabel("predictions")
    figure.legend(handles=axes[0, 0].get_lines(), loc="outside lower center", ncols=2)
    return figure


def worst_photographs(predictions: Predictions, most: int = 12) -> list[Worst]:
    """Returns the photographs with the lowest mean probability of the true class over their files.

    Args:
        predictions: predictions of a model.
        most: largest number of photographs.
    """
    files = sample_of(predictions.true, predictions.probability, predictions.photo)
    photos = average_photos(files)
    names = np.unique(predictions.photo)
    p_true = photos.probability[np.arange(len(names)), photos.true]
    wrong = files.probability.argmax(1) != files.true
    found = []
    for number in np.argsort(p_true, kind="stable")[:most].tolist():
        members = np.flatnonzero(files.photo == number)
        predicted = int(photos.probability[number].argmax())
        true = int(photos.true[number])
        found.append(
            Worst(
                str(names[number]),
                int(members[files.probability[members, true].argmin()]),
                predictions.class_names[true],
                predictions.class_names[predicted],
                float(photos.probability[number, predicted]),
                float(p_true[number]),
                len(members),
                int(wrong[members].sum()),
            )
        )
    return found


@styled
def draw_worst(title: str, worst: Sequence[Worst], images: Sequence[NDArray[np.uint8]]) -> Figure:
    """Draws photographs with their predicted and true classes.

    Args:
        title: what was scored.
        worst: the photographs.
        images: (H, W, 3) RGB of each.
    """
    heading = f"{title}: the lowest probabilities of the true class"
    figure, axes = draw_grid(heading, len(worst), (3, 3.95), 0.6)
    size = size_for([name for one in worst for name in (one.true, one.predicted)], _NAME)
    for ax, one, image in zip(axes, worst, images, strict=False):
        ax.imshow(image)
        right = one.predicted == one.true
        ax.set_title(
            f"\n{'right' if right else 'WRONG'}: {one.predicted} {one.p_predicted:.2f}\n"
            f"true: {one.true} {one.p_true:.2f}\n"
            f"{one.files_wrong} of {one.files} files wrong\nphotograph {shorten(one.photo, _NAME)}",
            fontsize=size,
            color="black" if right else RED,
            weight="normal" if right else "bold",
        )
    return figure


def _both(predictions: Predictions) -> tuple[tuple[str, Sample], tuple[str, Sample]]:
    files = sample_of(predictions.true, predictions.probability, predictions.photo)
    return ("by file", files), ("by photograph", average_photos(files))
