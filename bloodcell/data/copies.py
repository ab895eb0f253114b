"""Finds which images were made from one photograph, from their pixels alone.

Copies may be rotated, sheared, shifted, scaled, mirrored, brightened and have black corners. Images
whose colours are most alike are candidates; a pair is a copy if SIFT features (Lowe, International
Journal of Computer Vision 60, 2004) agree on an affine map under which the pixels correlate. Groups
grow along such pairs, so that not every copy needs to resemble every other. Without torch.
"""

import hashlib
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
_SIDE = 320  # pixels of the longer side of an image that is looked at
_SMALLEST = 160  # features of smaller images are found in enlarged ones
_THUMBNAIL = 96  # pixels of the width at which pixels are correlated
_FEATURES = 150  # of an image, the most prominent
_CONTRAST = 0.015  # of a feature; OpenCV's 0.04 leaves pale smears with a dozen
_DARK = 60  # sum of the channels: corners that were filled with black have no colour
_BRIGHT = 224  # what the brightest tenth of an image is scaled to
_NEIGHBOURS = 8  # candidates for each image
_DISTINCT = 0.64  # squared ratio of distances, Lowe's 0.8
_OFF = 2.0  # pixels by which a feature may miss its place
_AGREE = 8  # features: fewer agree by chance
_CORRELATION = 0.4  # of copies .44 to .98, of other images up to .1 (Blood Cells, 800 pairs)
_OVERLAP = 0.2  # of the image
_NEAR_GROUPS = 40  # candidates for each group
_PROBES = 5  # pairs by which two groups are compared
_SAME = 0.85  # of the agreement within groups: less (.76 and below) was photographed again
_BLOCK = 1024
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


class Copies(NamedTuple):
    """Which images belong together.

    Attributes:
        photo: (n,) number of the photograph of each image, from 0.
        scene: (n,) number of the scene, equal for photographs that show the same.
    """

    photo: Ints
    scene: Ints


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
        hashlib.sha256(str(image.shape).encode() + image.tobytes()).digest(),
    )


def find_copies(looks: Sequence[Look], track: Callable[[int], None] = lambda done: None) -> Copies:
    """Groups images by the photograph they were made from.

    Photographs of one scene, such as a cell that was photographed twice, are told apart from copies
    where there are enough of them: they agree less with each other than within themselves.

    Args:
        looks: n images.
        track: is told how many of the n images are done.
    """
    groups = _Groups(looks)
    first: dict[bytes, int] = {}
    for place, look in enumerate(looks):
        groups.join(first.setdefault(look.digest, place), place)
    pairs = _near(np.stack([look.colours for look in looks]), _NEIGHBOURS)
    for done, (one, other) in enumerate(pairs):
        if done % _BLOCK == 0:
            track(done * len(looks) // len(pairs))
        if groups.joined(one, other) or not agreement(looks[one], looks[other]):
            continue
        few = min(groups.size(one), groups.size(other)) < _PROBES  # too few to tell more
        if few or groups.compare(one, other) >= _SAME:
            groups.join(one, other)
    scenes = []
    for one, other in groups.near():
        alike = groups.compare(one, other)
        if alike >= _SAME:
            groups.join(one, other)
        elif alike:
            scenes.append((one, other))
    photo = groups.numbers()
    for one, other in scenes:
        groups.join(one, other)
    track(len(looks))
    return Copies(photo, groups.numbers())


def agreement(one: Look, other: Look) -> int:
    """Number of features that agree on how one image became the other, 0 if it did not."""
    best = 0
    if min(len(one.points), len(other.points)) < _AGREE:
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
    both = (laid > _DARK / 5) & (other.thumbnail > _DARK / 5)
    if both.mean() < _OVERLAP:
        return 0.0
    here, there = laid[both].astype(np.float64), other.thumbnail[both].astype(np.float64)
    if not here.std() or not there.std():
        return 0.0
    return float(np.corrcoef(here, there)[0, 1])


class _Groups:
    """Images that are joined to photographs."""

    def __init__(self, looks: Sequence[Look]) -> None:
        self._looks = looks
        self._group = list(range(len(looks)))
        self._members = {place: [place] for place in range(len(looks))}

    def joined(self, one: int, other: int) -> bool:
        return self._group[one] == self._group[other]

    def join(self, one: int, other: int) -> None:
        """Joins the groups of two images."""
        kept, gone = sorted((self._group[one], self._group[other]))
        if kept != gone:
            moved = self._members.pop(gone)
            self._members[kept] += moved
            for place in moved:
                self._group[place] = kept

    def size(self, one: int) -> int:
        return len(self._members[self._group[one]])

    def numbers(self) -> Ints:
        """(n,) number of the group of each image, from 0 in the order of their first members."""
        return np.unique(self._group, return_inverse=True)[1].astype(np.int64)

    def near(self) -> list[tuple[int, int]]:
        """An image of each of two groups whose colours are alike, the most alike first."""
        of = list(self._members)
        colours = np.stack([self._mean_colours(members) for members in self._members.values()])
        return [(of[one], of[other]) for one, other in _near(colours, _NEAR_GROUPS)]

    def compare(self, one: int, other: int) -> float:
        """How much the groups of two images agree, as a share of how much each agrees in itself.

        Returns:
            0 if they have nothing in common, about 1 if they are copies of one photograph.
            Infinite if they have something in common, but are too small to tell more.
        """
        ones, others = self._probes(one), self._probes(other)
        counts: list[int] = []
        for n in range(max(len(ones), len(others))):
            counts.append(self._agreement(ones[n % len(ones)], others[n % len(others)]))
            if n == 1 and not any(counts):
                return 0.0
        across = float(np.median(counts))
        if not across:
            return 0.0
        levels = [level for level in (self._level(ones), self._level(others)) if level]
        return across / min(levels) if levels else np.inf

    def _level(self, probes: list[int]) -> float:
        """How many features agree within a group; 0 if it is too small to tell."""
        pairs = list(combinations(probes, 2))[:_PROBES] if len(probes) == _PROBES else []
        return float(np.median([self._agreement(*pair) for pair in pairs])) if pairs else 0.0

    def _agreement(self, one: int, other: int) -> int:
        return agreement(self._looks[one], self._looks[other])

    def _probes(self, image: int) -> list[int]:
        members = sorted(self._members[self._group[image]])
        places = np.linspace(0, len(members) - 1, min(_PROBES, len(members))).astype(int)
        return [members[place] for place in places]

    def _mean_colours(self, members: list[int]) -> Floats:
        total = np.sum([self._looks[member].colours for member in members], axis=0)
        result: Floats = total / np.linalg.norm(total)
        return result


def _near(colours: Floats, most: int) -> list[tuple[int, int]]:
    """Pairs of the most similar rows, each pair once, the most similar pair first."""
    n, most = len(colours), min(most, len(colours) - 1)
    found: dict[tuple[int, int], float] = {}
    for start in range(0, n if most > 0 else 0, _BLOCK):
        likeness = colours[start : start + _BLOCK] @ colours.T
        rows = np.arange(len(likeness))
        likeness[rows, start + rows] = -1
        near = np.argpartition(-likeness, most - 1, axis=1)[:, :most]
        for row, others in zip(rows.tolist(), near.tolist(), strict=True):
            for other in others:
                pair = (min(start + row, other), max(start + row, other))
                found[pair] = float(likeness[row, other])
    return sorted(found, key=lambda pair: (-found[pair], pair))
