"""Ranks the labels of photographs by the answers of models that were not trained on them."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bloodcell.evaluate.metrics import Floats


class Votes(NamedTuple):
    """The answers of one model for some of n photographs.

    Attributes:
        photo: (m,) indices of the photographs, 0 to n - 1.
        probability: (m, classes), each row sums to 1.
        classes: (classes,) index of the class of each column among all classes.
    """

    photo: NDArray[np.int64]
    probability: Floats
    classes: NDArray[np.int64]


class Means(NamedTuple):
    """The answers of several models for n photographs.

    Attributes:
        probability: (n, classes) mean probability over the models; 0 where no model answered.
        models: (n,) number of models that answered.
        against: (n,) number of those whose most probable class is not the label.
    """

    probability: Floats
    models: NDArray[np.int64]
    against: NDArray[np.int64]


class Doubt(NamedTuple):
    """The label of a photograph, as models see it.

    Attributes:
        photo: name of the photograph.
        file: path of its first image.
        label: the class that its label names.
        suggested: most probable class.
        doubt: 1 - `p_label`, 0 to 1.
        likely: whether the label is likely to be wrong, by `likely_wrong`.
        p_label: mean probability of the label over the models.
        p_suggested: mean probability of the suggested class.
        models: number of models that answered.
        against: number of those whose most probable class is not the label.
        cell: name of the cell.
    """

    photo: str
    file: str
    label: str
    suggested: str
    doubt: float
    likely: bool
    p_label: float
    p_suggested: float
    models: int
    against: int
    cell: str


def average(votes: Iterable[Votes], label: NDArray[np.int64], n_classes: int) -> Means:
    """Averages the answers of models, each with the same weight.

    A model judges only the labels that are among its classes.

    Args:
        votes: the answers.
        label: (n,) label of each photograph.
        n_classes: number of all classes.
    """
    total = np.zeros((len(label), n_classes))
    models, against = np.zeros_like(label), np.zeros_like(label)
    for photo, probability, classes in votes:
        known = np.isin(label[photo], classes)
        photo, probability = photo[known], probability[known]
        total[np.ix_(photo, classes)] += probability
        models[photo] += 1
        against[photo] += classes[probability.argmax(1)] != label[photo]
    return Means(total / np.maximum(models, 1)[:, None], models, against)


def likely_wrong(label: NDArray[np.int64], probability: Floats) -> NDArray[np.bool_]:
    """Finds, by confident learning, the labels that are likely to be wrong.

    A photograph counts as a member of a class if its probability of that class is at least the
    mean of this probability over the photographs with that label. If the most probable of its
    classes is not its label, the label is likely to be wrong (Northcutt, Jiang and Chuang,
    "Confident learning", Journal of Artificial Intelligence Research 70, 2021), unless the label is
    the most probable of all classes.

    Args:
        label: (n,).
        probability: (n, classes), of models that were not trained on these photographs.

    Returns:
        (n,)
    """
    n_classes = probability.shape[1]
    own = probability[np.arange(len(label)), label]
    count = np.bincount(label, minlength=n_classes)
    mean = np.bincount(label, own, n_classes) / np.maximum(count, 1)
    # a class that no label names gets the mean of all
    threshold = np.where(count > 0, mean, own.mean())
    sure = np.where(probability >= threshold, probability, 0)
    other = (sure.argmax(1) != label) & (probability.argmax(1) != label)
    likely: NDArray[np.bool_] = (sure.max(1) > 0) & other
    return likely


def rank(
    names: Sequence[str],
    files: Sequence[str],
    cells: Sequence[str],
    label: NDArray[np.int64],
    class_names: Sequence[str],
    means: Means,
) -> list[Doubt]:
    """Sorts the photographs that a model judged, the most doubted label first.

    Of several scores from the literature, the probability of the label found most planted errors
    (EXPERIMENTS.md).

    Args:
        names: n names of the photographs.
        files: n paths of their first images.
        cells: n names of their cells.
        label: (n,) labels.
        class_names: all classes.
        means: the answers of the models.
    """
    judged = np.flatnonzero(means.models)
    if not len(judged):
        return []
    probability, label = means.probability[judged], label[judged]
    likely = likely_wrong(label, probability)
    own = probability[np.arange(len(judged)), label]
    suggested = probability.argmax(1)
    return [
        Doubt(
            names[judged[n]],
            files[judged[n]],
            class_names[label[n]],
            class_names[suggested[n]],
            1 - float(own[n]),
            bool(likely[n]),
            float(own[n]),
            float(probability[n, suggested[n]]),
            int(means.models[judged[n]]),
            int(means.against[judged[n]]),
            cells[judged[n]],
        )
        for n in own.argsort(kind="stable")
    ]
