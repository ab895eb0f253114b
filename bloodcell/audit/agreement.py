"""Tests whether two images are copies of one photograph, and how sure that is.

A copy may be rotated, sheared, shifted, scaled, mirrored or brightened, with black corners. SIFT
features (Lowe, International Journal of Computer Vision 60, 2004) give an affine map from one
image to the other. Under this map the fine structure must be the same **everywhere**: photographs
of two round cells agree in the outline of the cell, but not in the red cells around it. So
the large, smooth differences of brightness are removed, and the pixels are correlated in each of
some 64 tiles that show any structure; a cell is a few tiles of them. This module does not
import torch.
"""

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from bloodcell.audit.features import FEWEST, MIRRORED, Floats, ImageFeatures, unit_rows

_DISTINCT = 0.64  # Lowe's ratio of distances, 0.8, squared
_OFF = 2.0  # largest error of a feature's position in pixels
_STRETCH = 3.0  # largest ratio of a map's scales in two directions, and largest change of scale
_TILES = 8  # along the longer side
_COVERED = 0.4  # least share of a tile that lies in both images
_SMOOTH = 0.03  # width of the Gaussian that is taken out, as a share of the longer side
_BLACK = 12  # largest grey level in black-filled corners
_OVERLAP = 0.2  # least overlap of two images, as a share of the area
_PLAIN = 2.0  # standard deviation in grey levels below which a tile shows nothing but noise
_FAINT = 0.15  # the same, as a share of the strongest tiles' deviation
_TURNS = (90, 180, 270)  # degrees, by which the images are turned against each other
_PROMISING = 0.05  # least likeness at which a better map is sought; other images reach .2 without
_SETTLED = 0.7  # likeness above which the map need not be better
_STEPS = 15  # of the search for a better map
_FURTHER = 0.05  # least share of an image beyond the overlap that is looked at
_FILLED = 0.9  # share of it that is not black in another picture of the field
_LEVEL, _STEEP = 0.4, 0.033  # likeness of a certainty of .5, and how fast the certainty grows
_ENOUGH = 0.5  # least certainty of copies
_MOST = 0.9999  # certainty: only equal pixels are beyond doubt


class Agreement(NamedTuple):
    """How far two images agree.

    Attributes:
        features: number of features that fit one affine map; 0 if the images are not copies.
        certainty: how sure it is that they show the same, 0 to 1.
        moved: whether they are two pictures of one field, not copies of one picture: both go on
            beyond the overlap, where a copy has black corners.
    """

    features: int
    certainty: float
    moved: bool = False


NONE = Agreement(0, 0.0)


def agreement(one: ImageFeatures, other: ImageFeatures) -> Agreement:
    """Compares two images, as they are and mirrored.

    Args:
        one: features of an image.
        other: features of another image.
    """
    best = NONE
    if not (one.comparable and other.comparable):
        return best
    there = unit_rows(other.descriptors.astype(np.float32))
    for order in (slice(None), MIRRORED):
        here = unit_rows(one.descriptors[:, order].astype(np.float32))
        source, target = _matches(here @ there.T)
        if len(source) < FEWEST:
            continue
        affine, inliers = cv2.estimateAffine2D(
            one.points[source], other.points[target], method=cv2.RANSAC,
            ransacReprojThreshold=_OFF, maxIters=500, confidence=0.995,
        )  # fmt: skip
        count = int(inliers.sum()) if affine is not None else 0
        if count >= max(best.features + 1, FEWEST) and _plausible(affine):
            found, affine = _best_likeness(one, other, affine)
            certainty = min(float(1 / (1 + np.exp((_LEVEL - found) / _STEEP))), _MOST)
            if certainty >= _ENOUGH:
                best = Agreement(count, certainty, _moved(one, other, affine))
    return best


