"""Groups the images of each photograph, using only their pixels.

Images with similar colours and texture are candidates. Groups grow along pairs of copies, so two
copies in one group need not resemble each other. This module does not import torch.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bloodcell.audit.agreement import agreement
from bloodcell.audit.appearance import describe_appearance
from bloodcell.audit.features import ImageFeatures
from bloodcell.audit.groups import PROBES, Groups
from bloodcell.audit.neighbours import Ints, similar_pairs

_NEIGHBOURS = 8  # candidates per image
# minimum ratio of the agreement between two groups to that within them; different photographs
# reach .76
_SAME = 0.85
_SURE = 0.99  # joins that are less sure wait, as another pair may join the same images surely
_TOLD = 1024  # pairs between two reports of progress


class Copies(NamedTuple):
    """Groups of n images.

    Attributes:
        photo: (n,) index of each image's photograph.
        scene: (n,) index of each image's scene; photographs of one cell share a scene.
        field: (n,) index of each image's field; pictures that overlap share a field, although
            they may be centred on different cells.
        photo_certainty: (n,) how sure it is that all images of its photograph belong to it: the
            certainty of the least sure join, 0 to 1.
        scene_certainty: (n,) the same for its scene.
        field_certainty: (n,) the same for its field.
    """

    photo: Ints
    scene: Ints
    field: Ints
    photo_certainty: NDArray[np.float64]
    scene_certainty: NDArray[np.float64]
    field_certainty: NDArray[np.float64]


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
    rows = describe_appearance(images)
    groups = Groups(images, rows)
    first: dict[bytes, int] = {}
    for place in range(len(images)):
        groups.join(first.setdefault(images[place].digest, place), place)
    fields = _join_images(images, groups, similar_pairs(rows, _NEIGHBOURS), track)
    scenes = []
    pairs = groups.near()
    for done, (one, other) in enumerate(pairs.tolist()):
        track((1 + done / len(pairs)) / 2)
        if groups.joined(one, other):
            continue
        alike, found = groups.compare(one, other)
        if found.moved:
            fields.append((one, other, found.certainty))
        elif alike >= _SAME:
            groups.join(one, other, found.certainty)
        elif alike:
            scenes.append((one, other, found.certainty))
    numbers, certainties = [groups.numbers()], [groups.certainties()]
    for wider in (scenes, fields):
        for one, other, certainty in sorted(wider, key=lambda pair: -pair[2]):
            groups.join(one, other, certainty)
        numbers.append(groups.numbers())
        certainties.append(groups.certainties())
    track(1)
    return Copies(*numbers, *certainties)


def _join_images(
    images: Sequence[ImageFeatures], groups: Groups, pairs: Ints, track: Callable[[float], None]
) -> list[tuple[int, int, float]]:
    """Joins images that agree: first the sure pairs, then the others, surest first.

    Returns:
        Pairs of pictures that only overlap, and the certainty of that.
    """
    waiting, fields = [], []
    for done, (one, other) in enumerate(pairs):
        if done % _TOLD == 0:
            track(done / len(pairs) / 2)
        if groups.joined(one, other):
            continue
        found = agreement(images[one], images[other])
        if found.moved:
            fields.append((int(one), int(other), found.certainty))
        elif found.certainty >= _SURE:
            _join_alike(groups, one, other, found.certainty)
        elif found.certainty:
            waiting.append((-found.certainty, int(one), int(other)))
    for less, one, other in sorted(waiting):
        if not groups.joined(one, other):
            _join_alike(groups, one, other, -less)
    return fields


def _join_alike(groups: Groups, one: int, other: int, certainty: float) -> None:
    """Joins two groups, unless they are large enough to tell that they are two photographs."""
    few = min(groups.size(one), groups.size(other)) < PROBES
    if few or groups.compare(one, other)[0] >= _SAME:
        groups.join(one, other, certainty)
