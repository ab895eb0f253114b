"""Finds the most similar rows of a matrix; of many rows, in almost linear time.

Up to some number of rows, all rows are compared with each other. Above it, a forest is searched:
each tree splits the rows at the median of a random projection until no part has more than
`_LEAF` rows, and rows are compared within these parts. So the largest part does not depend on the
data: rows that are all alike cost as much as others. This module does not import torch.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Rows = NDArray[np.float16]
_EXACT = 16_384  # rows up to which all are compared with all, in some seconds
_TREES = 6
_LEAF = 1024  # most rows in a part
_VALUES = 2**24  # most comparisons in memory at a time


def similar_pairs(rows: Rows, most: int) -> Ints:
    """Returns pairs of similar rows without repetition, most similar first.

    Args:
        rows: (n, d) vectors; their similarity is the cosine of their angle.
        most: largest number of neighbours of a row; a row may be in more pairs.

    Returns:
        (m, 2) row numbers, the smaller one first.
    """
    n, most = len(rows), min(most, len(rows) - 1)
    if most < 1:
        return np.zeros((0, 2), np.int64)
    nearest = np.full((n, most), -1, np.int32)
    likeness = np.full((n, most), -2, np.float32)
    for part in _parts(rows):
        _search(rows, part, nearest, likeness)
    found = nearest >= 0
    near = nearest.astype(np.int64)
    own = np.arange(n)[:, None]
    pair = (np.minimum(own, near) * n + np.maximum(own, near))[found]
    pair, place = np.unique(pair, return_index=True)
    closest = np.lexsort((pair, -likeness[found][place]))
    return np.stack(np.divmod(pair[closest], n), axis=1)


def _parts(rows: Rows) -> Iterator[Ints]:
    """Yields rows that are compared with each other: all, or the leaves of each tree."""
    everything = np.arange(len(rows))
    if len(rows) <= _EXACT:
        yield everything
        return
    draw = np.random.default_rng(0)
    for _ in range(_TREES):
        parts = [everything]
        while parts:
            part = parts.pop()
            if len(part) <= _LEAF:
                yield np.sort(part)
                continue
            one, other = rows[draw.choice(part, 2, replace=False)].astype(np.float32)
            across = _project(rows, part, one - other)
            order = part[np.argsort(across, kind="stable")]
            parts += [order[: len(order) // 2], order[len(order) // 2 :]]


def _project(rows: Rows, part: Ints, direction: Floats) -> Floats:
    step = max(1, _VALUES // rows.shape[1])
    return np.concatenate(
        [
            rows[part[start : start + step]].astype(np.float32) @ direction
            for start in range(0, len(part), step)
        ]
    )


def _search(rows: Rows, part: Ints, nearest: NDArray[np.int32], likeness: Floats) -> None:
    """Compares the rows of a part with each other and keeps the best neighbours of each."""
    vectors = rows[part].astype(np.float32)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    most = min(nearest.shape[1], len(part) - 1)
    step = max(1, _VALUES // len(part))
    for start in range(0, len(part), step):
        own = np.arange(start, min(start + step, len(part)))
        values = vectors[own] @ vectors.T
        values[own - start, own] = -2
        near = np.argpartition(-values, most - 1, axis=1)[:, :most]
        mine = part[own]
        _keep(nearest, likeness, mine, part[near], np.take_along_axis(values, near, 1))


def _keep(
    nearest: NDArray[np.int32], likeness: Floats, own: Ints, near: Ints, values: Floats
) -> None:
    """Merges further neighbours (k, m) of the rows `own` (k,) into the best ones."""
    known = nearest[own]
    values = np.where((near[:, :, None] == known[:, None]).any(2), -2, values)  # known already
    every = np.concatenate([known, near.astype(np.int32)], axis=1)
    values = np.concatenate([likeness[own], values], axis=1)
    best = np.argsort(-values, axis=1, kind="stable")[:, : nearest.shape[1]]
    likeness[own] = np.take_along_axis(values, best, 1)
    every = np.take_along_axis(every, best, 1)
    nearest[own] = np.where(likeness[own] > -2, every, -1)
