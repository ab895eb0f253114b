"""Whether a run's scores are what its checkpoint says: both computed again, and compared."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bloodcell.errors import InputError, listed
from bloodcell.report.machine import describe
from bloodcell.report.scores import PREDICTIONS, SCORES, Predictions, read_predictions, score

# share of the files that may be named otherwise: another processor rounds in another way
_OTHERWISE = 0.005
_SAME = 1e-5  # probabilities are written with six digits


class Check(NamedTuple):
    """One thing that was looked at.

    Attributes:
        what: it was.
        holds: whether it is as it must be; None if it may differ.
        says: in words.
    """

    what: str
    holds: bool | None
    says: str


def read_claims(folder: Path) -> dict[str, Any]:
    """Reads what a run claims.

    Args:
        folder: the run's.

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
        claims: dict[str, Any] = json.loads((folder / SCORES).read_text())
        claims["test"], claims["precision"], claims["data_fingerprint"], claims["machine"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise InputError(
            f"verify {folder}: its {SCORES} or {PREDICTIONS} is damaged ({error}), so there is "
            "nothing to compare with. Score it again: bloodcell test --ckpt_path RUN."
        ) from error
    return claims


def compare(
    folder: Path, claims: dict[str, Any], now: Predictions, fingerprint: str, device: str
) -> list[Check]:
    """Compares a run with what its checkpoint says now.

    Args:
        folder: the run's.
        claims: its `scores.json`.
        now: predictions of the test part.
        fingerprint: of the data they were made on.
        device: name of what they were made on.
    """
    then = read_predictions(folder)
    again = score(then)
    differ = [f"{by} {name}" for by, name in _differences(again, claims["test"])]
    same = "the same" if not differ else f"other: {listed(differ, 4)}"
    checks = [Check("scores", not differ, f"computed from {PREDICTIONS}: {same}")]
    known = fingerprint == claims["data_fingerprint"]
    says = fingerprint if known else f"{fingerprint}, not {claims['data_fingerprint']}"
    checks.append(Check("data", known, says))
    files = sorted(then.file) == sorted(now.file) and then.class_names == now.class_names
    says = f"{len(now.file):,} files" if files else "others than then, or other classes"
    checks.append(Check("tested on", files, says))
    if files:
        checks.append(_compare_predictions(then, now))
    here = describe(device)
    for key in ("git_commit", "device", "versions"):
        if (before := claims["machine"].get(key)) != here[key]:
            checks.append(Check(key.replace("_", " "), None, _both(before, here[key])))
    return checks


def _compare_predictions(then: Predictions, now: Predictions) -> Check:
    place = {file: n for n, file in enumerate(now.file)}
    order = [place[file] for file in then.file]
    said = now.probability[order]
    furthest = float(np.abs(said - then.probability).max(initial=0))
    otherwise = int((said.argmax(1) != then.probability.argmax(1)).sum())
    says = f"{otherwise} of {len(order):,} files named otherwise, "
    says += f"probabilities differ by {furthest:.1g} at most"
    if furthest <= _SAME:
        says = "the same"
    return Check("predictions", otherwise <= _OTHERWISE * len(order), says)


def _differences(now: dict[str, Any], then: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (by, name)
        for by in ("by_file", "by_photo")
        for name, value in now[by].items()
        if json.loads(json.dumps(value)) != then.get(by, {}).get(name)
    ]


def _both(then: Any, now: Any) -> str:
    if isinstance(then, dict) and isinstance(now, dict):
        changed = [f"{k} {then.get(k)} -> {now[k]}" for k in now if then.get(k) != now[k]]
        return listed(changed, 4)
    return f"{then} -> {now}"
