"""Temperature scaling of the logits, so that the probabilities match the accuracy."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from bloodcell.evaluate.metrics import Floats, Sample, compute

_RANGE = (0.05, 20.0)  # of temperatures
# standard deviation of the prior of the log temperature, from the best temperatures of 13 runs
# (RESULTS.md)
_SPREAD = 0.2


def fit_temperature(
    true: NDArray[np.int64], logits: Floats, n_photos: int, weight: Floats | None = None
) -> float:
    """Fits the temperature to the log loss, with a log-normal prior around 1.

    Guo et al., "On calibration of modern neural networks" (ICML 2017). Accuracy does not change.
    The copies of a photograph are right or wrong together, so the mean log loss is weighted by
    the number of photographs, not of files. With few photographs, the temperature stays near 1.
    Without the prior, the temperature made the probabilities of 13 runs worse (RESULTS.md).

    Args:
        true: (n,) labels of files.
        logits: (n, classes).
        n_photos: number of photographs that the files were made from.
        weight: (n,) weight of each file in the log loss; None if all are alike.

    Returns:
        The temperature, .05 to 20; over 1 if the model is overconfident.
    """
    rows = np.arange(len(true))

    def negative_log_posterior(exponent: float) -> float:
        chosen = log_softmax(logits / np.exp(exponent), axis=1)[rows, true]
        loss = -np.average(chosen, weights=weight)
        return float(n_photos * loss + 0.5 * (exponent / _SPREAD) ** 2)

    low, high = np.log(_RANGE)
    found = minimize_scalar(negative_log_posterior, bounds=(low, high), method="bounded")
    return float(np.exp(found.x))


def judge(
    true: NDArray[np.int64],
    logits: Floats,
    temperature: float = 1.0,
    weight: Floats | None = None,
) -> dict[str, float]:
    """Returns `log_loss` and `ece`, by file, of the probabilities at a temperature.

    Args:
        true: (n,) labels of files.
        logits: (n, classes).
        temperature: divisor of the logits.
        weight: (n,) weight of each file; None if all are alike.
    """
    sample = Sample(true, softmax(logits / temperature, axis=1), np.arange(len(true)))
    found = compute(sample, np.ones((1, len(true))) if weight is None else weight[None])
    return {name: float(found[name][0]) for name in ("log_loss", "ece")}
