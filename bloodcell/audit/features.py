"""Computes the features of an image by which copies are found.

They are SIFT features (Lowe, International Journal of Computer Vision 60, 2004) and a small grey
image. This module does not import torch.
"""

import hashlib
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_SIDE = 320  # pixels of the longer side; larger images are reduced
_SMALLEST = 160  # pixels of the longer side; smaller images are enlarged
THUMBNAIL = 128  # pixels of the longer side at which two images are correlated
_FEATURES = 150  # largest number of features per image; the strongest are kept
_CONTRAST = 0.015  # least contrast of a feature; OpenCV's 0.04 leaves a dozen on pale smears
_DARK = 60  # sum of the channels; darker pixels are black-filled corners
_MOST_GAIN = 4.0  # of the brightness; more would amplify the noise of nearly black images
_BRIGHT = 224  # level to which the brightest tenth of an image is scaled
FEWEST = 8  # least number of agreeing features; fewer agree by chance
# permutes a SIFT descriptor (4 x 4 x 8) into that of the mirrored image: rows reversed,
# orientations negated
MIRRORED = np.arange(128).reshape(4, 4, 8)[::-1][:, :, -np.arange(8) % 8].ravel()


class ImageFeatures(NamedTuple):
    """Features of an image.

    Attributes:
        points: (k, 2) positions of SIFT features, in pixels of the resized image.
        descriptors: (k, 128) uint8, SIFT descriptors.
        thumbnail: (h, w) uint8 grey.
        scale: side of the thumbnail divided by the side of the resized image.
        digest: SHA-256 of the shape and pixels.
    """

    points: Floats
    descriptors: NDArray[np.uint8]
    thumbnail: NDArray[np.uint8]
    scale: float
    digest: bytes

    @property
    def comparable(self) -> bool:
        """Whether the image has enough features to recognise copies with different pixels."""
        return len(self.points) >= FEWEST


def compute_features(image: NDArray[np.uint8]) -> ImageFeatures:
    """Computes the features of an image; thread-safe.

    Args:
        image: (H, W, 3) RGB.
    """
    height, width = image.shape[:2]
    longer = max(height, width)
    factor = min(_SIDE, max(longer, _SMALLEST)) / longer
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    reduced = image if factor == 1 else cv2.resize(image, size, interpolation=how)
    grey = cv2.cvtColor(reduced, cv2.COLOR_RGB2GRAY)
    # so that a darker copy does not have fewer features
    bright = cv2.convertScaleAbs(grey, alpha=min(_BRIGHT / _brightness(reduced), _MOST_GAIN))
    sift = cv2.SIFT.create(nfeatures=_FEATURES, contrastThreshold=_CONTRAST)
    keypoints, descriptors = sift.detectAndCompute(bright, None)
    if descriptors is None:
        descriptors = np.zeros((0, 128))
    scale = THUMBNAIL / max(grey.shape)
    small = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
    return ImageFeatures(
        np.array([point.pt for point in keypoints], np.float32).reshape(-1, 2),
        descriptors.astype(np.uint8),
        np.asarray(cv2.resize(grey, small, interpolation=cv2.INTER_AREA), np.uint8),
        scale,
        _digest(image),
    )


def _digest(image: NDArray[np.uint8]) -> bytes:
    digest = hashlib.sha256(str(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.digest()


def _brightness(image: NDArray[Any]) -> float:
    """Returns the level above which the brightest tenth of an image lies, at least 1."""
    red, green, blue = (image[::2, ::2, channel].astype(np.uint16) for channel in range(3))
    most = np.maximum(np.maximum(red, green), blue)
    shown = most[red + green + blue > _DARK]
    return max(1.0, float(np.percentile(shown if len(shown) else most, 90)))


def unit_rows(rows: NDArray[Any]) -> Floats:
    """Returns the rows of a matrix, scaled to length 1; rows of zeros stay zeros."""
    values = rows.astype(np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", values, values))[:, None]
    result: Floats = values / np.maximum(lengths, 1e-6)
    return result
