"""Compares the scores of a run with those computed again from its checkpoint."""

import csv
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bloodcell.errors import InputError, listed
from bloodcell.evaluate.history import FILE_NAME, Epoch, best, read_history
from bloodcell.evaluate.scores import PREDICTIONS, Predictions, read_predictions, score
from bloodcell.machine import describe
from bloodcell.model.find import SCORES
from bloodcell.text import command

# tolerances for rounding on other processors: the share of files whose predicted class differs,
# and the difference of a probability or the mean loss
_CHANGED, _FURTHEST = 0.005, 0.05
_SAME = 1e-5  # probabilities are written with six digits


class Check(NamedTuple):
    """The result of one check.

    Attributes:
        what: its name.
        passed: whether it passed; None if a difference is allowed.
        detail: an explanation.
    """

    what: str
    passed: bool | None
    detail: str


def read_claims(folder: Path) -> dict[str, Any]:
    """Reads the scores of a run.

    Args:
        folder: the run folder.

    Returns:
        Its `scores.json`.

    Raises:
        InputError: if it was not tested, or its files are damaged.
    """
    missing = [name for name in (SCORES, PREDICTIONS) if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"verify {folder}: it has no {listed(missing)}. Give the folder of a finished run, "
            "e.g. lightning_logs/d8/version_0."
        )
    try:
        read_predictions(folder)
        read_history(folder / FILE_NAME)
        claims: dict[str, Any] = json.loads((folder / SCORES).read_text())
        kinds = {"test": dict, "val": dict, "machine": dict, "precision": str}
        for key, kind in (kinds | {"data_fingerprint": str}).items():
            if not isinstance(claims[key], kind):
                raise TypeError(f"{key} is {claims[key]!r}"[:80])
    except (ValueError, LookupError, TypeError, RecursionError, csv.Error) as error:
        raise InputError(
            f"verify {folder}: its {SCORES}, {PREDICTIONS} or {FILE_NAME} is damaged ({error}), so "
            f"there is nothing to compare with. Restore it. All but {FILE_NAME} can be written "
            f"again: delete {SCORES}, then {command('bloodcell', 'fit', '--ckpt_path', folder)}"
        ) from error
    return claims


def compare(
    folder: Path, claims: dict[str, Any], now: Predictions, loss: float, fingerprint: str
) -> list[Check]:
    """Compares a run with new predictions of its checkpoint.

    Args:
        folder: the run folder.
        claims: its `scores.json`.
        now: predictions of the test part, with the classes and photographs of the data.
        loss: mean cross-entropy of the test part.
        fingerprint: fingerprint of the data of these predictions.
    """
    then = read_predictions(folder)
    differ = _false_claims(folder, claims, score(then))
    same = "the same" if not differ else f"different: {listed(differ, 4)}"
    checks = [Check("scores", not differ, f"computed from {PREDICTIONS}, {FILE_NAME}: {same}")]
    equal = fingerprint == claims["data_fingerprint"]
    detail = fingerprint if equal else f"{fingerprint}, not {claims['data_fingerprint']}"
    checks.append(Check("data", equal, detail))
    facts = [_facts(one) for one in (then, now)]
    alike = facts[0] == facts[1] and then.class_names == now.class_names
    detail = f"{len(now.file):,} files" if alike else "other files, classes or photographs"
    checks.append(Check("tested on", alike, detail))
    if alike:
        checks.append(_compare_predictions(then, now))
        claimed = claims["test"].get("loss")
        close = isinstance(claimed, float) and abs(claimed - loss) <= _FURTHEST
        checks.append(Check("test loss", close, f"{loss:.4f}, {SCORES}: {claimed!s:.6}"))
    return checks


def compare_machines(claims: dict[str, Any], device: str) -> list[Check]:
    """Lists differences of machine and versions, which are allowed.

    Args:
        claims: the `scores.json`.
        device: name of the device of the new test.
    """
    here = describe(device)
    return [
        Check(key.replace("_", " "), None, _both(claims["machine"].get(key), here[key]))
        for key in ("git_commit", "device", "versions")
        if claims["machine"].get(key) != here[key]
    ]


def _facts(of: Predictions) -> list[tuple[str, str, int]]:
    """Returns file, photograph and label of each image, sorted."""
    return sorted(zip(of.file, of.photo, of.true.tolist(), strict=True))


def _false_claims(folder: Path, claims: dict[str, Any], again: dict[str, Any]) -> list[str]:
    """Lists the scores that do not follow from predictions and history."""
    then = claims["test"]
    false = [
        f"{by} {name}"
        for by in ("by_file", "by_photo")
        for name, value in again[by].items()
        if not isinstance(then.get(by), dict) or not _alike(value, then[by].get(name))
    ]
    if not _alike(again.get("by_dataset"), then.get("by_dataset")):
        false.append("by_dataset")
    epochs = read_history(folder / FILE_NAME)
    must = {
        ("test", "accuracy"): again["by_file"]["accuracy"]["value"],
        ("test", "accuracy_by_photo"): again["by_photo"]["accuracy"]["value"],
        ("test", "photos"): again["by_photo"]["n"],
    }
    if epochs:
        chosen = _choose(epochs, claims)
        must |= {("val", "loss"): chosen.val_loss, ("val", "accuracy"): chosen.val_acc}
        must |= {("train", "loss"): chosen.train_loss, ("train", "accuracy"): chosen.train_acc}
        if (claims.get("epochs"), claims.get("best_epoch")) != (len(epochs), chosen.epoch):
            false.append("epochs")
    for (part, name), value in must.items():
        if not isinstance(claims.get(part), dict) or not _alike(value, claims[part].get(name)):
            false.append(f"{part} {name}")
    return false


def _choose(epochs: list[Epoch], claims: dict[str, Any]) -> Epoch:
    """Returns the epoch that must be the best, or for other metrics the one that is claimed."""
    if claims.get("monitor", "val/loss") != "val/loss":  # metrics.csv has no other metric
        claimed = claims.get("best_epoch")
        return next((line for line in epochs if line.epoch == claimed), best(epochs))
    return best(epochs)


def _alike(now: Any, then: Any) -> bool:
    """Returns whether two scores are equal up to rounding; NaN is equal to NaN."""
    if isinstance(now, dict):
        same = isinstance(then, dict) and now.keys() == then.keys()
        return same and all(_alike(value, then[key]) for key, value in now.items())
    if isinstance(now, float) and isinstance(then, float):
        both_nan = math.isnan(now) and math.isnan(then)
        return both_nan or math.isclose(now, then, rel_tol=1e-6, abs_tol=1e-9)
    return bool(now == then)


def _compare_predictions(then: Predictions, now: Predictions) -> Check:
    place = {file: n for n, file in enumerate(now.file)}
    order = [place[file] for file in then.file]
    probability = now.probability[order]
    furthest = float(np.abs(probability - then.probability).max(initial=0))
    changed = int((probability.argmax(1) != then.probability.argmax(1)).sum())
    detail = f"{changed} of {len(order):,} files have another predicted class, "
    detail += f"probabilities differ by at most {furthest:.1g}"
    if furthest <= _SAME:
        detail = "the same"
    close = changed <= _CHANGED * len(order) and furthest <= _FURTHEST
    return Check("predictions", close, detail)


def _both(then: Any, now: Any) -> str:
    if isinstance(then, dict) and isinstance(now, dict):
        changed = [f"{k} {then.get(k)} -> {now[k]}" for k in now if then.get(k) != now[k]]
        return listed(changed, 4)
    return f"{then} -> {now}"
