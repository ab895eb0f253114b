"""Temperature scaling of the logits, so that the probabilities match the accuracy."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from bloodcell.evaluate.metrics import Floats, Sample, compute, sample_of

_LEAST = 1e-30  # smallest probability: a logarithm must stay finite
_RANGE = (0.05, 20.0)  # of temperatures
_SPREAD = 0.2  # spread of the logarithms of the best temperatures of 13 runs (RESULTS.md)


def fit_temperature(sample: Sample) -> float:
    """Fits the temperature to the log loss, with a log-normal prior around 1.

    Guo et al., "On calibration of modern neural networks" (ICML 2017). Accuracy does not change.
    The copies of a photograph are right or wrong together, so the mean log loss of the files counts
    once per photograph: few photographs hardly move the temperature away from 1. Without the prior,
    the temperature made the probabilities of 13 runs worse (RESULTS.md).

    Args:
        sample: probabilities of files, the softmax of the logits.

    Returns:
        The temperature, .05 to 20; over 1 if the model is overconfident.
    """
    true, probability = sample.true, sample.probability
    rows, n_photos = np.arange(len(true)), len(np.unique(sample.photo))

    def negative_log_posterior(exponent: float) -> float:
        chosen = apply_temperature(probability, float(np.exp(exponent)))[rows, true]
        log_loss = -np.log(chosen.clip(_LEAST)).mean()
        return float(n_photos * log_loss + 0.5 * (exponent / _SPREAD) ** 2)

    low, high = np.log(_RANGE)
    found = minimize_scalar(negative_log_posterior, bounds=(low, high), method="bounded")
    return float(np.exp(found.x))


def apply_temperature(probability: NDArray[np.float32] | Floats, temperature: float) -> Floats:
    """Returns the probabilities (n, classes) after dividing the logits by the temperature."""
    logits = np.log(probability.astype(np.float64).clip(_LEAST)) / temperature
    powers = np.exp(logits - logits.max(1, keepdims=True))
    result: Floats = powers / powers.sum(1, keepdims=True)
    return result


def judge(true: NDArray[np.int64], probability: NDArray[np.float32] | Floats) -> dict[str, float]:
    """Returns `log_loss` and `ece` of the probabilities, by file."""
    sample = sample_of(true, probability.astype(np.float32), [str(n) for n in range(len(true))])
    found = compute(sample, np.ones((1, len(true))))
    return {name: float(found[name][0]) for name in ("log_loss", "ece")}
