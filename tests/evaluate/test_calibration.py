"""Temperatures: as far from 1 as the photographs, not their copies, can tell."""

import numpy as np
import pytest

from bloodcell.evaluate.calibration import apply_temperature, fit_temperature
from bloodcell.evaluate.metrics import Sample


def drawn(photos: int, seed: int) -> Sample:
    """Probabilities that are as high as they are often right; a file a photograph."""
    rng = np.random.default_rng(seed)
    powers = np.exp(rng.normal(0, 2, (photos, 4)))
    probability = powers / powers.sum(1, keepdims=True)
    true = np.array([rng.choice(4, p=p) for p in probability])
    return Sample(true, probability, np.arange(photos))


@pytest.mark.parametrize("sharper", [0.3, 1.0, 3.0])
def test_a_model_that_is_too_sure_or_not_sure_enough(sharper: float) -> None:
    honest = drawn(2000, 0)
    changed = honest._replace(probability=apply_temperature(honest.probability, 1 / sharper))
    assert fit_temperature(changed) == pytest.approx(sharper, rel=0.1)


def test_few_photographs_move_it_little() -> None:
    spread = [
        np.std([np.log(fit_temperature(drawn(photos, seed))) for seed in range(30)])
        for photos in (5, 2000)
    ]
    assert max(spread) < 0.15
    few, many = (drawn(photos, 0) for photos in (5, 2000))
    sure = [
        one._replace(probability=apply_temperature(one.probability, 1 / 3)) for one in (few, many)
    ]
    assert abs(fit_temperature(sure[0]) - 1) < abs(fit_temperature(sure[1]) - 1)


def test_more_copies_are_no_more_evidence() -> None:
    for seed in range(10):
        one = drawn(12, seed)
        many = Sample(one.true.repeat(9), one.probability.repeat(9, 0), one.photo.repeat(9))
        assert fit_temperature(many) == pytest.approx(fit_temperature(one), rel=1e-3)
