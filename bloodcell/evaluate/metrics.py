"""Metrics of predictions, with intervals that account for files of the same photograph.

The interval of a metric comes from a bootstrap over photographs, drawn with replacement within each
class, as files of one photograph are not independent. Many draws are computed at once: counts are
summed over each photograph, and a draw is a weight for each photograph.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array

Floats = NDArray[np.float64]
DRAWS = 2_000
CLASSWISE = ("precision", "recall", "f1", "class_auc")
CALIBRATION_BINS = 15  # of the expected calibration error, as Guo et al. (ICML 2017)
_LEAST = 1e-7  # smallest probability: the log loss stays finite; predictions.csv has six digits
_DRAWN = 2**23  # weights per block; up to 4,194 photographs need one block
_AT_ONCE = 2**21  # weights, sorted by score, in memory at a time


class Estimate(NamedTuple):
    """A metric and its interval.

    Attributes:
        value: the metric of the predictions themselves.
        low: lower end of the 95 % interval.
        high: upper end.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.3f}, {self.high:.3f}]"


class Sample(NamedTuple):
    """Predictions to be scored, by file or by photograph.

    Attributes:
        true: (n,) labels.
        probability: (n, classes).
        photo: (n,) index of the photograph of each, 0 to photographs - 1.
    """

    true: NDArray[np.int64]
    probability: Floats
    photo: NDArray[np.int64]


def sample_of(
    true: NDArray[np.int64], probability: NDArray[np.float32], photo: Sequence[str]
) -> Sample:
    """Returns the predictions by file; `photo` names the photograph of each."""
    number = np.unique(photo, return_inverse=True)[1]
    return Sample(true, _normalised(probability), number)


def average_photos(sample: Sample) -> Sample:
    """Averages the probabilities over the files of each photograph."""
    true = _photo_labels(sample)
    total = np.zeros((len(true), sample.probability.shape[1]))
    np.add.at(total, sample.photo, sample.probability)
    return Sample(true, _normalised(total), np.arange(len(true)))


