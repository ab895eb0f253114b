"""A model to be asked: a run, a file, or an exported one."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bloodcell.data.crop import InputFormat, Pixels
from bloodcell.model.description import Description

Probabilities = NDArray[np.float32]


class Asked(Protocol):
    """What can be asked about images."""

    def classify(self, pixels: Pixels) -> Probabilities:
        """Classifies a batch; from any thread.

        Args:
            pixels: (B, H, W, 3) RGB, as `show` makes them of pictures.

        Returns:
            (B, classes), calibrated if a temperature was fitted.
        """
        ...


class Model(Asked, Protocol):
    """What answers need of a model, whatever runs it.

    Attributes:
        description: what it is.
        n_devices: how many batches it can work on at a time.
        input_format: what of a picture the model is given; None means the whole picture, in which
            the model finds the cell itself.
    """

    description: Description
    n_devices: int
    input_format: InputFormat | None


def views(pixels: Pixels) -> Sequence[Pixels]:
    """The eight ways a square image can lie: a smear has no upright.

    Args:
        pixels: (B, size, size, 3).
    """
    turned = [np.rot90(pixels, turns, (1, 2)) for turns in range(4)]
    return [*turned, *(view[:, :, ::-1] for view in turned)]


def classify_views(model: Model, pixels: Pixels) -> Probabilities:
    """The mean answer over the eight views, (B, classes)."""
    said = [model.classify(np.ascontiguousarray(view)) for view in views(pixels)]
    mean: Probabilities = np.mean(said, axis=0, dtype=np.float32)
    return mean
