"""The gallery: features of the training photographs, for finding similar ones."""

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]
FALSE_ALARMS = 0.05  # share of the validation images beyond the threshold
MOST = 1_800  # photographs; their features take a fifth of MobileNet's checkpoint
_AT_ONCE = 4_096  # images whose distances to all photographs are in memory at a time


class Gallery(NamedTuple):
    """Features of one image of each training photograph, of at most `MOST` photographs.

    An image is unfamiliar if its nearest neighbour in the gallery is farther away than the nearest
    neighbours of 19 in 20 validation images. The distance to the nearest training features needs no
    assumption about their distribution (Sun et al., "Out-of-distribution detection with deep
    nearest neighbors", ICML 2022).

    Attributes:
        features: (n, C), rows of unit length.
        labels: (n,) class labels.
        files: (n,) paths within the data set.
        threshold: cosine distance, 0 to 2, beyond which an image is unfamiliar.
        false_alarms: share of the test images beyond the threshold, 0 to 1.
    """

    features: Features
    labels: NDArray[np.int64]
    files: list[str]
    threshold: float
    false_alarms: float

    def distances(self, features: Features) -> Features:
        """Returns the cosine distances (B, n), 0 to 2, of images to all photographs.

        Args:
            features: (B, C), rows of any length.
        """
        distances: Features = 1 - normalise(features) @ self.features.T
        return distances

    def nearest(self, features: Features) -> Features:
        """Returns the cosine distance (B,), 0 to 2, of each image to its nearest photograph.

        Args:
            features: (B, C), rows of any length.
        """
        starts = range(0, len(features), _AT_ONCE)
        return np.concatenate(
            [self.distances(features[start : start + _AT_ONCE]).min(1) for start in starts]
        )

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields as plain types and arrays."""
        return self._asdict()

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Returns the gallery from the output of `as_dict`; float16 features are accepted."""
        return cls(
            normalise(np.asarray(values["features"], np.float32)),
            np.asarray(values["labels"], np.int64),
            list(values["files"]),
            float(values["threshold"]),
            float(values["false_alarms"]),
        )


def normalise(features: Features) -> Features:
    """Scales each row to unit length; rows of zeros do not change."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    result: Features = (features / np.maximum(length, 1e-12)).astype(np.float32)
    return result
