"""The gallery: training photographs, for finding similar ones and for recognising strangers."""

from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Features = NDArray[np.float32]
MOST = 500  # photographs; with their features, the bundled model stays under 8 MB
TENSORS = ("features", "labels", "weight")


class Gallery(NamedTuple):
    """Features of one image of each training photograph, of at most `MOST` photographs.

    The distance of an image from all training images is the logarithm of the odds that it shows no
    cell. A logistic regression between training images and drawn pictures without cells gives
    these odds, so the distance is a linear function of the features. It was better at recognising
    other pictures without cells, and at accepting cells of other laboratories, than the distance
    to the nearest training features (EXPERIMENTS.md).

    Attributes:
        features: (n, C), rows of unit length.
        labels: (n,) class labels.
        files: n paths within the data set.
        weight: (C,) weight of each feature in the distance.
        bias: the distance of features of length 0.
        threshold: distance beyond which an image is unlike all training images.
        false_alarms: share of the test images beyond the threshold, 0 to 1.
    """

    features: Tensor
    labels: Tensor
    files: list[str]
    weight: Tensor
    bias: float
    threshold: float = 0.0
    false_alarms: float = 0.0

    def distance(self, features: Tensor) -> Tensor:
        """Returns the distance of each image from all training images, (B,), of any sign.

        Args:
            features: (B, C), means over the positions of the trunk's feature maps.
        """
        return F.normalize(features, dim=1) @ self.weight + self.bias

    def are_unlike(self, features: Tensor) -> Tensor:
        """Returns whether each image is unlike all training images, (B,).

        Args:
            features: as for `distance`.
        """
        return self.distance(features) > self.threshold

    def to_photographs(self, features: Tensor) -> Tensor:
        """Returns the cosine distances (B, n), 0 to 2, of images to all photographs.

        Args:
            features: as for `distance`.
        """
        return 1 - F.normalize(features, dim=1) @ self.features.T

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields as plain types and tensors."""
        return self._asdict()

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Returns the gallery from the output of `as_dict`; float16 features are accepted."""
        return cls(
            F.normalize(torch.as_tensor(values["features"]).float(), dim=1),
            torch.as_tensor(values["labels"]).long(),
            list(values["files"]),
            torch.as_tensor(values["weight"]).float(),
            float(values["bias"]),
            float(values["threshold"]),
            float(values["false_alarms"]),
        )
