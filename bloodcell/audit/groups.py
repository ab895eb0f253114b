"""Disjoint groups of images, and their comparison. This module does not import torch."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bloodcell.audit.agreement import agreement
from bloodcell.audit.features import ImageFeatures
from bloodcell.audit.likeness import compare_structure
from bloodcell.audit.neighbours import Ints, Rows, similar_pairs

ALIKE = 0.4  # least likeness of copies; like cells reach .27, copies seldom fall below .70
_MOST = 0.999  # likeness, unless the pixels are equal
SURE = 0.6  # least likeness of joins that are made at once, and that are called sure
PROBES = 5  # pairs of images that are compared for two groups
_NEAR = 40  # most candidates per group
_COMPARISONS = 50_000  # most pairs of groups that are compared, in some minutes
_KEPT = 2**16  # results that are kept; groups compare the same images repeatedly

Join = tuple[int, int, float]  # two images, and how alike they are


class Pair(NamedTuple):
    """How two images or two groups agree.

    Attributes:
        features: number of features that fit one affine map; 0 if the images do not agree.
        likeness: how alike their fine structure is, up to 1.
        apart: whether they are pictures of one field, centred on different places.
        differ: whether they are surely made from different photographs.
    """

    features: int
    likeness: float = 0.0
    apart: bool = False
    differ: bool = False


_NONE = Pair(0)


class Groups:
    """Disjoint groups of n images; at first, each image is its own group.

    Args:
        images: their features.
        rows: (n, d) vectors of their appearance.
    """

    def __init__(self, images: Sequence[ImageFeatures], rows: Rows) -> None:
        self._images, self._rows = images, rows
        self._group = list(range(len(images)))
        self._members = {place: [place] for place in range(len(images))}
        self._likeness: dict[int, float] = {}  # of the groups that were joined
        self._known = lru_cache(_KEPT)(self._compare_images)

    def joined(self, one: int, other: int) -> bool:
        """Returns whether two images are in one group."""
        return self._group[one] == self._group[other]

    def join(self, one: int, other: int, likeness: float = 1.0) -> None:
        """Joins the groups of two images.

        Args:
            one: an image.
            other: another image.
            likeness: how alike the groups are, up to 1.
        """
        kept, gone = sorted((self._group[one], self._group[other]))
        if kept != gone:
            moved = self._members.pop(gone)
            self._members[kept] += moved
            for place in moved:
                self._group[place] = kept
            known = (self._likeness.pop(group, 1.0) for group in (kept, gone))
            self._likeness[kept] = min(likeness, *known)

    def join_all(self, joins: list[Join]) -> tuple[Ints, NDArray[np.float64]]:
        """Joins groups, most alike first; returns `numbers` and `likenesses`."""
        for one, other, likeness in sorted(joins, key=lambda join: -join[2]):
            self.join(one, other, likeness)
        return self.numbers(), self.likenesses()

    def few(self, one: int, other: int) -> bool:
        """Returns whether one of two groups is too small to compare the agreement within it."""
        return min(len(self._members[self._group[place]]) for place in (one, other)) < PROBES

    def numbers(self) -> Ints:
        """Returns the index (n,) of each image's group, in the order of their first images."""
        return np.unique(self._group, return_inverse=True)[1].astype(np.int64)

    def likenesses(self) -> NDArray[np.float64]:
        """Returns for each image (n,) the likeness of its group's least alike join."""
        return np.array([self._likeness.get(group, 1.0) for group in self._group])

    def near(self) -> list[list[int]]:
        """Returns pairs of groups of similar appearance, closest first, each given by one image.

        Pairs of two single images are left out: images were compared before they were grouped.
        """
        of = np.array(list(self._members))
        several = np.array([len(members) > 1 for members in self._members.values()])
        if not several.any():
            return []
        means = np.stack([self._mean_row(members) for members in self._members.values()])
        found = similar_pairs(means, _NEAR)
        found = found[several[found].any(axis=1)][:_COMPARISONS]
        pairs: list[list[int]] = of[found].tolist()
        return pairs

    def pair(self, one: int, other: int) -> Pair:
        """Compares two images."""
        return self._known(min(one, other), max(one, other))

    def compare(self, one: int, other: int) -> tuple[float, Pair]:
        """Compares the agreement across the groups of two images with the agreement within them.

        Returns:
            The ratio: 0 if no features agree, about 1 for copies of one photograph, and infinity
            if some features agree but both groups are too small for a comparison. And the most
            alike pair of images across the groups.
        """
        ones, others = self._probes(one), self._probes(other)
        found: list[Pair] = []
        for n in range(max(len(ones), len(others))):
            found.append(self.pair(ones[n % len(ones)], others[n % len(others)]))
            if n == 1 and not any(pair.features for pair in found):
                return 0.0, _NONE
        across = float(np.median([pair.features for pair in found]))
        if not across:
            return 0.0, _NONE
        levels = [level for level in (self._level(ones), self._level(others)) if level]
        best = max(found, key=lambda pair: pair.likeness)
        best = best._replace(differ=any(pair.differ for pair in found))
        return across / min(levels) if levels else np.inf, best

    def _compare_images(self, one: int, other: int) -> Pair:
        images = self._images[one], self._images[other]
        found = agreement(*images)
        if not found:
            return _NONE
        value, apart, differ = compare_structure(*images, found.affine)
        return Pair(found.features, min(value, _MOST), apart, differ)

    def _level(self, probes: list[int]) -> float:
        """Returns the number of agreeing features within a group; 0 if the group is too small."""
        pairs = list(combinations(probes, 2))[:PROBES] if len(probes) == PROBES else []
        return float(np.median([self.pair(*pair).features for pair in pairs])) if pairs else 0.0

    def _probes(self, image: int) -> list[int]:
        members = sorted(self._members[self._group[image]])
        places = np.linspace(0, len(members) - 1, min(PROBES, len(members))).astype(int)
        return [members[place] for place in places]

    def _mean_row(self, members: list[int]) -> Rows:
        total = self._rows[members].sum(0, dtype=np.float32)
        mean: Rows = (total / max(float(np.linalg.norm(total)), 1e-6)).astype(np.float16)
        return mean
