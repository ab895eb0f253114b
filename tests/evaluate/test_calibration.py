"""Temperatures: as far from 1 as the photographs, not their copies, can tell."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax

from bloodcell.evaluate.calibration import fit_temperature, judge
from bloodcell.evaluate.metrics import Floats


def drawn(photos: int, seed: int) -> tuple[NDArray[np.int64], Floats]:
    """Labels and logits whose probabilities are as high as they are often right."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (photos, 4))
    true = np.array([rng.choice(4, p=p) for p in softmax(logits, axis=1)])
    return true, logits


@pytest.mark.parametrize("sharper", [0.3, 1.0, 3.0])
def test_a_model_that_is_too_sure_or_not_sure_enough(sharper: float) -> None:
    true, logits = drawn(2000, 0)
    found = fit_temperature(true, logits * sharper, 2000)
    assert found == pytest.approx(sharper, rel=0.1)
    after = judge(true, logits * sharper, found)["log_loss"]
    assert after <= judge(true, logits * sharper)["log_loss"]


def test_few_photographs_move_it_little() -> None:
    spread = [
        np.std([np.log(fit_temperature(*drawn(photos, seed), photos)) for seed in range(30)])
        for photos in (5, 2000)
    ]
    assert max(spread) < 0.15
    few, many = (drawn(photos, 0) for photos in (5, 2000))
    sure = [fit_temperature(true, logits * 3, len(true)) for true, logits in (few, many)]
    assert abs(sure[0] - 1) < abs(sure[1] - 1)


def test_more_copies_are_no_more_evidence() -> None:
    for seed in range(10):
        true, logits = drawn(12, seed)
        copies = fit_temperature(true.repeat(9), logits.repeat(9, 0), 12)
        assert copies == pytest.approx(fit_temperature(true, logits, 12), rel=1e-3)


def test_logits_too_far_apart_for_probabilities_still_tell_the_temperature() -> None:
    """The probability of such a truth is 0 in float32, and its logarithm would be lost."""
    true, logits = np.zeros(500, np.int64), np.tile([[0.0, 300.0]], (500, 1))
    assert fit_temperature(true, logits, 500) > 10
