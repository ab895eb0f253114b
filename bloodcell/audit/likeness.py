"""Tells copies of one photograph from photographs of like cells.

Two round cells on a plain ground agree in outline, and so do many of their features. But the
fine structure of copies is the same everywhere, also in the red cells around. So the smooth part
of both images is taken out, and the rest is correlated in each of some 64 tiles. A tile counts
the same however strong its structure is: otherwise a stained nucleus would outweigh everything
around it. This module does not import torch.
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from bloodcell.audit.agreement import BLACK, OVERLAP, Affine, lay, plausible, thumbnail_map
from bloodcell.audit.features import THUMBNAIL, Floats, ImageFeatures

_TILE = THUMBNAIL // 8  # pixels
_COVERED = 0.4  # least share of a tile that is in both images
_MANY = 16  # tiles; the mean over fewer is reduced, because they agree by chance more often
_SMOOTH = 4.0  # width of the Gaussian that is taken out, in pixels
_PLAIN = 2.0  # standard deviation in grey levels below which a tile shows nothing but noise
_FAINT = 0.15  # the same, as a share of the strongest tiles' deviation
_TURNS = (90, 180, 270)  # degrees, by which the images are turned against each other
_PROMISING = 0.05  # least likeness for which a better map is sought
_SETTLED = 0.7  # likeness above which the map need not be better
_STEPS = 15  # of the search for a better map
_BLUR = 3  # width in pixels of the filter before it
_APART = 0.1  # between two pictures' middles, as a share of the shorter side; touching cells: .13
_DIFFERENT = 0.005  # share that is black in one of two photographs; 0 in copies of one
_FURTHER = 0.05  # least share of an image beyond the overlap that is examined
_FILLED = 0.9  # share of it that is not black in another picture of the field


class Likeness(NamedTuple):
    """How alike two images are.

    Attributes:
        value: mean correlation of the fine structure, up to 1.
        apart: whether they are pictures of one field that are centred on different places. Both
            show more of the field beyond the overlap, where a copy is black.
        differ: whether one is black where the other shows the field, so they are made from
            different photographs: copies are black only beyond their photograph.
    """

    value: float
    apart: bool = False
    differ: bool = False


def compare_structure(one: ImageFeatures, other: ImageFeatures, affine: Affine) -> Likeness:
    """Compares the fine structure of two images.

    Features are exact to a pixel or two, which is much where structures are small, so the map is
    refined by the pixels if that may help.

    Args:
        one: features of an image.
        other: features of another image.
        affine: (2, 3) map of the positions in `one` to those in `other`.
    """
    found = _likeness(one, other, affine)
    if _PROMISING < found < _SETTLED:
        refined = _refine(one, other, affine)
        better = _likeness(one, other, refined) if plausible(refined) else 0.0
        if better > found:
            found, affine = better, refined
    if found <= _PROMISING:
        return Likeness(found)
    matrix = thumbnail_map(one, other, affine)
    back = cv2.invertAffineTransform(matrix)
    differ = _is_black(one, other, matrix) or _is_black(other, one, back)
    return Likeness(found, _apart(one, other, matrix), differ)


def _refine(one: ImageFeatures, other: ImageFeatures, affine: Affine) -> Affine:
    """Returns the map near `affine` under which the pixels correlate best."""
    matrix = thumbnail_map(one, other, affine)
    criteria = (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, _STEPS, 1e-4)
    inverse = cv2.invertAffineTransform(matrix).astype(np.float32)
    try:
        found = cv2.findTransformECC(
            *(other.thumbnail, one.thumbnail, inverse, cv2.MOTION_AFFINE, criteria),
            np.full_like(one.thumbnail, 255),  # the whole image
            _BLUR,
        )[1]
    except cv2.error:  # the images do not correlate at all
        return affine
    matrix = cv2.invertAffineTransform(found.astype(np.float64))
    result: Affine = np.diag([1 / other.scale] * 2) @ matrix @ np.diag([one.scale, one.scale, 1])
    return result


def _likeness(one: ImageFeatures, other: ImageFeatures, affine: Affine) -> float:
    """Returns the mean correlation of the fine structure under a map.

    Round cells correlate however they are turned, so what remains of the correlation after a
    turn does not count. The result is 0 if the images hardly overlap or are plain.
    """
    laid, shown = lay(one, other, affine)
    both = np.asarray(cv2.erode(shown.astype(np.uint8), np.ones((3, 3))), np.float32)
    if both.mean() < OVERLAP:
        return 0.0
    here, there = _fine(laid, both), _fine(other.thumbnail, both)
    found = _mean_correlation(here, there, both)
    if found <= _PROMISING:
        return found
    weight = np.abs(here)
    x, y = weight.sum(0) @ np.arange(here.shape[1]), weight.sum(1) @ np.arange(here.shape[0])
    centre = float(x / weight.sum()), float(y / weight.sum())
    by_chance = 0.0
    for turn in _TURNS:
        matrix = cv2.getRotationMatrix2D(centre, turn, 1)
        size = here.shape[::-1]
        turned = np.asarray(cv2.warpAffine(here, matrix, size), np.float32)
        seen = cv2.warpAffine(both, matrix, size) > 0
        by_chance = max(by_chance, _mean_correlation(turned, there, both * seen))
    return (found - by_chance) / (1 - min(by_chance, 0.99))


def _fine(grey: NDArray[np.uint8], shown: Floats) -> Floats:
    """Returns an image minus its smooth part, which is computed from the shown pixels only."""
    values = grey.astype(np.float32)
    smooth = np.asarray(cv2.GaussianBlur(values * shown, (0, 0), _SMOOTH), np.float32)
    weights = np.asarray(cv2.GaussianBlur(shown, (0, 0), _SMOOTH), np.float32)
    fine = (values - smooth / np.maximum(weights, 1e-3)) * shown
    return np.asarray(fine, np.float32)


def _mean_correlation(one: Floats, other: Floats, shown: Floats) -> float:
    """Returns the mean over all tiles with structure of the correlation within the tile.

    It is reduced if there are few of them.
    """
    share = _tile_means(shown)
    weight = np.maximum(share, 1e-6)
    ones, others = one * shown, other * shown
    mean, means = _tile_means(ones) / weight, _tile_means(others) / weight
    both = _tile_means(ones * others) / weight - mean * means
    square = np.maximum(_tile_means(ones * ones) / weight - mean**2, 0)
    squares = np.maximum(_tile_means(others * others) / weight - means**2, 0)
    strength = np.sqrt(np.maximum(square, squares))
    covered = share >= _COVERED
    if not covered.any():
        return 0.0
    least = max(_PLAIN, _FAINT * float(np.percentile(strength[covered], 90)))
    used = covered & (strength >= least)
    correlations = both[used] / np.sqrt(np.maximum(square * squares, 1e-6))[used]
    chance = min(1.0, np.sqrt(used.sum() / _MANY))
    return float(correlations.mean() * chance) if used.any() else 0.0


def _tile_means(values: Floats) -> Floats:
    height, width = values.shape
    below, right = -height % _TILE, -width % _TILE
    padded = cv2.copyMakeBorder(values, 0, below, 0, right, cv2.BORDER_CONSTANT)
    size = (width + right) // _TILE, (height + below) // _TILE
    return np.asarray(cv2.resize(padded, size, interpolation=cv2.INTER_AREA), np.float32)


def _apart(one: ImageFeatures, other: ImageFeatures, matrix: Affine) -> bool:
    """Returns whether two images show different parts of a field."""
    middle, place = (np.array(image.thumbnail.shape[::-1]) / 2 for image in (other, one))
    shift = np.linalg.norm(matrix[:, :2] @ place + matrix[:, 2] - middle)
    if shift < _APART * min(other.thumbnail.shape):
        return False
    back = cv2.invertAffineTransform(matrix)
    return _reaches_beyond(one, other, matrix) and _reaches_beyond(other, one, back)


def _is_black(one: ImageFeatures, other: ImageFeatures, matrix: Affine) -> bool:
    """Returns whether `other` is black where `one` shows the field."""
    laid = cv2.warpAffine(one.thumbnail, matrix, other.thumbnail.shape[::-1])
    black = cv2.erode((other.thumbnail <= BLACK).astype(np.uint8), np.ones((5, 5))) > 0
    return bool((black & (laid > 3 * BLACK)).mean() >= _DIFFERENT)


def _reaches_beyond(one: ImageFeatures, other: ImageFeatures, matrix: Affine) -> bool:
    """Returns whether `other` is not black beyond the frame of `one`."""
    size = other.thumbnail.shape[::-1]
    beyond = cv2.warpAffine(np.ones_like(one.thumbnail), matrix, size) == 0
    if beyond.mean() < _FURTHER:
        return False
    return bool((other.thumbnail[beyond] > BLACK).mean() >= _FILLED)
