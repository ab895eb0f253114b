"""Finds the checkpoint that resumes a run, and checks whether the run may be resumed."""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from bloodcell.errors import InputError, listed
from bloodcell.evaluate.runs import CONFIG
from bloodcell.model.checkpoint import check_complete, read_checkpoint
from bloodcell.model.find import LAST, SCORES, find_resumable, resumable
from bloodcell.train.checkpoints import read_monitor
from bloodcell.train.runs import CKPT_PATH, list_versions

_MOST_EPOCHS = 1000  # of a Trainer without limits
AUTO = "auto"  # value of --resume: resume if there is a checkpoint, otherwise start a new run


def find(given: str, root: Path, name: str) -> tuple[Path, dict[str, Any]] | None:
    """Finds and reads the checkpoint to resume from.

    Args:
        given: `last`, a run folder, a .ckpt file, or `auto` for the last checkpoint of the newest
            run.
        root: the folder that contains lightning_logs.
        name: the runs' name; `last` selects the newest of them that has a checkpoint.

    Returns:
        The path and the content of the checkpoint; None if `auto` finds no checkpoint.

    Raises:
        InputError: if there is no checkpoint, or all are damaged.
    """
    if given == AUTO:
        runs = list_versions(root / "lightning_logs" / name)
        if not runs or not resumable(runs[-1]):
            return None
        given = str(runs[-1])
    return _read_first(last_checkpoints(given, root, name))


def last_checkpoints(path: str, root: Path, name: str) -> list[Path]:
    """Finds the checkpoints that `--ckpt_path` of `fit` refers to.

    Args:
        path: `last`, a run folder or a .ckpt file.
        root: the folder that contains lightning_logs.
        name: the runs' name; `last` selects the newest of them that has a checkpoint.

    Returns:
        The file, or all checkpoints of the run, latest first, because the latest may be damaged.

    Raises:
        InputError: if there is no checkpoint.
    """
    folder = _newest(root, name) if path == LAST else Path(path)
    return find_resumable(CKPT_PATH, folder)


def _read_first(paths: Sequence[Path]) -> tuple[Path, dict[str, Any]]:
    """Reads the first undamaged checkpoint, and prints an error for each damaged one.

    Raises:
        InputError: if all are damaged.
    """
    *others, final = paths
    for place, path in enumerate(others, 1):
        try:
            return path, _read(path)
        except InputError as error:
            print(f"bloodcell: {error} Trying {paths[place].name}.", file=sys.stderr)
    return final, _read(final)


def _read(path: Path) -> dict[str, Any]:
    checkpoint = read_checkpoint(CKPT_PATH, path)
    check_complete(CKPT_PATH, path, checkpoint)
    return checkpoint


def _newest(root: Path, name: str) -> Path:
    """Returns the folder of the newest run of a name that has a checkpoint."""
    folder = root / "lightning_logs" / name
    runs = list_versions(folder)
    begun = [run for run in runs if resumable(run)]
    if not begun:
        others = sorted(p.name for p in folder.parent.glob("*/") if p != folder)
        raise InputError(
            f"--ckpt_path last: no run in {folder} has a checkpoint (found: "
            f"{listed([run.name for run in runs])}; other names: {listed(others)}). Give --name or "
            "a run folder, or leave --ckpt_path out to start a new run."
        )
    return begun[-1]


def run_folder(checkpoint: Path) -> Path:
    """Returns the run folder that contains a checkpoint.

    Raises:
        InputError: if the checkpoint is not in a run folder.
    """
    folder = checkpoint.absolute().parent.parent
    if checkpoint.parent.name != "checkpoints" or not (folder / CONFIG).is_file():
        raise InputError(
            f"--ckpt_path {checkpoint} is not in a run folder (looked for "
            f"{folder / CONFIG}), so there is no run to resume. Give a run folder, e.g. "
            "lightning_logs/d8/version_0."
        )
    return folder


def check_same_monitor(path: Path, wanted: str) -> None:
    """Checks that a resumed run keeps its `--monitor`.

    Args:
        path: path of the checkpoint.
        wanted: `--monitor`.

    Raises:
        InputError: if it differs, because earlier epochs could not be compared.
    """
    before = _config(path).get("monitor", wanted)  # the oldest runs do not store it
    if read_monitor(before) != read_monitor(wanted):
        raise InputError(
            f"--monitor {wanted}, but the run chooses its best checkpoint by {before}, which "
            "cannot change now. Leave it out, or start a new run without --ckpt_path."
        )


def _config(path: Path) -> dict[str, Any]:
    text = (run_folder(path) / CONFIG).read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def is_finished(path: Path, wanted: Mapping[str, Any]) -> bool:
    """Returns whether a run has been tested and the settings do not extend its training.

    `KeepLast` deletes the scores of a run that is trained further, so scores mark a finished run.

    Args:
        path: path of the checkpoint.
        wanted: the `trainer` group of the settings.
    """
    scores = run_folder(path) / SCORES
    if not scores.is_file():
        return False
    # config.yaml may be that of an attempt to extend the run; the oldest scores lack the limits
    found: dict[str, Any] = json.loads(scores.read_text(encoding="utf-8"))
    before, now = found.get("limits") or _config(path)["trainer"], dict(wanted)
    if now["max_epochs"] is None and _limit(before["max_epochs"]) < math.inf:
        now["max_epochs"] = _MOST_EPOCHS
    return not any(_limit(now[key]) > _limit(before[key]) for key in ("max_epochs", "max_steps"))


def _limit(most: int | None) -> float:
    return math.inf if most is None or most < 0 else most


def check_unfinished(path: Path, checkpoint: dict[str, Any], wanted: Mapping[str, Any]) -> None:
    """Checks that a resumed run is not finished.

    Raises:
        InputError: if the run has been tested and the settings do not extend its training.
    """
    if is_finished(path, wanted):
        raise InputError(
            f"--ckpt_path {path}: this run is finished after epoch {checkpoint['epoch'] + 1} "
            f"(trainer.max_epochs={wanted['max_epochs']}). Raise --trainer.max_epochs to train "
            "further, or leave --ckpt_path out to start a new run."
        )
