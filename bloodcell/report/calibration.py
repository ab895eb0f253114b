"""One temperature for all logits, so that probabilities are as high as the model is often right."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from bloodcell.report.metrics import Floats, Sample, average_photos, compute, draw_photos, sample_of

_LEAST = 1e-30  # probability: a logarithm must stay finite
_RANGE = (0.05, 20.0)  # of temperatures
NEUTRAL = 1.0  # the temperature that changes nothing


def fit_temperature(of: Sample) -> float:
    """Finds the temperature with the lowest log loss, if the photographs agree on one.

    Guo et al., "On calibration of modern neural networks" (ICML 2017). The accuracy stays as it is.
    The copies of a photograph are right or wrong together: fitted on the thousand files of twenty
    photographs, a temperature often makes the answers of others worse (RESULTS.md). So there is one
    only if 95 % of the photographs drawn anew want it on the same side of 1.

    Args:
        of: probabilities of files, as the softmax of the logits gives them.

    Returns:
        .05 to 20: over 1 where the model is too sure of itself; 1 where that cannot be told.
    """
    if not _agree(of):
        return NEUTRAL
    true, probability = of.true, of.probability
    rows = np.arange(len(true))

    def log_loss(exponent: float) -> float:
        chosen = soften(probability, float(np.exp(exponent)))[rows, true]
        return float(-np.log(chosen.clip(_LEAST)).mean())

    low, high = np.log(_RANGE)
    found = minimize_scalar(log_loss, bounds=(low, high), method="bounded")
    return float(np.exp(found.x))


def _agree(of: Sample) -> bool:
    """Whether the photographs want a temperature over 1, or under it.

    The log loss is convex in the temperature's inverse. Its slope at 1 is the loss less the entropy
    of the probabilities: that is above 0 where they are higher than the model is often right.
    """
    logs = np.log(of.probability.clip(_LEAST))
    slope = (of.probability * logs).sum(1) - logs[np.arange(len(of.true)), of.true]
    drawn = draw_photos(average_photos(of).true, 0) @ np.bincount(of.photo, slope)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return bool(low > 0 or high < 0)


def soften(probability: NDArray[np.float32] | Floats, temperature: float) -> Floats:
    """The probabilities (n, classes) that logits divided by the temperature would have given."""
    logits = np.log(probability.astype(np.float64).clip(_LEAST)) / temperature
    powers = np.exp(logits - logits.max(1, keepdims=True))
    result: Floats = powers / powers.sum(1, keepdims=True)
    return result


def judge(true: NDArray[np.int64], probability: NDArray[np.float32] | Floats) -> dict[str, float]:
    """How good the probabilities are, by file: `log_loss` and `ece`."""
    sample = sample_of(true, probability.astype(np.float32), [str(n) for n in range(len(true))])
    found = compute(sample, np.ones((1, len(true))))
    return {name: float(found[name][0]) for name in ("log_loss", "ece")}
