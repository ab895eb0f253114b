"""Reads the weights in PyTorch files of other programs, without executing code in them."""

import argparse
import pickle
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bloodcell.errors import InputError, listed, reason

State = Mapping[str, Tensor]
# names of entries with weights; EMA weights come first, as in timm
_ENTRIES = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema", "state_dict"),
    *("model_state_dict", "model", "module", "network", "net", "weights"),
)
# harmless types beside the weights: settings and numbers
_BESIDE: list[Any] = [
    argparse.Namespace,
    np.float64(0).__reduce__()[0],
    *(np.dtype, type(np.dtype(np.float64)), type(np.dtype(np.float32)), type(np.dtype(np.int64))),
]


def read_torch(path: Path) -> dict[str, Any]:
    """Reads a dictionary from a PyTorch file.

    Raises:
        InputError: if the file is damaged or contains something else.
    """
    try:
        with torch.serialization.safe_globals(_BESIDE):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(_unreadable(path, _foreign(path) or error)) from error
    except Exception as error:  # the unpickler can raise any exception on foreign files
        raise InputError(_unreadable(path, error)) from error
    if not isinstance(content, dict):
        raise InputError(_unreadable(path, "it is not a dictionary of tensors"))
    return content


def choose(path: Path, content: dict[str, Any], entry: str) -> tuple[State, str]:
    """Returns the weights of a file, and the name of their entry if it contains several.

    Args:
        path: the file, for error messages.
        content: the content of the file: weights, or entries by name.
        entry: name of the entry to take; empty takes the first of `_ENTRIES` in the file, so EMA
            weights are preferred.

    Raises:
        InputError: if there are no weights, or none in this entry.
    """
    found = {
        key: of["state_dict"] if isinstance(of.get("state_dict"), dict) else of
        for key, of in content.items()
        if isinstance(key, str) and isinstance(of, dict)
    }
    found = {key: of for key, of in found.items() if _is_state(of)}
    if entry and entry not in found:
        raise InputError(
            f"model.weights='{path}#{entry}': the file has no weights in an entry of this name. "
            f"It has them in: {listed(sorted(found))}. Name one of them after #."
        )
    if not entry and _is_state(content):
        return content, ""
    usual = [key for key in (entry, *_ENTRIES) if key in found] or list(found)
    if not usual:
        raise InputError(_unreadable(path, "it is not a dictionary of tensors"))
    return found[usual[0]], usual[0] if len(found) > 1 else ""


def without_prefix(state: State, wanted: Collection[str]) -> State:
    """Returns a trunk's weights under its own names, if it was saved as part of a larger model.

    Args:
        state: weights by name, perhaps with a prefix, such as `module.` or `model.`.
        wanted: the trunk's names, without prefix.
    """
    first = next(iter(wanted), "")
    prefixes = [key.removesuffix(first) for key in state if f".{key}".endswith(f".{first}")]

    def fitting(prefix: str) -> int:
        return sum(f"{prefix}{key}" in state for key in wanted)

    prefix = max(sorted(prefixes, key=len), key=fitting, default="")
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _is_state(content: Mapping[Any, Any]) -> bool:
    return bool(content) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    )


def _foreign(path: Path) -> str:
    """Returns an error about types that are not read; empty if there are none."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # it is damaged as well
        return ""
    kinds = listed(sorted(names), 3)
    return f"it contains {kinds} beside the weights: save its state_dict alone" if names else ""


def _unreadable(path: Path, error: object) -> str:
    return (
        f"model.weights='{path}' cannot be read as weights ({reason(error)}). Give model.weights "
        "another file, or 'none' to start from random weights."
    )
