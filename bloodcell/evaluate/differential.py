"""Shares of the classes on a slide, with intervals that include the errors of the model."""

from collections.abc import Sequence

import numpy as np

from bloodcell.evaluate.metrics import Estimate, Floats

_DRAWS = 1_000
_ROUNDS, _CHANGE = 2_000, 1e-5  # most steps of a maximisation, and the change that ends it


def estimate_shares(counts: Sequence[int], confusion: Floats, seed: int = 0) -> list[Estimate]:
    """Estimates the share of each class from the predicted classes of a slide's cells.

    A model that confuses classes shifts their shares. If its errors are known, the result is the
    shares that make the predicted classes most probable. They are found by expectation
    maximisation (Saerens, Latinne and Decaestecker, Neural Computation 14, 2002, who
    use predicted probabilities instead of classes). For the intervals, the predicted shares and
    each row of the confusion matrix are drawn from their Dirichlet posteriors, so that few cells
    and few tested photographs both widen them. A class that was not tested is corrected as if it
    was always recognised, and its interval is as wide as after a single test.

    Args:
        counts: number of cells predicted as each class.
        confusion: (classes, classes), number of tested photographs by true class (rows) and
            predicted class; or means of several tests.
        seed: seed of the draws.

    Returns:
        The share of each class and its 95 % interval, 0 to 1.
    """
    n_classes = len(counts)
    prior = 1 / n_classes
    rng = np.random.default_rng(seed)
    predicted = rng.dirichlet(np.array(counts) + prior, _DRAWS)
    untested = confusion.sum(1) == 0
    confusion = confusion + np.diag(untested)
    rows = [rng.dirichlet(row + prior, _DRAWS) for row in confusion]
    drawn = _true_shares(predicted, np.stack(rows, 1))
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    smooth = confusion + prior * ~untested[:, None]
    smooth = smooth / smooth.sum(1, keepdims=True)
    share = _true_shares(np.array([counts]) / max(sum(counts), 1), smooth[None])[0]
    # the most likely share can lie outside of the interval of the draws
    low, high = np.minimum(low, share), np.maximum(high, share)
    return [Estimate(*map(float, each)) for each in zip(share, low, high, strict=True)]


def _true_shares(predicted: Floats, confusion: Floats) -> Floats:
    """Returns the most likely true shares (draws, classes).

    Args:
        predicted: (draws, classes), shares of the predicted classes.
        confusion: (draws, classes, classes), probability of each prediction (last) by true class.
    """
    shares = np.full_like(predicted, 1 / predicted.shape[1])
    for _ in range(_ROUNDS):
        joint = shares[:, :, None] * confusion
        given = joint / joint.sum(1, keepdims=True).clip(1e-12)  # P(true | predicted)
        before, shares = shares, (given * predicted[:, None, :]).sum(2)
        if np.abs(shares - before).max() < _CHANGE:
            break
    return shares
