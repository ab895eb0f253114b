"""Finds the files of models, without importing torch, which takes seconds."""

from collections.abc import Sequence
from pathlib import Path

from bloodcell.errors import InputError, listed, require
from bloodcell.files import at_home, look_near
from bloodcell.model.bundled import find_bundled

LAST, BEFORE, BEST, SUFFIX = "last", "before", "best", ".ckpt"  # names in a run folder
SCORES = "scores.json"  # in the folder of a finished run
IMAGENET, NONE, BUNDLED = "imagenet", "none", "bundled"  # values of model.weights
TEACHERS = "model.teachers"
OWN = SUFFIX  # of bloodcell and of other programs that use Lightning
TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".tar", OWN)  # .tar: timm writes .pth.tar
WAYS_OUT = (
    "Give model.weights a file (.safetensors, .pth, .pt, .bin, .ckpt, .pth.tar, or Keras' "
    "mobilenet_1_0_224_tf_no_top.h5), "
    "or 'none' to start from random weights."
)


def find_checkpoint(flag: str, path: Path, name: str) -> Path:
    """Returns the path of a checkpoint.

    Args:
        flag: option that names the file, for error messages.
        path: run folder or .ckpt file.
        name: checkpoint in the run folder, `best` or `last`.

    Raises:
        InputError: if the checkpoint does not exist.
    """
    path = at_home(str(path))
    if path.is_file():
        return path
    inside = path / "checkpoints" / f"{name}{SUFFIX}"
    if inside.is_file():
        return inside
    folder, found = look_near(path)
    raise InputError(
        f"{flag} {path}: no checkpoint there (looked for {inside}; {folder} contains: "
        f"{listed([one.name for one in found])}). Give a run folder, e.g. "
        "lightning_logs/d8/version_0, or a .ckpt file."
    )


def resumable(folder: Path) -> list[Path]:
    """Returns the checkpoints that can resume a run, latest first; empty if there are none."""
    paths = (folder / "checkpoints" / f"{name}{SUFFIX}" for name in (LAST, BEFORE, BEST))
    return [path for path in paths if path.is_file()]


def find_resumable(flag: str, path: Path) -> list[Path]:
    """Returns the checkpoints that can resume a run, latest first.

    Args:
        flag: option that names the run, for error messages.
        path: run folder or .ckpt file.

    Raises:
        InputError: if there is none.
    """
    return resumable(at_home(str(path))) or [find_checkpoint(flag, path, LAST)]


def find_weights(weights: str) -> tuple[Path, str]:
    """Returns the file of `model.weights`, and the name of the entry that follows `#`.

    Args:
        weights: `bundled` or a path; `PATH#ENTRY` names an entry of a file that contains several
            weights.

    Raises:
        InputError: if there is no such file, or its type is unknown.
    """
    if weights == BUNDLED:
        return find_bundled(), ""
    path, entry = at_home(weights), ""
    if "#" in weights and not path.is_file():
        name, _, entry = weights.rpartition("#")
        path = at_home(name)
    if not path.is_file():
        raise InputError(
            f"model.weights='{weights}' is neither a file nor 'imagenet', 'bundled' or 'none'. "
            f"{WAYS_OUT}"
        )
    if path.suffix not in (".safetensors", ".h5", *TORCH_SUFFIXES):
        raise InputError(f"model.weights='{weights}' has an unknown file type. {WAYS_OUT}")
    single = f"without #{entry}, because a {path.suffix} file has no entries of this kind"
    require(not entry or path.suffix in TORCH_SUFFIXES, "model.weights", weights, single)
    return path, entry


def list_finished(folder: Path) -> list[Path]:
    """Returns the run folders of all finished runs of one name."""
    return sorted(path.parent for path in folder.glob(f"version_*/{SCORES}"))


def find_teachers(given: str | Sequence[str]) -> list[str]:
    """Returns the absolute paths of the checkpoints of `model.teachers`.

    Args:
        given: run folders, folders of run folders (all of their finished runs), or .ckpt files.

    Raises:
        InputError: if one does not exist, or is a file of another type.
    """
    found: list[Path] = []
    for path in (at_home(one) for one in ([given] if isinstance(given, str) else given)):
        found += [find_checkpoint(TEACHERS, run, BEST) for run in list_finished(path) or [path]]
    for file in found:
        require(file.suffix == SUFFIX, TEACHERS, file, "a run folder or a .ckpt file")
    return list(dict.fromkeys(str(file.absolute()) for file in found))
