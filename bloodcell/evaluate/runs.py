"""Finds and reads finished runs. Needs no torch."""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from bloodcell.data.image_files import walk
from bloodcell.errors import InputError, reason
from bloodcell.evaluate.scores import PREDICTIONS, Predictions, read_predictions
from bloodcell.model.find import SCORES, resumable
from bloodcell.text import command

CONFIG = "config.yaml"
_DAMAGED = (ValueError, LookupError, TypeError, RecursionError, yaml.YAMLError, csv.Error)


class Run(NamedTuple):
    """A finished run.

    Attributes:
        folder: the run folder.
        settings: its `config.yaml`.
        scores: its `scores.json`.
        predictions: its `predictions.csv`.
    """

    folder: Path
    settings: dict[str, Any]
    scores: dict[str, Any]
    predictions: Predictions


def find_runs(given: Sequence[str]) -> list[Path]:
    """Lists run folders.

    Args:
        given: run folders, or folders that contain some; none means all below lightning_logs.

    Raises:
        InputError: if a folder does not exist.
    """
    found: list[Path] = []
    for folder in map(Path, given or ["lightning_logs"]):
        if not folder.is_dir():
            below = ", or none for all below lightning_logs" if given else ""
            raise InputError(
                f"compare: {folder} is not a folder. Give run folders, e.g. "
                f"lightning_logs/d8/version_0{below}."
            )
        inside = [place for place, names in walk(folder) if CONFIG in names]
        found += sorted(inside, key=by_number) or [folder]
    once: dict[Path, Path] = {}
    for folder in found:
        once.setdefault(folder.resolve(), folder)
    return list(once.values())


def read_runs(folders: Iterable[Path]) -> tuple[list[Run], dict[Path, str]]:
    """Reads finished runs.

    Returns:
        The runs, and the folders left out, each with the reason.
    """
    runs, left_out = [], {}
    for folder in folders:
        missing = [n for n in (CONFIG, SCORES, PREDICTIONS) if not (folder / n).is_file()]
        if missing:
            left_out[folder] = f"unfinished: it has no {' and no '.join(missing)}"
            if CONFIG not in missing and SCORES in missing and resumable(folder):
                again = command("bloodcell", "fit", "--ckpt_path", folder)
                left_out[folder] += f"; if it does not run any more, continue it: {again}"
            continue
        try:
            settings = yaml.load((folder / CONFIG).read_text(encoding="utf-8"), yaml.CSafeLoader)
            scores = json.loads((folder / SCORES).read_text(encoding="utf-8"))
            run = Run(folder, settings, scores, read_predictions(folder))
            _check(run)
        except _DAMAGED as error:
            why = f"{type(error).__name__}: {reason(error)}"
            left_out[folder] = f"not in bloodcell's format ({why})"
        else:
            missing_files = scores.get("test_files_not_scored", 0)
            if missing_files:
                left_out[folder] = (
                    f"partial: {missing_files:,} test images were not scored "
                    "(trainer.limit_test_batches)"
                )
            else:
                runs.append(run)
    return runs, left_out


def by_number(folder: Path) -> tuple[str, int]:
    """Returns a key that sorts the run folders of a name by version number."""
    number = folder.name.removeprefix("version_")
    return str(folder.parent), int(number) if number.isdigit() else 0


def _check(run: Run) -> None:
    """Raises KeyError or ValueError if a value of the table is missing."""
    for key in ("name", "split", "parameters", "learning_time_seconds", "data_fingerprint"):
        run.scores[key]
    run.scores["photos"]["test"], run.scores["test_photos_also_in_training"]
    if not len(run.predictions.true):
        raise ValueError(f"{PREDICTIONS} is empty")
    run.settings["model"]["hidden"], run.settings["model"]["lr"]
    run.settings["seed_everything"]