def _matches(products: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the numbers of features that are much closer to one feature than to all others."""
    nearest = np.argpartition(-products, 1, axis=1)[:, :2]
    values = np.take_along_axis(products, nearest, 1)
    swap = values[:, 0] < values[:, 1]
    nearest[swap], values[swap] = nearest[swap, ::-1], values[swap, ::-1]
    distinct = np.flatnonzero(1 - values[:, 0] < _DISTINCT * (1 - values[:, 1]))
    return distinct, nearest[distinct, 0]


def _plausible(affine: NDArray[Any]) -> bool:
    """Returns whether a map is one that copies are made by, and does not crush the image."""
    large, small = np.linalg.svd(affine[:, :2], compute_uv=False)
    return bool(small > 1 / _STRETCH and large < min(_STRETCH, _STRETCH * small))


def _best_likeness(
    one: ImageFeatures, other: ImageFeatures, affine: NDArray[Any]
) -> tuple[float, NDArray[Any]]:
    """Returns the likeness under a map and the map, refined by the pixels if that is better.

    Features are exact to a pixel or two, which is much where structures are small: the likeness of
    a twentieth of the drawn copies of whole fields is below .36, and .88 with refined maps.
    """
    matrix = np.diag([other.scale, other.scale]) @ affine @ _enlarge(one)
    found = likeness(one, other, affine)
    if not _PROMISING < found < _SETTLED:
        return found, affine
    try:
        inverse = cv2.invertAffineTransform(matrix).astype(np.float32)
        criteria = (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, _STEPS, 1e-4)
        inverse = cv2.findTransformECC(
            other.thumbnail, one.thumbnail, inverse, cv2.MOTION_AFFINE, criteria, None, 3
        )[1]
    except cv2.error:  # the images do not correlate at all
        return found, affine
    matrix = cv2.invertAffineTransform(inverse.astype(np.float64))
    refined = np.diag([1 / other.scale] * 2) @ matrix @ np.diag([one.scale, one.scale, 1])
    if not _plausible(refined):
        return found, affine
    better = likeness(one, other, refined)
    return (better, refined) if better > found else (found, affine)


def likeness(one: ImageFeatures, other: ImageFeatures, affine: NDArray[Any]) -> float:
    """Returns how much of the fine structure of two images is the same, up to 1.

    It is the mean correlation over the tiles of the overlap. Each tile counts the same, however
    strong its structure is: otherwise a stained nucleus would outweigh everything around it. Round
    cells correlate however they are turned, so what remains of the correlation after a turn
    does not count. The result is 0 if the images hardly overlap or are plain.

    Args:
        one: features of an image.
        other: features of another image.
        affine: (2, 3) map of the positions in `one` to those in `other`.
    """
    laid, both = _lay(one, other, affine)
    if both.mean() < _OVERLAP:
        return 0.0
    here, there = _fine(laid, both), _fine(other.thumbnail.astype(np.float32), both)
    found = _mean_correlation(here, there, both)
    if found <= _PROMISING:
        return found
    height, width = here.shape
    weight = np.abs(here)
    y, x = (float((axis * weight).sum() / weight.sum()) for axis in np.indices(here.shape))
    by_chance = 0.0
    for turn in _TURNS:
        matrix = cv2.getRotationMatrix2D((x, y), turn, 1)
        turned = cv2.warpAffine(here, matrix, (width, height))
        shown = cv2.warpAffine(both.astype(np.uint8), matrix, (width, height)) > 0
        by_chance = max(by_chance, _mean_correlation(turned, there, both & shown))
    return (found - by_chance) / (1 - min(by_chance, 0.99))


def _lay(
    one: ImageFeatures, other: ImageFeatures, affine: NDArray[Any]
) -> tuple[Floats, NDArray[np.bool_]]:
    """Returns the thumbnail of `one` mapped onto that of `other`, and where both are shown."""
    matrix = np.diag([other.scale, other.scale]) @ affine @ _enlarge(one)
    height, width = other.thumbnail.shape
    laid = cv2.warpAffine(one.thumbnail.astype(np.float32), matrix, (width, height))
    shown = cv2.warpAffine(_shown(one.thumbnail), matrix, (width, height), flags=cv2.INTER_NEAREST)
    both = (shown > 0) & (_shown(other.thumbnail) > 0)
    if both.mean() < _OVERLAP:  # the images are also black outside the corners
        both = cv2.warpAffine(np.ones_like(one.thumbnail), matrix, (width, height)) > 0
    return np.asarray(laid, np.float32), both


def _enlarge(image: ImageFeatures) -> NDArray[np.float64]:
    return np.diag([1 / image.scale, 1 / image.scale, 1])


def _moved(one: ImageFeatures, other: ImageFeatures, affine: NDArray[Any]) -> bool:
    """Returns whether each image goes on where the other one ends."""
    back = cv2.invertAffineTransform(affine)
    return _goes_on(one, other, affine) and _goes_on(other, one, back)


def _goes_on(one: ImageFeatures, other: ImageFeatures, affine: NDArray[Any]) -> bool:
    """Returns whether `other` is not black beyond the frame of `one`."""
    matrix = np.diag([other.scale, other.scale]) @ affine @ _enlarge(one)
    height, width = other.thumbnail.shape
    beyond = cv2.warpAffine(np.ones_like(one.thumbnail), matrix, (width, height)) == 0
    if beyond.mean() < _FURTHER:
        return False
    return bool((other.thumbnail[beyond] > _BLACK).mean() >= _FILLED)


def _shown(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns 1 where an image is not black, without the blurred edge of the black."""
    return np.asarray(cv2.erode((grey > _BLACK).astype(np.uint8), np.ones((3, 3))), np.uint8)


def _fine(grey: Floats, shown: NDArray[np.bool_]) -> Floats:
    """Returns an image minus its smooth part, which is computed from the shown pixels only."""
    width = _SMOOTH * max(grey.shape)
    weight = shown.astype(np.float32)
    smooth = cv2.GaussianBlur(grey * weight, (0, 0), width)
    weights = np.maximum(cv2.GaussianBlur(weight, (0, 0), width), 1e-3)
    result: Floats = (grey - smooth / weights) * weight
    return result


def _mean_correlation(one: Floats, other: Floats, shown: NDArray[np.bool_]) -> float:
    """Returns the mean over all tiles with structure of the correlation within the tile."""
    rows, columns = np.indices(one.shape)
    side = max(one.shape) / _TILES
    tile = (rows // side).astype(int) * _TILES + (columns // side).astype(int)
    pixels = np.bincount(tile[shown], minlength=_TILES**2)

    def mean(values: Floats) -> NDArray[np.float64]:
        return np.bincount(tile[shown], values[shown], _TILES**2) / np.maximum(pixels, 1)

    both = mean(one * other) - mean(one) * mean(other)
    squares = [np.maximum(mean(x * x) - mean(x) ** 2, 0) for x in (one, other)]
    strength = np.sqrt(np.maximum(*squares))
    covered = pixels >= _COVERED * side**2
    if not covered.any():
        return 0.0
    least = max(_PLAIN, _FAINT * float(np.percentile(strength[covered], 90)))
    used = covered & (strength >= least)
    correlations = both[used] / np.sqrt(np.maximum(squares[0] * squares[1], 1e-6))[used]
    return float(correlations.mean()) if used.any() else 0.0
