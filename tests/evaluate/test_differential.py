"""Differential counts of a model with known errors."""

import numpy as np
import pytest

from bloodcell.evaluate.differential import estimate_shares
from bloodcell.infer.cells import Counts, Uncounted, differential


def test_without_errors_the_shares_are_those_of_the_counts() -> None:
    found = estimate_shares([120, 60, 20], np.diag([1e6, 1e6, 1e6]))
    assert [one.value for one in found] == pytest.approx([0.6, 0.3, 0.1], abs=1e-3)
    assert found[0].low == pytest.approx(0.53, abs=0.02)
    assert found[0].high == pytest.approx(0.67, abs=0.02)


def test_fewer_tested_images_widen_the_intervals() -> None:
    errors = np.array([[9, 1], [2, 8]])
    few, many = (estimate_shares([100, 100], errors * n)[0] for n in (1.0, 100.0))
    assert few.high - few.low > 1.3 * (many.high - many.low)


def test_intervals_cover_and_corrected_shares_are_closer_on_slides_of_200_cells() -> None:
    rng = np.random.default_rng(0)
    raw, corrected, covered = [], [], []
    for seed in range(40):
        rows = np.stack([rng.dirichlet(40 * row) for row in np.eye(5) * 0.85 + 0.03])
        tested = np.stack([rng.multinomial(30, row) for row in rows]).astype(float)
        true = rng.dirichlet([6, 1, 1, 3, 1])
        counts = rng.multinomial(200, true @ rows)
        found = estimate_shares(counts.tolist(), tested, seed)
        raw.append(np.abs(counts / 200 - true).max())
        corrected.append(np.abs([one.value - t for one, t in zip(found, true, strict=True)]).max())
        covered += [one.low <= t <= one.high for one, t in zip(found, true, strict=True)]
    assert np.mean(corrected) < np.mean(raw)
    assert 0.9 < np.mean(covered) <= 1


def test_errors_on_unseen_laboratories_widen_the_intervals_but_move_no_share() -> None:
    own = {"confusion": {"counts": [[90, 10], [5, 95]], "of": "200 test photographs"}}
    unseen = {"datasets": {"berlin": {}, "paris": {}}, "confusion": [[50, 50], [5, 95]]}
    counts = Counts({"a": 40, "b": 60})
    alone = differential(counts, ["a", "b"], own)
    widened = differential(counts, ["a", "b"], own | {"unseen": unseen})
    shares = [line.split("[")[0] for line in alone.splitlines()[1:3]]
    assert [line.split("[")[0] for line in widened.splitlines()[1:3]] == shares
    ends = [
        [float(end.rstrip("%,")) for end in line.split("[")[1].rstrip("]").split()]
        for text in (alone, widened)
        for line in text.splitlines()[1:3]
    ]
    assert ends[2][0] <= ends[0][0]
    assert ends[2][1] > ends[0][1]
    assert "the errors on berlin, paris," in widened


def test_a_class_that_was_not_tested_keeps_its_share() -> None:
    """Nothing is known of the errors of e to h, so no share moves between them."""
    tested = np.diag([50.0] * 4 + [0.0] * 4)
    found = estimate_shares([30, 30, 15, 15, 10, 0, 0, 0], tested)
    assert [one.value for one in found[4:]] == pytest.approx([0.1, 0, 0, 0], abs=0.01)
    assert found[4].high - found[4].low > found[2].high - found[2].low
    counts = Counts({"a": 10, "b": 5})
    scores = {"confusion": {"counts": [[9, 0], [0, 0]], "of": "9 test photographs"}}
    said = differential(counts, ["a", "b"], scores)
    assert "Not among those photographs, so not corrected for their own errors: b." in said


def test_the_most_probable_share_is_reached_with_many_errors() -> None:
    found = estimate_shares([60, 40], np.array([[6e5, 4e5], [4e5, 6e5]]))
    assert found[1].value < 0.015


def test_the_sure_cells_alone_are_not_corrected() -> None:
    """They have fewer errors than all tested images, whose errors are known."""
    scores = {"confusion": {"counts": [[90, 10], [5, 95]], "of": "200 test photographs"}}
    counts = Counts({"a": 40, "b": 60, Uncounted.UNSURE: 20})
    said = differential(counts, ["a", "b"], scores)
    plain = differential(counts, ["a", "b"])
    assert said.splitlines()[:5] == plain.splitlines()[:5], "as without a table of errors"
    assert "with --abstain" not in plain
    assert "with --abstain, the counted cells have\nfewer than those" in said
    assert "orrected:" not in said
