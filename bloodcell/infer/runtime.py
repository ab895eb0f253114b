"""The interface of a model that classifies images, independent of the runtime."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bloodcell.data.crop import InputFormat, Pixels
from bloodcell.model.description import Description

AUTO = "auto"  # default of `--devices`
Probabilities = NDArray[np.float32]


class Predictor(Protocol):
    """Predicts class probabilities for images."""

    def classify(self, pixels: Pixels) -> Probabilities:
        """Classifies a batch; thread-safe.

        Args:
            pixels: (B, H, W, 3) RGB, as `show` returns them.

        Returns:
            (B, classes), calibrated if a temperature was fitted.
        """
        ...


class Runtime(Predictor, Protocol):
    """A model on its devices, with its description.

    Attributes:
        description: classes, network, input size, temperature, scores.
        n_devices: number of batches that can be classified in parallel.
        input_format: crop and size of the input; None if the model takes whole images and crops
            the cell itself.
    """

    description: Description
    n_devices: int
    input_format: InputFormat | None

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


def classify_views(model: Predictor, pixels: Pixels) -> Probabilities:
    """Returns the mean probabilities over the eight views, (B, classes)."""
    answers = [model.classify(np.ascontiguousarray(view)) for view in views(pixels)]
    mean: Probabilities = np.mean(answers, axis=0, dtype=np.float32)
    return mean
