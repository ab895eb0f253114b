"""Groups the images of each photograph, using only their pixels.

Images with similar colours are candidates. Groups grow along pairs of copies, so two copies in one
group need not resemble each other. This module does not import torch.
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from bloodcell.audit.features import N_COLOURS, Floats, ImageFeatures, agreement
from bloodcell.audit.neighbours import Ints, similar_pairs

_NEIGHBOURS = 8  # candidates per image
_NEAR_GROUPS = 40  # candidates per group
_COMPARISONS = 50_000  # maximum number of pairs of groups to compare, which takes minutes
_PROBES = 5  # pairs of images that are compared for two groups
# minimum ratio of the agreement between two groups to that within them; different photographs
# reach .76
_SAME = 0.85
_TOLD = 1024  # pairs between two reports of progress


class Copies(NamedTuple):
    """Groups of n images.

    Attributes:
        photo: (n,) index of each image's photograph.
        scene: (n,) index of each image's scene; photographs of one cell share a scene.
    """

    photo: Ints
    scene: Ints


def find_copies(
    images: Sequence[ImageFeatures], track: Callable[[float], None] = lambda share: None
) -> Copies:
    """Groups images by their original photograph.

    Two photographs of one scene are separated if there are enough copies of each, because copies
    agree less across photographs than within one.

    Args:
        images: features of n images.
        track: called with the finished share of the work, 0 to 1.
    """
    first: dict[bytes, int] = {}
    equal: list[int] = []
    colours = np.zeros((len(images), N_COLOURS), np.float32)
    for place, image in enumerate(images):  # each image is read once from a `FeatureStore`
        equal.append(first.setdefault(image.digest, place))
        colours[place] = image.colours
    groups = _Groups(images, colours)
    for place, other in enumerate(equal):
        groups.join(other, place)
    pairs = similar_pairs(colours, _NEIGHBOURS)
    for done, (one, other) in enumerate(pairs.tolist()):
        if done % _TOLD == 0:
            track(done / len(pairs) / 2)
        if groups.joined(one, other) or not agreement(images[one], images[other]):
            continue
        few = min(groups.size(one), groups.size(other)) < _PROBES  # too few to compare
        if few or groups.compare(one, other) >= _SAME:
            groups.join(one, other)
    scenes = []
    near = groups.near()
    for done, (one, other) in enumerate(near):
        track((1 + done / len(near)) / 2)
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
    """Disjoint groups of images; at first, each image is its own group."""

    def __init__(self, images: Sequence[ImageFeatures], colours: Floats) -> None:
        self._images, self._colours = images, colours
        self._group = list(range(len(images)))
        self._members = {place: [place] for place in range(len(images))}

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
        """Returns the index (n,) of each image's group, in the order of their first images."""
        return np.unique(self._group, return_inverse=True)[1].astype(np.int64)

    def near(self) -> list[list[int]]:
        """Returns an image from each of two groups with similar colours, the closest pair first."""
        of = np.array(list(self._members))
        colours = np.stack([self._mean_colours(members) for members in self._members.values()])
        pairs: list[list[int]] = of[similar_pairs(colours, _NEAR_GROUPS)[:_COMPARISONS]].tolist()
        return pairs

    def compare(self, one: int, other: int) -> float:
        """Compares the agreement across the groups of two images with the agreement within them.

        Returns:
            The ratio: 0 if no features agree, about 1 for copies of one photograph, and infinity
            if some features agree but a group is too small for a comparison.
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
        """Returns the number of agreeing features within a group; 0 if the group is too small."""
        pairs = list(combinations(probes, 2))[:_PROBES] if len(probes) == _PROBES else []
        return float(np.median([self._agreement(*pair) for pair in pairs])) if pairs else 0.0

    def _agreement(self, one: int, other: int) -> int:
        return agreement(self._images[one], self._images[other])

    def _probes(self, image: int) -> list[int]:
        members = sorted(self._members[self._group[image]])
        places = np.linspace(0, len(members) - 1, min(_PROBES, len(members))).astype(int)
        return [members[place] for place in places]

    def _mean_colours(self, members: list[int]) -> Floats:
        total = self._colours[members].sum(axis=0)
        result: Floats = total / np.linalg.norm(total)
        return result
