"""Pools the seeds of each experiment, and tests which experiments differ. Needs no torch."""

import json
from collections.abc import Iterator
from itertools import count, groupby, product
from string import ascii_lowercase
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bloodcell.datasets.kaggle import KAGGLE
from bloodcell.evaluate.metrics import (
    DRAWS,
    Estimate,
    Floats,
    average_photos,
    draw_blocks,
    sample_of,
)
from bloodcell.evaluate.runs import Run
from bloodcell.evaluate.scores import Predictions

# settings that do not change what a run learns; of the data, the fingerprint tells
_WITHOUT_EFFECT = {
    "data": ("seed", "root", "cache_gib", "on_device"),
    "trainer": (
        *("default_root_dir", "logger", "log_every_n_steps", "profiler"),
        *("enable_progress_bar", "enable_model_summary"),
    ),
}
_LEVEL = 0.05  # significance level of all comparisons with the best together


class Experiment(NamedTuple):
    """Runs that differ only in their seed, pooled.

    Attributes:
        name: name of the runs.
        split: how the images were divided.
        datasets: names of the data sets.
        hidden: widths of the dense layers.
        lr: learning rate.
        seeds: number of different seeds.
        seen: share of the test photographs that were also trained on, 0 to 1.
        accuracy: of test files, mean over the seeds, 0 to 1, with its interval.
        by_photo: accuracy of test photographs, mean over the seeds, with its interval.
        balanced: balanced accuracy of test photographs, mean over the seeds, with its interval.
        parameters: number of parameters.
        seconds: learning time, mean over the seeds.
        group: a letter for the best of those tested on the same photographs, and for those that
            are not significantly worse, empty for the others; other photographs, another letter.
    """

    name: str
    split: str
    datasets: list[str]
    hidden: list[int]
    lr: float
    seeds: int
    seen: float
    accuracy: Estimate
    by_photo: Estimate
    balanced: Estimate
    parameters: int
    seconds: float
    group: str


def pool(runs: list[Run], seed: int = 0) -> list[Experiment]:
    """Pools the seeds of each experiment and compares those tested on the same photographs.

    Each is compared with the best of them, photograph by photograph. The difference of the two is
    bootstrapped over the photographs, drawn within each class; p-values are corrected by Holm's
    method (Scandinavian Journal of Statistics 6, 1979).

    Args:
        runs: at least one.
        seed: seed of the bootstrap.

    Returns:
        The experiments, the best balanced accuracy by photograph first. Those that were tested on
        the same photographs follow one another.
    """
    pooled = []
    keyed = sorted(((_key(run), run) for run in runs), key=lambda pair: pair[0])
    for _, members in groupby(keyed, key=lambda pair: pair[0]):
        same = [run for _, run in members]
        pooled.append((same, _photos(same)))
    pooled.sort(key=lambda one: -one[1].balanced(np.ones((1, len(one[1].label))))[0])
    compared: dict[tuple[str, ...], list[tuple[list[Run], _Photos]]] = {}
    for same, photos in pooled:
        compared.setdefault(photos.name, []).append((same, photos))
    return [
        _experiment(same, photos, letter if near else "", seed)
        for letter, experiments in zip(_letters(), compared.values(), strict=False)
        for (same, photos), near in zip(
            experiments, _near_best([photos for _, photos in experiments], seed), strict=True
        )
    ]


def _letters() -> Iterator[str]:
    """Yields a, b ... z, aa, ab ..."""
    for length in count(1):
        yield from map("".join, product(ascii_lowercase, repeat=length))


class _Photos(NamedTuple):
    """Test photographs, and the results of each run of an experiment on them.

    With split `seed`, the tested files depend on the seed. If the folders are not divided into
    parts, so do the tested photographs.
    """

    name: tuple[str, ...]
    label: NDArray[np.int64]
    tested: Floats  # (runs, photographs), 1 or 0
    right: Floats  # (runs, photographs), 1 where the model is right, else 0
    files: Floats  # (runs, photographs), number of files
    files_right: Floats

    def accuracy(self, weights: Floats) -> Floats:
        """Accuracy by file under each weighting of the photographs, mean of the runs, (draws,)."""
        return _mean_share(weights, self.files_right, self.files)

    def by_photo(self, weights: Floats) -> Floats:
        """Accuracy by photograph under each weighting, mean of the runs, (draws,)."""
        return _mean_share(weights, self.right, self.tested)

    def balanced(self, weights: Floats) -> Floats:
        """Balanced accuracy by photograph under each weighting, mean of the runs, (draws,)."""
        recalls = []
        for label in np.unique(self.label):
            of = self.label == label
            recalls.append(_mean_share(weights[:, of], self.right[:, of], self.tested[:, of]))
        mean: Floats = np.nanmean(recalls, axis=0)
        return mean

    def estimates(self, seed: int) -> dict[str, Estimate]:
        """The metrics by their names, with their intervals."""
        metrics = (_Photos.accuracy, _Photos.by_photo, _Photos.balanced)
        drawn = [[of(self, weights) for of in metrics] for weights in draw_blocks(self.label, seed)]
        found = {}
        for metric, blocks in zip(metrics, zip(*drawn, strict=True), strict=True):
            value = metric(self, np.ones((1, len(self.label))))[0]
            low, high = np.nanpercentile(np.concatenate(blocks), [2.5, 97.5])
            found[metric.__name__] = Estimate(float(value), float(low), float(high))
        return found


