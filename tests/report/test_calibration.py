"""Temperatures: found where photographs agree on one, and nowhere else."""

import numpy as np
import pytest

from bloodcell.report.calibration import NEUTRAL, fit_temperature, soften
from bloodcell.report.metrics import Sample


def drawn(photos: int, files: int, seed: int) -> Sample:
    """Probabilities that are as high as they are often right."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (photos, 4)).repeat(files, 0)
    powers = np.exp(logits)
    probability = powers / powers.sum(1, keepdims=True)
    true = np.array([rng.choice(4, p=p) for p in probability[::files]]).repeat(files)
    return Sample(true, probability, np.arange(photos).repeat(files))


@pytest.mark.parametrize("sharper", [0.3, 3.0])
def test_a_model_that_is_too_sure_or_not_sure_enough(sharper: float) -> None:
    honest = drawn(400, 3, 0)
    changed = honest._replace(probability=soften(honest.probability, 1 / sharper))
    assert fit_temperature(changed) == pytest.approx(sharper, rel=0.2)


def test_few_photographs_with_many_copies_give_no_temperature() -> None:
    found = [fit_temperature(drawn(12, 50, seed)) for seed in range(40)]
    # what is as sure as it should be is left alone but for 1 draw in 20, or some more so few
    assert sum(temperature != NEUTRAL for temperature in found) <= 8


def test_more_copies_are_no_more_evidence() -> None:
    for seed in range(10):
        one = drawn(12, 1, seed)
        many = Sample(one.true.repeat(9), one.probability.repeat(9, 0), one.photo.repeat(9))
        assert fit_temperature(many) == pytest.approx(fit_temperature(one), rel=1e-3)
