"""Groups the images of each photograph, using only their pixels.

Images of similar appearance are candidates. Groups grow along pairs of copies, so two copies in one
group need not resemble each other. But groups are only joined if the fine structure of at least
one image of each is the same. This module does not import torch.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bloodcell.audit.appearance import describe_appearance
from bloodcell.audit.features import ImageFeatures
from bloodcell.audit.groups import ALIKE, SURE, Groups, Join, Pair
from bloodcell.audit.neighbours import Ints, similar_pairs

_NEIGHBOURS = 8  # candidates per image
# minimum ratio of the agreement between two groups to that within them; different photographs
# that do not differ in their black corners reach .33, or .76 with less sure likeness
_SAME_IF_SURE, _SAME = 0.6, 0.85
_TOLD = 1024  # pairs between two reports of progress


class Copies(NamedTuple):
    """Groups of n images.

    Attributes:
        photo: (n,) index of each image's photograph.
        scene: (n,) index of each image's scene; photographs of one cell share a scene.
        field: (n,) index of each image's field; pictures that overlap share a field, although
            they may be centred on different cells.
        photo_likeness: (n,) likeness of the least alike join of the image's photograph, up to 1;
            1 if only equal pixels were joined, or nothing.
        scene_likeness: (n,) the same for its scene.
        field_likeness: (n,) the same for its field.
    """

    photo: Ints
    scene: Ints
    field: Ints
    photo_likeness: NDArray[np.float64]
    scene_likeness: NDArray[np.float64]
    field_likeness: NDArray[np.float64]


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
    for place, image in enumerate(images):
        groups.join(first.setdefault(image.digest, place), place)
    scenes: list[Join] = []
    fields: list[Join] = []
    waiting = _join_images(groups, similar_pairs(rows, _NEIGHBOURS).tolist(), fields, track)
    near = [*waiting, *groups.near()]
    for done, (one, other) in enumerate(near):
        track((1 + done / len(near)) / 2)
        if groups.joined(one, other):
            continue
        ratio, found = groups.compare(one, other)
        if found.likeness < ALIKE:
            continue
        if found.apart:
            fields.append((one, other, found.likeness))
        elif _are_same(ratio, found):
            groups.join(one, other, found.likeness)
        else:
            scenes.append((one, other, found.likeness))
    photo, of_photo = groups.numbers(), groups.likenesses()
    scene, of_scene = groups.join_all(scenes)
    field, of_field = groups.join_all(fields)
    track(1)
    return Copies(photo, scene, field, of_photo, of_scene, of_field)


def _join_images(
    groups: Groups, pairs: list[list[int]], fields: list[Join], track: Callable[[float], None]
) -> list[list[int]]:
    """Joins copies if that is sure, and lists pictures of one field.

    Returns:
        Less sure pairs, most alike first: other images of their groups may be more alike.
    """
    waiting: list[tuple[float, int, int]] = []
    for done, (one, other) in enumerate(pairs):
        if done % _TOLD == 0:
            track(done / len(pairs) / 2)
        if groups.joined(one, other):
            continue
        found = groups.pair(one, other)
        if found.likeness >= ALIKE and found.apart:
            fields.append((one, other, found.likeness))
        elif found.likeness < SURE or found.differ:
            if found.features:
                waiting.append((-found.likeness, one, other))
        elif groups.few(one, other) or _are_same(*groups.compare(one, other)):
            groups.join(one, other, found.likeness)
    return [[one, other] for _, one, other in sorted(waiting)]


def _are_same(ratio: float, found: Pair) -> bool:
    """Returns whether two groups are copies of one photograph, by `Groups.compare`."""
    least = _SAME_IF_SURE if found.likeness >= SURE else _SAME
    return ratio >= least and not found.differ
