"""The gallery: features of the training photographs, to tell which of them an image resembles."""

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]
FALSE_ALARMS = 0.05  # share of the validation images beyond the threshold


class Gallery(NamedTuple):
    """Features of one image of each training photograph.

    An image is unfamiliar if its nearest neighbour in the gallery is farther away than the nearest
    neighbours of 19 in 20 validation images. The distance to the nearest training features needs no
    assumption about their distribution (Sun et al., "Out-of-distribution detection with deep
    nearest neighbors", ICML 2022).

    Attributes:
        features: (n, C), rows of unit length.
        labels: (n,) labels of the classes.
        files: n paths within the data set.
        threshold: cosine distance, 0 to 2, beyond which an image is unfamiliar.
        false_alarms: share of the test images beyond the threshold, 0 to 1.
    """

    features: Features
    labels: NDArray[np.int64]
    files: list[str]
    threshold: float
    false_alarms: float

    def distances(self, features: Features) -> Features:
        """Computes the cosine distances of images to all photographs.

        Args:
            features: (B, C), of any length.

        Returns:
            (B, n), 0 to 2.
        """
        distances: Features = 1 - normalise(features) @ self.features.T
        return distances

    def as_dict(self) -> dict[str, Any]:
        """Returns plain types and arrays."""
        return self._asdict()

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Reads what `as_dict` returned; the features may be in half precision."""
        return cls(
            normalise(np.asarray(values["features"], np.float32)),
            np.asarray(values["labels"], np.int64),
            list(values["files"]),
            float(values["threshold"]),
            float(values["false_alarms"]),
        )


def normalise(features: Features) -> Features:
    """Scales each row to unit length; a row of zeros stays unchanged."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    result: Features = (features / np.maximum(length, 1e-12)).astype(np.float32)
    return result
