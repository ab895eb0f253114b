"""Finds and reads finished runs. Needs no torch."""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from bloodcell.errors import InputError
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
            raise InputError(
                f"compare: {folder} is not a folder. Give run folders, e.g. "
                "lightning_logs/d8/version_0, or none for all below lightning_logs."
            )
        inside = [path.parent for path in folder.rglob(CONFIG)]
        found += sorted(inside, key=by_number) or [folder]
    return list(dict.fromkeys(found))


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
            left_out[folder] = f"not in bloodcell's format ({type(error).__name__}: {error})"
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
    """Raises KeyError if a value of the table is missing."""
    for key in ("name", "split", "parameters", "learning_time_seconds", "data_fingerprint"):
        run.scores[key]
    run.settings["model"]["hidden"], run.settings["model"]["lr"]
    run.settings["seed_everything"]
