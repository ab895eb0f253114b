"""Reads checkpoints without executing code that they may contain."""

import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from bloodcell.errors import InputError, listed, reason
from bloodcell.model.description import NETWORK, RECIPE, TRAINED_ON

_DATA_SETTINGS = "datamodule_hyper_parameters"
_OF_MODEL = ("state_dict", "hyper_parameters")
_KINDS = {  # types of a checkpoint's entries; a model needs only those of `_OF_MODEL`
    **dict.fromkeys((*_OF_MODEL, _DATA_SETTINGS, "loops", "callbacks"), dict),
    **dict.fromkeys(("epoch", "global_step"), int),
    "optimizer_states": list,
}
_WRONG = (  # exceptions from reading damaged or foreign files
    SafetensorError,
    *(OSError, ValueError, LookupError, TypeError, AttributeError),
    *(RuntimeError, MemoryError, RecursionError, OverflowError),
)
_DATA = "BloodCells"
_DATA_BEFORE = {
    "data_fingerprint": "fingerprint",
    "data_facts": "facts",
    TRAINED_ON: TRAINED_ON,
}


def read_checkpoint(flag: str, path: Path) -> dict[str, Any]:
    """Reads a checkpoint that contains at least a model.

    Args:
        flag: option that names the file, for error messages.
        path: checkpoint file.

    Raises:
        InputError: if the file is damaged or was not written by bloodcell.
    """
    try:
        _check_whole(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler can raise any exception on foreign files
        why = "not a PyTorch file" if isinstance(error, pickle.UnpicklingError) else reason(error)
        raise InputError(
            f"{flag} {path} cannot be read as a checkpoint ({why}). Give another one, "
            "e.g. checkpoints/last.ckpt or checkpoints/best.ckpt of a run folder."
        ) from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get(RECIPE), dict):
        raise InputError(
            f"{flag} {path} was not written by bloodcell. To start from the weights of "
            "another program, use model.weights."
        )
    needed = {*_OF_MODEL, *checkpoint}
    kinds = {key: kind for key, kind in _KINDS.items() if key in needed}
    wrong = [key for key, kind in kinds.items() if not isinstance(checkpoint.get(key), kind)]
    if wrong:
        raise InputError(
            f"{flag} {path} is not in bloodcell's format: {listed(wrong)} cannot be used. Give "
            "another checkpoint."
        )
    return checkpoint


def check_complete(flag: str, path: Path, checkpoint: Mapping[str, Any]) -> None:
    """Checks that a run can be resumed from a checkpoint.

    Raises:
        InputError: if it contains only the model, e.g. because Lightning saved weights only.
    """
    missing = [key for key in _KINDS if key not in checkpoint]
    if missing:
        raise InputError(
            f"{flag} {path} contains a model, but cannot resume a run: it lacks {listed(missing)}. "
            "Give the run's last.ckpt, or start a run from the weights: `bloodcell export IMAGES "
            f"--model {path} --out m.safetensors`, then --model.weights m.safetensors."
        )


def check_knows_data(flag: str, path: Path, checkpoint: Mapping[str, Any]) -> None:
    """Checks that a checkpoint lists the images it was trained on.

    Raises:
        InputError: if it was trained on other loaders than those of `BloodCells`.
    """
    if _DATA_SETTINGS not in checkpoint or TRAINED_ON not in data_state(checkpoint):
        raise InputError(
            f"{flag} {path} does not list the images it was trained on, because it was not trained "
            "with the data module BloodCells. Its training images could be among the scored ones. "
            "Use it with predict, or score it from Python with Trainer.test and your own data."
        )


def data_state(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the state of the data module, as `BloodCells.state_dict` returned it.

    Lightning stores it under the class name; the oldest checkpoints have it at the top level.
    """
    if _DATA in checkpoint:
        return dict(checkpoint[_DATA])
    return {now: checkpoint[then] for then, now in _DATA_BEFORE.items() if then in checkpoint}


@contextmanager
def refusing(flag: str, path: Path) -> Iterator[None]:
    """Converts errors from a file's content into an InputError that names the file.

    Args:
        flag: option that names the file.
        path: untrusted file.

    Raises:
        InputError: if the code in the `with` block fails because of the content.
    """
    try:
        yield
    except (InputError, *_WRONG) as error:
        if isinstance(error, InputError) and not str(error).startswith("model."):
            raise  # about a setting that the user gave, not about the file
        raise InputError(
            f"{flag} {path} cannot be read as a model ({reason(error)}). Get the file again, or "
            "give another one."
        ) from error


def network_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the state dict of the network, without the prefix of its keys."""
    return {k.removeprefix(NETWORK): v for k, v in state.items() if k.startswith(NETWORK)}


def _check_whole(path: Path) -> None:
    """Checks the file against its stored checksums."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(one.compress_type != zipfile.ZIP_STORED for one in archive.infolist()):
                raise ValueError("it is compressed, unlike a checkpoint")
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"its part {damaged} is damaged")
