"""Computes image features and tests whether two images are copies.

A copy may be rotated, sheared, shifted, scaled, mirrored or brightened, with black corners. Two
images are copies if SIFT features (Lowe, International Journal of Computer Vision 60, 2004) agree
on an affine map under which the pixels correlate. This module does not import torch.
"""

import hashlib
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_SIDE = 320  # pixels of the longer side; larger images are reduced
_SMALLEST = 160  # pixels of the longer side; smaller images are enlarged
N_COLOURS = 512  # values of a colour histogram, 8 x 8 x 8
_THUMBNAIL = 96  # width in pixels at which two images are correlated
_FEATURES = 150  # largest number of features per image; the strongest are kept
_CONTRAST = 0.015  # least contrast of a feature; OpenCV's 0.04 leaves a dozen on pale smears
_DARK = 60  # sum of the channels; darker pixels are black-filled corners
_BLACK = 12  # largest grey level in these corners
_BRIGHT = 224  # level to which the brightest tenth of an image is scaled
_DISTINCT = 0.64  # Lowe's ratio of distances, 0.8, squared
_OFF = 2.0  # largest error of a feature's position in pixels
_AGREE = 8  # least number of agreeing features; fewer agree by chance
_CORRELATION = 0.4  # copies have .44 to .98, other images up to .1 (Kaggle set, 800 pairs)
_OVERLAP = 0.2  # least overlap of two images, as a share of the area
# permutes a SIFT descriptor (4 x 4 x 8) into that of the mirrored image: rows reversed,
# orientations negated
_MIRRORED = np.arange(128).reshape(4, 4, 8)[::-1][:, :, -np.arange(8) % 8].ravel()


class ImageFeatures(NamedTuple):
    """Features of an image.

    Attributes:
        points: (k, 2) positions of SIFT features, in pixels of the resized image.
        descriptors: (k, 128) uint8, SIFT descriptors.
        colours: (N_COLOURS,) square roots of a colour histogram, after normalising the brightness.
        thumbnail: (h, w) uint8 grey.
        scale: width of the thumbnail divided by the width of the resized image.
        digest: SHA-256 of the shape and pixels.
    """

    points: Floats
    descriptors: NDArray[np.uint8]
    colours: Floats
    thumbnail: NDArray[np.uint8]
    scale: float
    digest: bytes

    @property
    def comparable(self) -> bool:
        """Whether the image has enough features to recognise copies with different pixels."""
        return len(self.points) >= _AGREE


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
    sift = cv2.SIFT.create(nfeatures=_FEATURES, contrastThreshold=_CONTRAST)
    keypoints, descriptors = sift.detectAndCompute(grey, None)
    if descriptors is None:
        descriptors = np.zeros((0, 128))
    scale = _THUMBNAIL / grey.shape[1]
    small = (_THUMBNAIL, max(1, round(grey.shape[0] * scale)))
    return ImageFeatures(
        np.array([point.pt for point in keypoints], np.float32).reshape(-1, 2),
        descriptors.astype(np.uint8),
        _colours(reduced),
        np.asarray(cv2.resize(grey, small, interpolation=cv2.INTER_AREA), np.uint8),
        scale,
        _digest(image),
    )


def agreement(one: ImageFeatures, other: ImageFeatures) -> int:
    """Returns the number of features that fit one affine map; 0 if the images are not copies."""
    best = 0
    if not (one.comparable and other.comparable):
        return 0
    there = _unit(other.descriptors)
    for order in (slice(None), _MIRRORED):
        likeness = _unit(one.descriptors[:, order]) @ there.T
        nearest = np.argpartition(-likeness, 1, axis=1)[:, :2]
        values = np.take_along_axis(likeness, nearest, 1)
        swap = values[:, 0] < values[:, 1]
        nearest[swap], values[swap] = nearest[swap, ::-1], values[swap, ::-1]
        distinct = 1 - values[:, 0] < _DISTINCT * (1 - values[:, 1])
        if distinct.sum() < _AGREE:
            continue
        source, target = one.points[distinct], other.points[nearest[distinct, 0]]
        affine, inliers = cv2.estimateAffine2D(
            source, target, method=cv2.RANSAC, ransacReprojThreshold=_OFF, maxIters=500,
            confidence=0.995,
        )  # fmt: skip
        count = int(inliers.sum()) if affine is not None else 0
        if count > max(best, _AGREE - 1) and _correlation(one, other, affine) >= _CORRELATION:
            best = count
    return best


def _digest(image: NDArray[np.uint8]) -> bytes:
    digest = hashlib.sha256(str(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.digest()


def _colours(image: NDArray[Any]) -> Floats:
    pixels = image[::2, ::2].reshape(-1, 3).astype(np.float32)
    coloured = pixels[pixels.sum(1) > _DARK]
    pixels = coloured if len(coloured) else pixels
    bright = max(1.0, float(np.percentile(pixels.max(1), 90)))
    levels = np.minimum(pixels * (_BRIGHT / bright), 255).astype(np.int64) >> 5
    counts = np.bincount(levels @ np.array([64, 8, 1]), minlength=N_COLOURS)
    roots: Floats = np.sqrt(counts / counts.sum()).astype(np.float32)
    return roots


def _unit(descriptors: NDArray[np.uint8]) -> Floats:
    values = descriptors.astype(np.float32)
    result: Floats = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)
    return result


def _correlation(one: ImageFeatures, other: ImageFeatures, affine: NDArray[Any]) -> float:
    """Returns the correlation of the pixels where two images overlap after the affine map."""
    before = np.diag([1 / one.scale, 1 / one.scale, 1])
    after = np.diag([other.scale, other.scale])
    height, width = other.thumbnail.shape
    laid = cv2.warpAffine(one.thumbnail, after @ affine @ before, (width, height))
    inside = cv2.warpAffine(np.ones_like(one.thumbnail), after @ affine @ before, (width, height))
    both = (inside > 0) & (laid > _BLACK) & (other.thumbnail > _BLACK)
    if both.mean() < _OVERLAP:
        both = inside > 0  # the images are also black outside the corners
    if both.mean() < _OVERLAP:
        return 0.0
    here, there = laid[both].astype(np.float64), other.thumbnail[both].astype(np.float64)
    if not here.std() or not there.std():
        return 0.0
    return float(np.corrcoef(here, there)[0, 1])
