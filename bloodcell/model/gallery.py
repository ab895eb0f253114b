"""The training photographs as the model sees them: what an image resembles, and how closely."""

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]
FALSE_ALARMS = 0.05  # share of the validation images that shall be called unfamiliar


class Gallery(NamedTuple):
    """One image of each training photograph.

    An image is unfamiliar if its nearest neighbour in here is further away than that of 19 in 20
    validation images: the distance to the nearest training features needs no assumption about their
    distribution (Sun et al., "Out-of-distribution detection with deep nearest neighbors", ICML
    2022).

    Attributes:
        features: (n, C), of unit length.
        labels: (n,) classes.
        files: n paths within the data set.
        threshold: cosine distance, 0 to 2, beyond which an image is unfamiliar.
        false_alarms: share of the test images, which set nothing, that are beyond it.
    """

    features: Features
    labels: NDArray[np.int64]
    files: list[str]
    threshold: float
    false_alarms: float

    def distances(self, features: Features) -> Features:
        """Cosine distances of images to all photographs.

        Args:
            features: (B, C), of any length.

        Returns:
            (B, n), 0 to 2.
        """
        distances: Features = 1 - normalise(features) @ self.features.T
        return distances

    def as_dict(self) -> dict[str, Any]:
        """Plain types and arrays."""
        return self._asdict()

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Reads what `as_dict` wrote, half precision included."""
        return cls(
            normalise(np.asarray(values["features"], np.float32)),
            np.asarray(values["labels"], np.int64),
            list(values["files"]),
            float(values["threshold"]),
            float(values["false_alarms"]),
        )


def normalise(features: Features) -> Features:
    """Scales each row to unit length; a row of zeros stays one."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    result: Features = (features / np.maximum(length, 1e-12)).astype(np.float32)
    return result
