"""Fits the distance that separates images without blood cells from the training images."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from bloodcell.evaluate.metrics import Floats

ACCEPTED = 0.995  # share of a data set's training images within the threshold
_INVERSE_PENALTY = 0.03  # scikit-learn's C; the weights of the images sum to their number
_LEAST_SPREAD = 0.1  # of a feature, relative to the mean spread: rare features get small weights


def fit_distance(
    known: Floats, datasets: Sequence[str], strange: Floats
) -> tuple[NDArray[np.float32], float]:
    """Fits a logistic regression between training images and pictures without cells.

    All data sets have the same weight. The training images together weigh as much as the pictures
    without cells.

    Args:
        known: (n, C) features of training images, rows of unit length.
        datasets: name of the data set of each.
        strange: (m, C) features of pictures without cells, rows of unit length.

    Returns:
        Weights (C,) and bias: the inner product of the weights and the features of an image, plus
        the bias, is the logarithm of the odds that it shows no cell.
    """
    names, number, count = np.unique(datasets, return_inverse=True, return_counts=True)
    share = 1 / (len(names) * count[number])
    weight = np.concatenate([share, np.full(len(strange), 1 / len(strange))])
    features = np.concatenate([known, strange]).astype(np.float64)
    middle, spread = features.mean(0), features.std(0)
    spread += max(_LEAST_SPREAD * spread.mean(), 1e-9)
    label = np.arange(len(features)) >= len(known)
    model = LogisticRegression(C=_INVERSE_PENALTY, max_iter=1_000)
    model.fit((features - middle) / spread, label, weight * (len(features) / weight.sum()))
    found = model.coef_[0] / spread
    return found.astype(np.float32), float(model.intercept_[0] - found @ middle)


def find_threshold(distance: Floats, datasets: Sequence[str]) -> float:
    """Returns the distance beyond which an image is unlike all training images.

    It is the mean, over the data sets, of the distance that accepts `ACCEPTED` of a data set's
    images. Cells of other laboratories lie farther away than the training images, so this is
    strict; with one data set, where it would be too strict, the threshold is 0, where both kinds
    of pictures are equally likely (EXPERIMENTS.md, "Recognising pictures that show no cell").

    Args:
        distance: (n,) of training images.
        datasets: name of the data set of each.
    """
    of = np.array(datasets)
    names = np.unique(of)
    if len(names) == 1:
        return 0.0
    return float(np.mean([np.quantile(distance[of == name], ACCEPTED) for name in names]))
