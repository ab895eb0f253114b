"""The interface of a model that classifies images, independent of the runtime."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from bloodcell.data.crop import InputFormat, Pixels
from bloodcell.model.description import Description

AUTO = "auto"  # default of `--devices`
Probabilities = NDArray[np.float32]
Distances = NDArray[np.float32]


class Classified(NamedTuple):
    """What a model returns for a batch of images.

    Attributes:
        probability: (B, classes), calibrated if a temperature was fitted.
        distance: (B,), distance from the training images, as `Gallery.distance` returns it; NaN
            for a model without a gallery.
    """

    probability: Probabilities
    distance: Distances

    @classmethod
    def alone(cls, probability: Probabilities) -> Self:
        """Returns probabilities (B, classes) without distances."""
        return cls(probability, np.full(len(probability), np.nan, np.float32))

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Joins the results of several batches."""
        return cls(*(np.concatenate(column) for column in zip(*parts, strict=True)))


class Predictor(Protocol):
    """Predicts class probabilities for images, and how far they are from the training images."""

    def classify(self, pixels: Pixels) -> Classified:
        """Classifies a batch; thread-safe.

        Args:
            pixels: (B, H, W, 3) RGB, as `show` returns them.
        """
        ...


class Runtime(Predictor, Protocol):
    """A model on its devices, with its description.

    Attributes:
        description: classes, network, input size, temperature, scores.
        n_devices: number of batches that can be classified in parallel.
        input_format: crop and size of the input; None if the model takes whole images and crops
            the cell itself.
        threshold: distance beyond which an image is unlike all training images; None for a model
            without a gallery.
    """

    description: Description
    n_devices: int
    input_format: InputFormat | None
    threshold: float | None

    @property
    def on_squares(self) -> "Runtime":
        """The same model for squares that are already cropped around cells."""


def views(pixels: Pixels) -> Sequence[Pixels]:
    """Returns the eight rotations and reflections of square images: smears have no orientation.

    Args:
        pixels: (B, size, size, 3).
    """
    turned = [np.rot90(pixels, turns, (1, 2)) for turns in range(4)]
    return [*turned, *(view[:, :, ::-1] for view in turned)]


def classify_views(model: Predictor, pixels: Pixels) -> Classified:
    """Returns the mean probabilities over the eight views, and the distance of the first view.

    The distance has the same meaning with and without `--tta`, because its threshold was set for
    single views.
    """
    answers = [model.classify(np.ascontiguousarray(view)) for view in views(pixels)]
    every = [answer.probability for answer in answers]
    mean: Probabilities = np.mean(every, axis=0, dtype=np.float32)
    return Classified(mean, answers[0].distance)
