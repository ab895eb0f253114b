"""Compares an exported model with the original model on the same images."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from bloodcell.data.crop import Pixels
from bloodcell.data.decode import open_rgb
from bloodcell.data.image_files import READ_ERRORS
from bloodcell.datasets.classes import find_class
from bloodcell.errors import InputError, reason
from bloodcell.evaluate.tables import print_wide
from bloodcell.infer.inputs import Named, find_images
from bloodcell.infer.runtime import Classified, Distances, Predictor, Probabilities

_BATCH, _ROUNDS = 32, 5  # used to measure the speed
_HEADINGS = ("", "MB", "same class", "difference", "accuracy", "one image", "images/s")
_LEGEND = (
    "MB: size of the file; in the row PyTorch, of the network's weights in 32 bits. "
    "Same class: share of {n:,} images for which the file and the 32-bit model predict the same "
    "class. Difference: the largest difference of a probability. {accuracy}One image: median time, "
    "including resizing. "
    f"Images/s: in batches of {_BATCH} images that already have the model's input size."
)
_LABELLED = "Accuracy: on the {:,} images in a folder named after their class. "
_UNLABELLED = "Accuracy: needs images in folders named after their class; there are none here. "


class Measurement(NamedTuple):
    """The probabilities that a model predicts for the compared images, and its speed.

    Attributes:
        probability: (n, classes).
        distance: (n,) distance from the training images; NaN without a gallery.
        seconds: median time for one image.
        per_second: throughput in images per second, measured on batches.
    """

    probability: Probabilities
    distance: Distances
    seconds: float
    per_second: float


class Agreement(NamedTuple):
    """Agreement of an exported model's predictions with those of the original model.

    Attributes:
        images: number of compared images.
        other_class: number of images for which the most probable class differs.
        difference: largest absolute difference between two probabilities.
    """

    images: int
    other_class: int
    difference: float

    @property
    def share(self) -> float:
        """Returns the share of images with the same most probable class, 0 to 1."""
        return 1 - self.other_class / self.images


def sample_images(given: Sequence[str], most: int, archives: ExitStack) -> list[Named]:
    """Returns evenly spaced images of the input, because inputs are often sorted by class.

    Args:
        given: as for `find_images`.
        most: largest number of images to return.
        archives: exit stack that closes the opened archives.

    Raises:
        InputError: if no image is found.
    """
    images = list(find_images(given, archives))
    if not images:
        raise InputError(f"{' '.join(given)}: no images found. Give at least one.")
    places = np.linspace(0, len(images) - 1, min(most, len(images))).round().astype(int)
    return [images[place] for place in places]


def read_images(images: Sequence[Named]) -> Iterator[tuple[Named, Pixels]]:
    """Yields each readable image with its pixels (H, W, 3).

    Raises:
        InputError: if no image can be read.
    """
    found, why = False, ""
    for image in images:
        try:
            pixels = np.array(open_rgb(image.read()))
        except READ_ERRORS as error:
            why = reason(error)
            continue
        found = True
        yield image, pixels
    if not found:
        raise InputError(f"{images[0].name}: none of these images can be read ({why}).")


def measure(
    models: Sequence[Predictor], images: Sequence[Named], size: int
) -> tuple[list[str], list[Measurement]]:
    """Runs all models on each image in turn, so that the load of the machine affects them equally.

    Args:
        models: the models to compare.
        images: the images; unreadable ones are skipped.
        size: side in pixels of the square images that measure the speed.

    Returns:
        The folder name of each image, and one measurement per model.
    """
    folders: list[str] = []
    timed: list[list[tuple[Classified, float]]] = [[] for _ in models]
    for image, pixels in read_images(images):
        folders.append(Path(image.name).parent.name)
        for results, model in zip(timed, models, strict=True):
            results.append(_classify(model, pixels[None]))
    batch = np.zeros((_BATCH, size, size, 3), np.uint8)
    rounds = [[_classify(model, batch)[1] for model in models] for _ in range(_ROUNDS)]
    measured = []
    for results, batches in zip(timed, zip(*rounds, strict=True), strict=True):
        classified, seconds = zip(*results, strict=True)
        per_second = _BATCH / median(batches)
        joined = Classified.join(classified)
        measured.append(Measurement(*joined, median(seconds), per_second))
    return folders, measured


def _classify(model: Predictor, pixels: Pixels) -> tuple[Classified, float]:
    """Returns the result and the seconds it took."""
    start = time.perf_counter()
    return model.classify(pixels), time.perf_counter() - start


def compare(before: Probabilities, after: Probabilities) -> Agreement:
    """Returns the agreement between the probabilities (n, classes) of two models."""
    other_class = int((before.argmax(1) != after.argmax(1)).sum())
    return Agreement(len(before), other_class, float(np.abs(before - after).max()))


def print_agreement(
    labels: Sequence[str],
    sizes: Sequence[int],
    measurements: Sequence[Measurement],
    agreements: Sequence[Agreement],
    folders: Sequence[str],
    class_names: list[str],
) -> None:
    """Prints a table with a row for the original model and one for each exported file.

    Args:
        labels: names of the table's rows.
        sizes: of the original, the bytes of its weights; of the others, the file sizes.
        measurements: one per model, the original first.
        agreements: one per exported model.
        folders: folder name of each image.
        class_names: the classes.
    """
    number = {folder: find_class(folder, class_names) for folder in set(folders)}
    true = np.array([-1 if (one := number[folder]) is None else one for folder in folders])
    labelled = true >= 0
    rows = []
    for label, size, measured, agreement in zip(
        labels, sizes, measurements, [None, *agreements], strict=True
    ):
        right = measured.probability[labelled].argmax(1) == true[labelled]
        rows.append(
            [
                label,
                f"{size / 1e6:.1f}",
                f"{agreement.share:.2%}" if agreement else "",
                f"{agreement.difference:.1g}" if agreement else "",
                f"{right.mean():.4f}" if len(right) else "no labels",
                f"{measured.seconds * 1e3:.1f} ms",
                f"{measured.per_second:,.0f}",
            ]
        )
    accuracy = _LABELLED.format(labelled.sum()) if labelled.any() else _UNLABELLED
    legend = _LEGEND.format(n=len(folders), accuracy=accuracy)
    print_wide(_HEADINGS, rows, legend, words=("",))
