"""What a recipe does on data sets that it was not trained on: scores, confusion, temperature."""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bloodcell.errors import InputError, listed, reason, require
from bloodcell.evaluate.calibration import fit_temperature, judge
from bloodcell.evaluate.metrics import Estimate, Sample, average_photos, estimate_mean, sample_of
from bloodcell.evaluate.scores import (
    CONFUSION,
    Predictions,
    count_confusion,
    only_own_classes,
)
from bloodcell.files import write_whole

FILE_NAME = "labs.json"
UNSEEN = "unseen"  # entry of `scores.json`
_OPTION = "--labs"
_KEPT = ("datasets", "temperature", "before", "after")
_LEAST = 1e-7  # probability


class HeldOut(NamedTuple):
    """A run that was tested on a data set that it was not trained on.

    Attributes:
        dataset: name of the data set.
        seed: the run's `seed_everything`.
        scores: content of the run's `scores.json`.
        predictions: for the images of the data set.
    """

    dataset: str
    seed: int
    scores: Mapping[str, Any]
    predictions: Predictions

    def class_names(self) -> set[str]:
        """Returns the classes that occur in the data set."""
        return {self.predictions.class_names[label] for label in set(self.predictions.true)}


def summarise(runs: Sequence[HeldOut]) -> dict[str, Any]:
    """Scores runs that differ only in their seed, over the classes that occur in the data set.

    Args:
        runs: one or more, of one data set.

    Returns:
        The number of `photographs`, of `classes` and of `seeds`; the balanced accuracy `by_file`,
        `by_photo` and, by photograph, if only the `own_classes` could be chosen, each the mean of
        the seeds with its interval; and the share of images called `unlike`.
    """
    own = [only_own_classes(run.predictions) for run in runs]
    files = [_files(run.predictions) for run in runs]
    return {
        "photographs": int(files[0].photo.max()) + 1,
        "classes": len(runs[0].class_names()),
        "seeds": len(runs),
        "by_file": estimate_mean(files)._asdict(),
        "by_photo": estimate_mean([average_photos(sample) for sample in files])._asdict(),
        "own_classes": estimate_mean([average_photos(_files(of)) for of in own])._asdict(),
        "unlike": float(np.mean([run.scores["gallery"]["unfamiliar"]["test"] for run in runs])),
    }


def score_classes(runs: Sequence[HeldOut], class_names: Collection[str]) -> Estimate | None:
    """Returns the balanced accuracy by photograph over some classes, or None if none occurs.

    Args:
        runs: one or more, of one data set.
        class_names: the classes; photographs of others are left out.
    """
    samples = []
    for of in (run.predictions for run in runs):
        kept = [i for i, label in enumerate(of.true) if of.class_names[label] in class_names]
        if not kept:
            return None
        photo = [of.photo[i] for i in kept]
        samples.append(average_photos(sample_of(of.true[kept], of.probability[kept], photo)))
    return estimate_mean(samples)


def _files(of: Predictions) -> Sample:
    return sample_of(of.true, of.probability, of.photo)


def write_unseen(
    path: Path, runs: Sequence[HeldOut], summaries: Mapping[str, dict[str, Any]]
) -> None:
    """Writes scores by data set, and the confusion and the temperature over all of them, as JSON.

    A run lacks the classes that only the data set left out has. The confusion counts photographs,
    on average over the seeds. For the temperature, all data sets have the same weight, and so have
    all photographs of one.

    Args:
        path: the file; it is replaced if it exists.
        runs: one or more for each data set, with different seeds.
        summaries: of each data set's runs, from `summarise`.
    """
    names = sorted(set[str]().union(*(run.predictions.class_names for run in runs)))
    seeds = Counter(run.dataset for run in runs)
    confusion = np.zeros((len(names), len(names)))
    labels, logits, weights = [], [], []
    for dataset, _, _, of in runs:
        place = np.array([names.index(name) for name in of.class_names])
        probability = np.zeros((len(of.true), len(names)), np.float32)
        probability[:, place] = of.probability
        confusion[np.ix_(place, place)] += np.array(count_confusion(of)["counts"]) / seeds[dataset]
        files = sample_of(place[of.true], probability, of.photo)
        of_photo = np.bincount(files.photo)  # number of files of each photograph
        labels.append(files.true)
        logits.append(np.log(files.probability.clip(_LEAST)))
        weights.append(1 / of_photo[files.photo] / len(of_photo) / seeds[dataset])
    true, logit, weight = map(np.concatenate, (labels, logits, weights))
    temperature = fit_temperature(true, logit, round(confusion.sum()), weight)
    found = {
        "class_names": names,
        "datasets": {name: summaries[name] for name in sorted(seeds)},
        CONFUSION: confusion.round(1).tolist(),
        "temperature": temperature,
        "before": judge(true, logit, 1.0, weight),
        "after": judge(true, logit, temperature, weight),
    }
    with write_whole(path) as file:
        file.write(json.dumps(found, indent=1) + "\n")


def check_labs(folder: Path) -> None:
    """Checks that a folder has the file that `write_unseen` writes.

    Raises:
        InputError: if it has none.
    """
    found = (folder / FILE_NAME).is_file()
    require(found, _OPTION, folder, f"a folder with {FILE_NAME} of a finished labs")


def read_unseen(folder: Path, class_names: Sequence[str]) -> dict[str, Any]:
    """Reads what `write_unseen` wrote.

    Args:
        folder: the folder of a finished `bloodcell labs`.
        class_names: classes of the model that it is for.

    Raises:
        InputError: if the folder has no such file, it is damaged, or its runs have other classes.
    """
    check_labs(folder)
    path = folder / FILE_NAME
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        names = listed(found["class_names"])
        _ = [found[key] for key in (CONFUSION, *_KEPT)]
    except (ValueError, TypeError, LookupError) as error:
        raise InputError(
            f"{path} is damaged ({reason(error)}). Repeat the `bloodcell labs` command: it keeps "
            "finished runs and writes the file again."
        ) from error
    rule = f"a folder of runs with the classes of the model, but theirs are {names}"
    require(found["class_names"] == sorted(class_names), _OPTION, folder, rule)
    return found


def add_unseen(
    scores: Mapping[str, Any], found: Mapping[str, Any], class_names: Sequence[str]
) -> dict[str, Any]:
    """Returns the scores of a model with those of its recipe on data sets left out.

    The confusion on the data sets left out is stored beside that of the model's own test. Its rows
    for classes that no data set left out could test are those of the own test.

    Args:
        scores: content of the run's `scores.json`.
        found: as `read_unseen` returns it.
        class_names: classes of the model, in the order of its outputs.
    """
    order = np.argsort(np.argsort(class_names))  # of the classes in `found`
    own, unseen = np.array(scores[CONFUSION]["counts"]), np.array(found[CONFUSION])[order][:, order]
    counts = np.where(unseen.sum(1, keepdims=True) > 0, unseen, own)
    return {
        **scores,
        UNSEEN: {key: found[key] for key in _KEPT} | {CONFUSION: counts.tolist()},
    }