def draw_blocks(classes: NDArray[np.int64], seed: int, draws: int = DRAWS) -> Iterator[Floats]:
    """Yields what `draw_photos` returns in blocks of draws, to limit the memory.

    Args:
        classes: (photos,) the class of each photograph.
        seed: seed of the draws; each block after the first derives its own from it.
        draws: number of draws.
    """
    step = max(1, _DRAWN // len(classes))
    for start in range(0, draws, step):
        yield draw_photos(classes, [seed, start] if start else seed, min(step, draws - start))


def draw_photos(classes: NDArray[np.int64], seed: int | list[int], draws: int = DRAWS) -> Floats:
    """Draws photographs with replacement, within each class.

    Of n photographs, n - 1 are drawn and weighted by n / (n - 1); otherwise the intervals of small
    classes are too narrow (Rao, Wu and Yue, "Some recent work on resampling methods for complex
    surveys", Survey Methodology 18, 1992). A class of one photograph always has weight 1.

    Args:
        classes: (photos,) the class of each photograph.
        seed: seed of the draws.
        draws: number of draws.

    Returns:
        (draws, photos), weights that sum to the number of photographs in each class.
    """
    generator = np.random.default_rng(seed)
    weights = np.zeros((draws, len(classes)))
    for label in np.unique(classes):
        members = np.flatnonzero(classes == label)
        n = len(members)
        if n == 1:
            weights[:, members] = 1
            continue
        counts = generator.multinomial(n - 1, np.full(n, 1 / n), size=draws)
        weights[:, members] = counts * (n / (n - 1))
    return weights


def compute(sample: Sample, weights: Floats) -> dict[str, Floats]:
    """Computes all metrics under each weighting of the photographs.

    Args:
        sample: the predictions.
        weights: (draws, photos).

    Returns:
        By name, (draws,) or, for metrics of single classes (`CLASSWISE`), (draws, classes).
    """
    n_photos, n_classes = weights.shape[1], sample.probability.shape[1]
    predicted = sample.probability.argmax(1)
    confusion = _confusion(sample, weights)
    present = np.bincount(sample.true, minlength=n_classes) > 0  # means are over these classes
    right = np.diagonal(confusion, axis1=1, axis2=2)
    true, named = confusion.sum(2), confusion.sum(1)
    total = true.sum(1)
    recall = _ratio(right, true)
    precision = _ratio(right, named)
    f1 = _ratio(2 * right, true + named)
    auc = _auc(sample, weights)
    chosen = sample.probability[np.arange(len(sample.true)), sample.true]
    brier = (sample.probability**2).sum(1) - 2 * chosen + 1

    def mean(values: Floats) -> Floats:
        sums = np.bincount(sample.photo, values, n_photos)
        result: Floats = weights @ sums / total
        return result

    return {
        "accuracy": right.sum(1) / total,
        "balanced_accuracy": recall[:, present].mean(1),
        "macro_f1": f1[:, present].mean(1),
        "auc": auc[:, present].mean(1),
        "log_loss": mean(-np.log(chosen.clip(_LEAST))),
        "brier": mean(brier),
        "ece": _calibration_error(sample, weights, predicted) / total,
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "class_auc": auc,
    }


def estimate(sample: Sample, seed: int = 0, draws: int = DRAWS) -> dict[str, list[Estimate]]:
    """Computes each metric with its 95 % interval.

    The interval is from the 2.5th to the 97.5th percentile of the bootstrap distribution.

    Args:
        sample: the predictions.
        seed: seed of the draws.
        draws: number of draws.

    Returns:
        By name, a list with one estimate, or with one for each class.
    """
    classes = _photo_labels(sample)
    value = compute(sample, np.ones((1, len(classes))))
    drawn = [compute(sample, weights) for weights in draw_blocks(classes, seed, draws)]
    found = {}
    for name, of in value.items():
        every = np.concatenate([block[name] for block in drawn]).reshape(draws, -1)
        low, high = np.percentile(every, [2.5, 97.5], axis=0)
        found[name] = [Estimate(*map(float, e)) for e in zip(of.ravel(), low, high, strict=True)]
    return found


def estimate_mean(samples: Sequence[Sample], seed: int = 0) -> Estimate:
    """Computes the mean balanced accuracy of several models, with its 95 % interval.

    Args:
        samples: predictions of each model for the same photographs.
        seed: seed of the bootstrap over photographs.
    """
    first = samples[0]
    pooled = Sample(*(np.concatenate(parts) for parts in zip(*samples, strict=True)))
    present = np.unique(first.true)

    def balanced(weights: Floats) -> Floats:
        counts = _confusion(pooled, weights)
        right = np.diagonal(counts, axis1=1, axis2=2)
        mean: Floats = _ratio(right, counts.sum(2))[:, present].mean(1)
        return mean

    classes = _photo_labels(first)
    drawn = np.concatenate([balanced(weights) for weights in draw_blocks(classes, seed)])
    value = balanced(np.ones((1, len(classes))))[0]
    return Estimate(float(value), *map(float, np.percentile(drawn, [2.5, 97.5])))


def independent_interval(right: int, n: int) -> tuple[float, float]:
    """Returns the 95 % interval of `right / n` if the n images were independent; copies are not.

    Wilson's interval (Journal of the American Statistical Association 22, 1927).
    """
    z = 1.959963984540054
    middle = (right + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * np.sqrt(right * (n - right) / n + z * z / 4)
    low, high = float(middle - half), float(middle + half)
    return max(0.0, low), min(1.0, high)  # rounding


def effective_number(photo: Sequence[str]) -> float:
    """Returns how many independent images would tell as much as these, if copies were identical.

    Kish's effective sample size (Survey Sampling, 1965), each photograph weighted by its files.
    """
    counts = np.unique(photo, return_counts=True)[1]
    return float(counts.sum() ** 2 / (counts**2).sum())


def _confusion(sample: Sample, weights: Floats) -> Floats:
    """Returns the weighted numbers of files by true and predicted class, (draws, classes, classes).

    Args:
        sample: the predictions.
        weights: (draws, photos).
    """
    n_classes = sample.probability.shape[1]
    places = (sample.photo, sample.true * n_classes + sample.probability.argmax(1))
    shape = (weights.shape[1], n_classes * n_classes)
    pairs = coo_array((np.ones(len(sample.true)), places), shape).tocsr()
    counts: Floats = (weights @ pairs).reshape(-1, n_classes, n_classes)
    return counts


def _photo_labels(sample: Sample) -> NDArray[np.int64]:
    """Returns the label of each photograph, (photographs,)."""
    labels = np.zeros(int(sample.photo.max()) + 1, np.int64)
    labels[sample.photo] = sample.true
    return labels


def _normalised(probability: NDArray[np.float32] | Floats) -> Floats:
    """Scales rows to sum to 1; values rounded to six digits do not."""
    values = probability.astype(np.float64)
    result: Floats = values / values.sum(1, keepdims=True)
    return result


def _ratio(part: Floats, whole: Floats) -> Floats:
    """Divides; 0 where `whole` is 0, as in scikit-learn."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _auc(sample: Sample, weights: Floats) -> Floats:
    """Returns the area under the ROC curve of each class against the rest, (draws, classes)."""
    n_draws, n_classes = len(weights), sample.probability.shape[1]
    areas = np.full((n_draws, n_classes), np.nan)
    step = max(1, _AT_ONCE // len(sample.true))
    for label in range(n_classes):
        order = np.argsort(sample.probability[:, label], kind="stable")
        score = sample.probability[order, label]
        first = np.flatnonzero(np.r_[True, score[1:] > score[:-1]])  # the first of equal scores
        positive = sample.true[order] == label
        for start in range(0, n_draws, step):
            drawn = weights[start : start + step, sample.photo[order]]
            up = np.add.reduceat(drawn * positive, first, axis=1)
            down = np.add.reduceat(drawn * ~positive, first, axis=1)
            below = down.cumsum(1) - down / 2  # ties count half
            both = up.sum(1) * down.sum(1)
            won = (up * below).sum(1)
            areas[start : start + step, label] = np.divide(
                won, both, out=np.full_like(won, np.nan), where=both > 0
            )
    return areas


def _calibration_error(sample: Sample, weights: Floats, predicted: NDArray[np.int64]) -> Floats:
    """Returns the sum over the bins of |confidence - right|: the ECE times the number of images."""
    confidence = sample.probability[np.arange(len(predicted)), predicted]
    place = np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    gaps = np.zeros((weights.shape[1], CALIBRATION_BINS))
    np.add.at(gaps, (sample.photo, place), confidence - (predicted == sample.true))
    result: Floats = np.abs(weights @ gaps).sum(1)
    return result