def _mean_share(weights: Floats, part: Floats, whole: Floats) -> Floats:
    """The weighted share of each run, then their mean, (draws,); NaN where no run has any."""
    parts, wholes = weights @ part.T, weights @ whole.T  # (draws, runs)
    some = wholes > 0
    shares = np.divide(parts, wholes, out=np.zeros_like(parts), where=some)
    counts = some.sum(1)
    mean: Floats = np.divide(
        shares.sum(1), counts, out=np.full(len(weights), np.nan), where=counts > 0
    )
    return mean


def _photos(runs: list[Run]) -> _Photos:
    """Returns all photographs that any of the runs was tested on."""
    results = [_right_by_photo(run.predictions) for run in runs]
    names = sorted(set().union(*results))
    facts = np.array([[of.get(name, (0, 0, 0, 0, 0)) for name in names] for of in results], float)
    label, tested, right, files, files_right = np.moveaxis(facts, 2, 0)
    return _Photos(tuple(names), label.max(0).astype(np.int64), tested, right, files, files_right)


def _right_by_photo(predictions: Predictions) -> dict[str, list[int]]:
    """Returns for each photograph: label, 1, whether the model is right, files, right files."""
    files = sample_of(predictions.true, predictions.probability, predictions.photo)
    photos = average_photos(files)
    right = photos.probability.argmax(1) == photos.true
    counts = np.bincount(files.photo)
    counts_right = np.bincount(files.photo, files.probability.argmax(1) == files.true)
    names = np.unique(predictions.photo)  # in the order of the sample
    facts = np.stack([photos.true, np.ones_like(counts), right, counts, counts_right], 1)
    return dict(zip(names.tolist(), facts.tolist(), strict=True))


def _near_best(photos: list[_Photos], seed: int) -> list[bool]:
    """Tells which do not differ significantly from the first, the best; all have the same names."""
    best, *others = photos
    worse = np.zeros((len(others), DRAWS), bool)  # than the best
    start = 0
    for weights in draw_blocks(best.label, seed) if others else ():
        ours, block = best.balanced(weights), slice(start, start := start + len(weights))
        for row, other in zip(worse, others, strict=True):
            row[block] = ours - other.balanced(weights) > 0
    # counting one draw more keeps a p-value above 0 (Phipson and Smyth, 2010)
    p_values = [min(1.0, 2 * (float(np.sum(~row)) + 1) / (DRAWS + 1)) for row in worse]
    near, rejected = [True] * len(photos), True
    for rank, place in enumerate(sorted(range(len(others)), key=p_values.__getitem__)):
        rejected = rejected and p_values[place] <= _LEVEL / (len(others) - rank)
        near[1 + place] = not rejected
    return near


def _experiment(runs: list[Run], photos: _Photos, group: str, seed: int) -> Experiment:
    model = runs[0].settings["model"]
    return Experiment(
        name=runs[0].scores["name"],
        split=runs[0].scores["split"],
        datasets=runs[0].scores.get("datasets", [KAGGLE]),  # the first runs do not name it
        hidden=list(model["hidden"]),
        lr=float(model["lr"]),
        seeds=len({run.settings["seed_everything"] for run in runs}),
        seen=float(np.mean([_seen(run) for run in runs])),
        **photos.estimates(seed),
        parameters=int(runs[0].scores["parameters"]),
        seconds=float(np.mean([run.scores["learning_time_seconds"] for run in runs])),
        group=group,
    )


def _seen(run: Run) -> float:
    return float(run.scores["test_photos_also_in_training"] / run.scores["photos"]["test"])


def _key(run: Run) -> str:
    """Returns a key that is equal for runs of one experiment."""
    groups = {
        group: {k: v for k, v in (run.settings.get(group) or {}).items() if k not in without}
        for group, without in _WITHOUT_EFFECT.items()
    }
    chosen_by = run.scores.get("monitor", "val/loss")  # the first runs do not name it
    facts = (run.scores["name"], run.scores["data_fingerprint"], chosen_by)
    parts = [*facts, run.settings["model"], groups]
    return json.dumps(parts, sort_keys=True, default=str)
