"""Makes the hyperparameters of a module plain, so that its checkpoints can be read safely."""

import os
from collections.abc import MutableMapping
from typing import Any

import numpy as np


def make_plain(hparams: MutableMapping[str, Any]) -> None:
    """Replaces paths by text and NumPy's numbers by Python's, and drops functions and modules.

    Checkpoints are read with `weights_only`, which refuses other types.
    """
    for name, value in hparams.items():
        hparams[name] = _plain(value)


def _plain(value: Any) -> Any:
    if callable(value):
        return None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic):
        return value.item()
    if type(value) in (list, tuple):
        return type(value)(_plain(one) for one in value if not callable(one))
    if type(value) is dict:
        return {_plain(key): _plain(one) for key, one in value.items()}
    return value
