"""What is kept of an image to find its copies by, and whether two images are copies.

Copies may be rotated, sheared, shifted, scaled, mirrored, brightened and have black corners. Two
images are copies if SIFT features (Lowe, International Journal of Computer Vision 60, 2004) agree
on an affine map under which the pixels correlate. Without torch.
"""

import hashlib
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_SIDE = 320  # pixels of the longer side of an image that is looked at
_SMALLEST = 160  # features of smaller images are found in enlarged ones
_THUMBNAIL = 96  # pixels of the width at which pixels are correlated
_FEATURES = 150  # of an image, the most prominent
_CONTRAST = 0.015  # of a feature; OpenCV's 0.04 leaves pale smears with a dozen
_DARK = 60  # sum of the channels: corners that were filled with black have no colour
_BLACK = 12  # grey, of the same corners
_BRIGHT = 224  # what the brightest tenth of an image is scaled to
_DISTINCT = 0.64  # squared ratio of distances, Lowe's 0.8
_OFF = 2.0  # pixels by which a feature may miss its place
_AGREE = 8  # features: fewer agree by chance
_CORRELATION = 0.4  # of copies .44 to .98, of other images up to .1 (Blood Cells, 800 pairs)
_OVERLAP = 0.2  # of the image
# SIFT's 4 x 4 x 8 numbers of the mirrored neighbourhood: rows reversed, orientations negated
_MIRRORED = np.arange(128).reshape(4, 4, 8)[::-1][:, :, -np.arange(8) % 8].ravel()


class Look(NamedTuple):
    """What is kept of an image.

    Attributes:
        points: (k, 2) places of its features, pixels of the reduced image.
        descriptors: (k, 128) uint8.
        colours: (512,) square roots of a histogram, brightness evened out.
        thumbnail: (h, w) uint8 grey.
        scale: pixels of the thumbnail for one of the reduced image.
        digest: equal for equal pixels.
    """

    points: Floats
    descriptors: NDArray[np.uint8]
    colours: Floats
    thumbnail: NDArray[np.uint8]
    scale: float
    digest: bytes

    @property
    def comparable(self) -> bool:
        """Whether there is enough in it to be found again in a copy, unless pixels are equal."""
        return len(self.points) >= _AGREE


def look_at(image: NDArray[np.uint8]) -> Look:
    """Looks at an image; safe in threads.

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
    sift = cv2.SIFT_create(nfeatures=_FEATURES, contrastThreshold=_CONTRAST)  # type: ignore[attr-defined]
    keypoints, descriptors = sift.detectAndCompute(grey, None)
    if descriptors is None:
        descriptors = np.zeros((0, 128))
    scale = _THUMBNAIL / grey.shape[1]
    small = (_THUMBNAIL, max(1, round(grey.shape[0] * scale)))
    return Look(
        np.array([point.pt for point in keypoints], np.float32).reshape(-1, 2),
        descriptors.astype(np.uint8),
        _colours(reduced),
        np.asarray(cv2.resize(grey, small, interpolation=cv2.INTER_AREA), np.uint8),
        scale,
        _digest(image),
    )


def agreement(one: Look, other: Look) -> int:
    """Number of features that agree on how one image became the other, 0 if it did not."""
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
    counts = np.bincount(levels @ np.array([64, 8, 1]), minlength=512)
    roots: Floats = np.sqrt(counts / counts.sum()).astype(np.float32)
    return roots


def _unit(descriptors: NDArray[np.uint8]) -> Floats:
    values = descriptors.astype(np.float32)
    result: Floats = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)
    return result


def _correlation(one: Look, other: Look, affine: NDArray[Any]) -> float:
    """Of the pixels where both images are, once the first is laid over the second."""
    before = np.diag([1 / one.scale, 1 / one.scale, 1])
    after = np.diag([other.scale, other.scale])
    height, width = other.thumbnail.shape
    laid = cv2.warpAffine(one.thumbnail, after @ affine @ before, (width, height))
    inside = cv2.warpAffine(np.ones_like(one.thumbnail), after @ affine @ before, (width, height))
    both = (inside > 0) & (laid > _BLACK) & (other.thumbnail > _BLACK)
    if both.mean() < _OVERLAP:
        both = inside > 0  # black is not only the corners here
    if both.mean() < _OVERLAP:
        return 0.0
    here, there = laid[both].astype(np.float64), other.thumbnail[both].astype(np.float64)
    if not here.std() or not there.std():
        return 0.0
    return float(np.corrcoef(here, there)[0, 1])
