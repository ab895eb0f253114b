"""What a recipe does on data sets that it was not trained on: scores, confusion, temperature."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bloodcell.errors import InputError, listed, reason, require
from bloodcell.evaluate.calibration import fit_temperature, judge
from bloodcell.evaluate.metrics import sample_of
from bloodcell.evaluate.scores import CONFUSION, Predictions, count_confusion
from bloodcell.files import write_whole

FILE_NAME = "labs.json"
UNSEEN = "unseen"  # entry of `scores.json`
_OPTION = "--labs"
_LEAST = 1e-7  # probability


class HeldOut(NamedTuple):
    """A run that was tested on a data set that it was not trained on.

    Attributes:
        dataset: name of the data set.
        scores: content of the run's `scores.json`.
        predictions: for the images of the data set.
    """

    dataset: str
    scores: Mapping[str, Any]
    predictions: Predictions

    def class_names(self) -> set[str]:
        """Returns the classes that occur in the data set."""
        return {self.predictions.class_names[label] for label in set(self.predictions.true)}

    def summary(self) -> dict[str, Any]:
        """Returns the scores, over the classes that occur in the data set."""
        found = self.scores["test"]["by_dataset"][self.dataset]
        own = found.get("own_classes", found)
        return {
            "photographs": found["by_photo"]["n"],
            "classes": len(self.class_names()),
            "by_file": found["by_file"]["balanced_accuracy"],
            "by_photo": found["by_photo"]["balanced_accuracy"],
            "own_classes": own["by_photo"]["balanced_accuracy"],
            "unlike": self.scores["gallery"]["unfamiliar"]["test"],
        }


def write_unseen(path: Path, runs: Sequence[HeldOut]) -> None:
    """Writes scores by data set, and the confusion and the temperature over all of them, as JSON.

    A run lacks the classes that only the data set left out has. For the temperature, all data sets
    have the same weight, and so have all photographs of one.

    Args:
        path: the file; it is replaced if it exists.
        runs: one for each data set.
    """
    names = sorted(set[str]().union(*(run.predictions.class_names for run in runs)))
    confusion = np.zeros((len(names), len(names)), np.int64)
    labels, logits, weights = [], [], []
    for of in (run.predictions for run in runs):
        place = np.array([names.index(name) for name in of.class_names])
        probability = np.zeros((len(of.true), len(names)), np.float32)
        probability[:, place] = of.probability
        confusion[np.ix_(place, place)] += np.array(count_confusion(of)["counts"])
        files = sample_of(place[of.true], probability, of.photo)
        of_photo = np.bincount(files.photo)  # number of files of each photograph
        labels.append(files.true)
        logits.append(np.log(files.probability.clip(_LEAST)))
        weights.append(1 / of_photo[files.photo] / len(of_photo))
    true, logit, weight = map(np.concatenate, (labels, logits, weights))
    temperature = fit_temperature(true, logit, int(confusion.sum()), weight)
    found = {
        "class_names": names,
        "datasets": {run.dataset: run.summary() for run in runs},
        CONFUSION: confusion.tolist(),
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

    The confusion on the data sets left out is stored beside that of the model's own test, whose
    rows it takes for classes that could not be tested there.

    Args:
        scores: content of the run's `scores.json`.
        found: as `read_unseen` returns it.
        class_names: classes of the model, in the order of its outputs.
    """
    order = np.argsort(np.argsort(class_names))  # of the classes in `found`
    own, unseen = np.array(scores[CONFUSION]["counts"]), np.array(found[CONFUSION])[order][:, order]
    counts = np.where(unseen.sum(1, keepdims=True) > 0, unseen, own)
    kept = ("datasets", "temperature", "before", "after")
    return {
        **scores,
        UNSEEN: {key: found[key] for key in kept} | {CONFUSION: counts.tolist()},
    }
