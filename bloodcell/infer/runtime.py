"""The interface of a model that classifies images, however it is run."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bloodcell.data.crop import InputFormat, Pixels
from bloodcell.model.description import Description

AUTO = "auto"  # of `--devices`
Probabilities = NDArray[np.float32]


class Predictor(Protocol):
    """Gives probabilities for images."""

    def classify(self, pixels: Pixels) -> Probabilities:
        """Classifies a batch; may be called from any thread.

        Args:
            pixels: (B, H, W, 3) RGB, as `show` makes them.

        Returns:
            (B, classes), calibrated if a temperature was fitted.
        """
        ...


class Runtime(Predictor, Protocol):
    """A described model on the devices that run it.

    Attributes:
        description: classes, network, size of the images, temperature, scores.
        n_devices: number of batches that can be classified at the same time.
        input_format: the part of an image that the model is given; None: the whole image, in which
            the model finds the cell by itself.
    """

    description: Description
    n_devices: int
    input_format: InputFormat | None


def views(pixels: Pixels) -> Sequence[Pixels]:
    """Returns the eight rotations and reflections of square images: a smear has no upright.

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
