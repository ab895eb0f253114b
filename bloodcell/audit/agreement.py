"""Finds the affine map between two images under which their features and pixels agree.

A copy may be rotated, sheared, shifted, scaled, mirrored or brightened, with black corners. This
module does not import torch.
"""

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from bloodcell.audit.features import FEWEST, MIRRORED, Floats, ImageFeatures, unit_rows

Affine = NDArray[Any]
_DISTINCT = 0.64  # Lowe's ratio of distances, 0.8, squared
_OFF = 2.0  # largest error of a feature's position in pixels
_ZOOM = 3.0  # largest change of scale
_STRETCH = 2.0  # largest ratio of a map's scales in two directions
_CORRELATION = 0.4  # copies have .44 to .98, other images up to .1 (Kaggle set, 800 pairs)
OVERLAP = 0.2  # least overlap of two images, as a share of the area
BLACK = 12  # largest grey level in black-filled corners


class Agreement(NamedTuple):
    """How two images agree.

    Attributes:
        features: number of features that fit the map.
        affine: (2, 3) map of positions in one image to those in the other, in pixels of the
            resized images.
    """

    features: int
    affine: Affine


def agreement(one: ImageFeatures, other: ImageFeatures) -> Agreement | None:
    """Compares two images, as they are and mirrored; None if they do not agree."""
    best: Agreement | None = None
    if not (one.comparable and other.comparable):
        return None
    there = unit_rows(other.descriptors).T
    here = unit_rows(one.descriptors)
    for order in (slice(None), MIRRORED):
        source, target = _matches(here[:, order] @ there)
        if len(source) < FEWEST:
            continue
        affine, inliers = cv2.estimateAffine2D(
            one.points[source], other.points[target], method=cv2.RANSAC,
            ransacReprojThreshold=_OFF, maxIters=500, confidence=0.995,
        )  # fmt: skip
        count = int(inliers.sum()) if affine is not None else 0
        enough = count >= FEWEST and (best is None or count > best.features)
        if enough and plausible(affine) and _correlation(one, other, affine) >= _CORRELATION:
            best = Agreement(count, affine)
    return best


def lay(
    one: ImageFeatures, other: ImageFeatures, affine: Affine
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Maps the thumbnail of an image onto that of another one.

    Returns:
        The mapped thumbnail (h, w), and where both images show something (h, w).
    """
    matrix = thumbnail_map(one, other, affine)
    size = other.thumbnail.shape[::-1]
    laid = cv2.warpAffine(one.thumbnail, matrix, size)
    inside = cv2.warpAffine(np.ones_like(one.thumbnail), matrix, size) > 0
    both = inside & (laid > BLACK) & (other.thumbnail > BLACK)
    if both.mean() < OVERLAP:
        both = inside  # the images are also black outside the corners
    return np.asarray(laid, np.uint8), both


def thumbnail_map(one: ImageFeatures, other: ImageFeatures, affine: Affine) -> Affine:
    """Returns the same map (2, 3) for positions in the thumbnails."""
    before = np.diag([1 / one.scale, 1 / one.scale, 1])
    result: Affine = np.diag([other.scale, other.scale]) @ affine @ before
    return result


def plausible(affine: Affine) -> bool:
    """Returns whether copies are made by such a map: it does not crush the image."""
    large, small = np.linalg.svd(affine[:, :2], compute_uv=False)
    return bool(small > 1 / _ZOOM and large < min(_ZOOM, _STRETCH * small))


def _matches(products: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the numbers of features that are much closer to one feature than to all others."""
    rows = np.arange(len(products))
    nearest = products.argmax(axis=1)
    first = products[rows, nearest]
    products[rows, nearest] = -1
    distinct = np.flatnonzero(1 - first < _DISTINCT * (1 - products.max(axis=1)))
    return distinct, nearest[distinct]


def _correlation(one: ImageFeatures, other: ImageFeatures, affine: Affine) -> float:
    """Returns the correlation of the pixels where two images overlap after the affine map."""
    laid, both = lay(one, other, affine)
    if both.mean() < OVERLAP:
        return 0.0
    here, there = laid[both].astype(np.float64), other.thumbnail[both].astype(np.float64)
    if not here.std() or not there.std():
        return 0.0
    return float(np.corrcoef(here, there)[0, 1])
