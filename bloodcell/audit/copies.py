"""Finds which images were made from one photograph, from their pixels alone.

Images whose colours are most alike are candidates. Groups grow along pairs of copies, so that not
every copy needs to resemble every other. Without torch.
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bloodcell.audit.features import Floats, Look, agreement

Ints = NDArray[np.int64]
_NEIGHBOURS = 8  # candidates for each image
_NEAR_GROUPS = 40  # candidates for each group
_COMPARISONS = 50_000  # of groups, the most alike: minutes, also where every image is a group
_PROBES = 5  # pairs by which two groups are compared
_SAME = 0.85  # of the agreement within groups: less (.76 and below) was photographed again
_BLOCK = 1024


class Copies(NamedTuple):
    """Which images belong together.

    Attributes:
        photo: (n,) number of the photograph of each image, from 0.
        scene: (n,) number of the scene, equal for photographs that show the same.
    """

    photo: Ints
    scene: Ints


def find_copies(
    looks: Sequence[Look], track: Callable[[float], None] = lambda share: None
) -> Copies:
    """Groups images by the photograph they were made from.

    Photographs of one scene, such as a cell that was photographed twice, are told apart from copies
    where there are enough of them: they agree less with each other than within themselves.

    Args:
        looks: n images.
        track: is told which share of the work is done, 0 to 1.
    """
    groups = _Groups(looks)
    first: dict[bytes, int] = {}
    for place, look in enumerate(looks):
        groups.join(first.setdefault(look.digest, place), place)
    pairs = _near(np.stack([look.colours for look in looks]), _NEIGHBOURS)
    for done, (one, other) in enumerate(pairs):
        if done % _BLOCK == 0:
            track(done / len(pairs) / 2)
        if groups.joined(one, other) or not agreement(looks[one], looks[other]):
            continue
        few = min(groups.size(one), groups.size(other)) < _PROBES  # too few to tell more
        if few or groups.compare(one, other) >= _SAME:
            groups.join(one, other)
    scenes = []
    pairs = groups.near()
    for done, (one, other) in enumerate(pairs):
        track((1 + done / len(pairs)) / 2)
        if groups.joined(one, other):
            continue
        alike = groups.compare(one, other)
        if alike >= _SAME:
            groups.join(one, other)
        elif alike:
            scenes.append((one, other))
    photo = groups.numbers()
    for one, other in scenes:
        groups.join(one, other)
    track(1)
    return Copies(photo, groups.numbers())


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
        pairs = _near(colours, _NEAR_GROUPS)[:_COMPARISONS]
        return [(of[one], of[other]) for one, other in pairs]

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
