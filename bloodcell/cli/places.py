"""Checks that the paths of a command line exist, before torch is imported, which takes seconds."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bloodcell.cli.settings import pairs, read_value
from bloodcell.data import labels
from bloodcell.data.source import check_root
from bloodcell.datasets import photos
from bloodcell.model.find import (
    BEST,
    IMAGENET,
    LAST,
    NONE,
    TEACHERS,
    find_checkpoint,
    find_resumable,
    find_teachers,
    find_weights,
)


def check_places(
    verb: str,
    configs: Iterable[Mapping[str, Any]],
    words: Sequence[str],
    ckpt_path: str | None,
    resume: bool,
) -> None:
    """Checks the paths of settings and of `--ckpt_path`.

    Args:
        verb: fit, validate, test or benchmark.
        configs: the settings in files, later ones override earlier ones.
        words: the options on the command line, which override those in files.
        ckpt_path: a run folder or a .ckpt file; for `fit`, also `last`.
        resume: whether `--resume auto` was given.

    Raises:
        InputError: if a path does not exist.
    """
    if ckpt_path and verb in ("validate", "test"):
        find_checkpoint("--ckpt_path", Path(ckpt_path), BEST)
    elif ckpt_path and verb == "fit" and ckpt_path != LAST:
        find_resumable("--ckpt_path", Path(ckpt_path))
    given: dict[str, Any] = {}
    for config in configs:
        for group, settings in config.items():
            if isinstance(settings, Mapping):
                given |= {f"{group}.{name}": value for name, value in settings.items()}
    given |= {flag.removeprefix("--"): read_value(text) for flag, text in pairs(words) if text}
    if ckpt_path or resume:
        given.pop("model.weights", None)  # a checkpoint contains its weights
    if verb != "fit":
        given.pop(TEACHERS, None)
    for key, check in _CHECKS.items():
        if isinstance(given.get(key), str):
            check(given[key])
    teachers = given.get(TEACHERS)
    if isinstance(teachers, str) or (
        isinstance(teachers, list) and all(isinstance(one, str) for one in teachers)
    ):
        find_teachers(teachers)


def _check_weights(weights: str) -> None:
    if weights not in (IMAGENET, NONE):
        find_weights(weights)


_CHECKS: dict[str, Callable[[str], None]] = {
    "data.root": check_root,
    "data.photos": photos.SETTING.check,
    "data.labels": labels.SETTING.check,
    "model.weights": _check_weights,
}
