"""The search for similar rows: exact for few rows, and by trees for many."""

import numpy as np
import pytest

from bloodcell.audit import neighbours
from bloodcell.audit.neighbours import Rows, similar_pairs


def draw_rows(count: int, near: int = 4) -> Rows:
    """Groups of `near` rows that differ little, in an order that mixes them."""
    draw = np.random.default_rng(0)
    centres = draw.normal(0, 30, (count // near, 64))
    rows = np.repeat(centres, near, axis=0) + draw.normal(0, 6, (count, 64))
    return np.rint(rows).clip(-127, 127).astype(np.int8)


def test_few_rows_are_compared_with_all() -> None:
    rows = draw_rows(40)
    vectors = rows / np.linalg.norm(rows.astype(float), axis=1, keepdims=True)
    likeness = vectors @ vectors.T
    np.fill_diagonal(likeness, -2)
    nearest = np.argsort(-likeness, axis=1)[:, :3]
    expected = {tuple(sorted((one, int(other)))) for one in range(40) for other in nearest[one]}
    pairs = similar_pairs(rows, 3)
    assert {tuple(pair) for pair in pairs.tolist()} == expected
    assert len(pairs) == len(expected), "no pair is repeated"
    assert (pairs[:, 0] < pairs[:, 1]).all()
    values = likeness[pairs[:, 0], pairs[:, 1]]
    assert (np.diff(values) < 1e-6).all(), "the most similar come first"


def test_trees_find_what_is_found_by_comparing_all(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = draw_rows(2000)
    exact = {tuple(pair) for pair in similar_pairs(rows, 3).tolist()}
    monkeypatch.setattr(neighbours, "_EXACT", 100)
    monkeypatch.setattr(neighbours, "_LEAF", 64)
    found = similar_pairs(rows, 3)
    assert len({tuple(pair) for pair in found.tolist()} & exact) > 0.98 * len(exact)
    assert np.array_equal(found, similar_pairs(rows, 3)), "the same each time"


def test_blocks_do_not_change_the_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = draw_rows(100)
    whole = similar_pairs(rows, 3)
    monkeypatch.setattr(neighbours, "_VALUES", 700)
    assert np.array_equal(similar_pairs(rows, 3), whole)


@pytest.mark.parametrize("rows", [np.zeros((300, 8), np.int8), np.ones((300, 8), np.int8)])
def test_parts_are_bounded_whatever_the_rows(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are all alike cost no more than others: the cost is linear in their number."""
    monkeypatch.setattr(neighbours, "_EXACT", 10)
    monkeypatch.setattr(neighbours, "_LEAF", 32)
    sizes = [len(part) for part in neighbours._parts(rows)]
    assert max(sizes) <= 32
    assert sum(sizes) == neighbours._TREES * 300
    assert len(similar_pairs(rows, 3)) >= 300


@pytest.mark.parametrize("count", [0, 1, 2])
def test_hardly_any_rows(count: int) -> None:
    pairs = similar_pairs(np.ones((count, 8), np.int8), 8)
    assert pairs.tolist() == ([[0, 1]] if count == 2 else [])
