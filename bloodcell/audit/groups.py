"""Disjoint groups of images, and their comparison. This module does not import torch."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from bloodcell.audit.agreement import NONE, Agreement, agreement
from bloodcell.audit.features import ImageFeatures
from bloodcell.audit.neighbours import Ints, Rows, similar_pairs

_NEAR = 40  # most candidates per group
_COMPARISONS = 50_000  # most pairs of groups that are compared, in some minutes
PROBES = 5  # pairs of images that are compared for two groups


class Groups:
    """Disjoint groups of n images; at first, each image is its own group.

    Args:
        images: their features.
        rows: (n, d) vectors of their appearance.
    """

    def __init__(self, images: Sequence[ImageFeatures], rows: Rows) -> None:
        self._images = images
        self._rows = rows
        self._group = list(range(len(images)))
        self._members = {place: [place] for place in range(len(images))}
        self._certainty: dict[int, float] = {}  # of the groups that were joined

    def joined(self, one: int, other: int) -> bool:
        """Returns whether two images are in one group."""
        return self._group[one] == self._group[other]

    def join(self, one: int, other: int, certainty: float = 1.0) -> None:
        """Joins the groups of two images.

        Args:
            one: an image.
            other: another image.
            certainty: how sure it is that the groups belong together, 0 to 1.
        """
        kept, gone = sorted((self._group[one], self._group[other]))
        if kept != gone:
            moved = self._members.pop(gone)
            self._members[kept] += moved
            for place in moved:
                self._group[place] = kept
            known = (self._certainty.pop(group, 1.0) for group in (kept, gone))
            self._certainty[kept] = min(certainty, *known)

    def size(self, one: int) -> int:
        """Returns the number of images in the group of an image."""
        return len(self._members[self._group[one]])

    def numbers(self) -> Ints:
        """Returns the index (n,) of each image's group, in the order of their first images."""
        return np.unique(self._group, return_inverse=True)[1].astype(np.int64)

    def certainties(self) -> NDArray[np.float64]:
        """Returns for each image (n,) the certainty of its group's least sure join."""
        return np.array([self._certainty.get(group, 1.0) for group in self._group])

    def near(self) -> Ints:
        """Returns pairs (m, 2) of images, one of each of two similar groups, closest first."""
        of = np.array(list(self._members))
        means = np.stack([self._mean_row(members) for members in self._members.values()])
        most = min(_NEAR, 1 + 2 * _COMPARISONS // len(of))
        return of[similar_pairs(means, most)[:_COMPARISONS]]

    def compare(self, one: int, other: int) -> tuple[float, Agreement]:
        """Compares the agreement across the groups of two images with the agreement within them.

        Returns:
            The ratio: 0 if no features agree, about 1 for copies of one photograph, and infinity
            if some features agree but a group is too small for a comparison. And the surest
            agreement of a pair across the groups.
        """
        ones, others = self._probes(one), self._probes(other)
        found: list[Agreement] = []
        for n in range(max(len(ones), len(others))):
            found.append(self._agreement(ones[n % len(ones)], others[n % len(others)]))
            if n == 1 and found == [NONE, NONE]:
                return 0.0, NONE
        across = float(np.median([pair.features for pair in found]))
        if not across:
            return 0.0, NONE
        surest = max(found, key=lambda pair: pair.certainty)
        levels = [level for level in (self._level(ones), self._level(others)) if level]
        return across / min(levels) if levels else np.inf, surest

    def _level(self, probes: list[int]) -> float:
        """Returns the number of agreeing features within a group; 0 if the group is too small."""
        pairs = list(combinations(probes, 2))[:PROBES] if len(probes) == PROBES else []
        counts = [self._agreement(*pair).features for pair in pairs]
        return float(np.median(counts)) if counts else 0.0

    def _agreement(self, one: int, other: int) -> Agreement:
        return agreement(self._images[one], self._images[other])

    def _probes(self, image: int) -> list[int]:
        members = sorted(self._members[self._group[image]])
        places = np.linspace(0, len(members) - 1, min(PROBES, len(members))).astype(int)
        return [members[place] for place in places]

    def _mean_row(self, members: list[int]) -> NDArray[np.int8]:
        if len(members) == 1:
            return self._rows[members[0]]
        total = self._rows[members].sum(0, dtype=np.float32)
        length = max(float(np.linalg.norm(total)), 1e-6)
        # a vector of appearance has the length 127 * sqrt(2); its colours are at most 127
        return np.rint(total * (127 / length)).astype(np.int8)
