"""Loads and writes trained models: checkpoints of a run, and small .safetensors files."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from bloodcell.errors import InputError
from bloodcell.files import write_whole_bytes
from bloodcell.model.checkpoint import data_state, read_checkpoint, refusing
from bloodcell.model.description import GALLERY, KEY, NETWORK, TRAINED_ON, Description
from bloodcell.model.find import SCORES, find_checkpoint
from bloodcell.model.gallery import TENSORS, Gallery
from bloodcell.model.network import Network
from bloodcell.model.restore import build_network

MODEL = "--model"


class Saved(NamedTuple):
    """A trained model.

    Attributes:
        description: classes, network, input size, temperature, scores.
        network: maps pixels to logits; in evaluation mode, on the CPU, in float32.
        gallery: features of the training photographs; None if the run was not tested.
        trained_on: (n,) keys of the training images, as `BloodCells.state_dict` returns them; None
            if unknown.
    """

    description: Description
    network: Network
    gallery: Gallery | None
    trained_on: Tensor | None = None


def load_saved(path: Path) -> Saved:
    """Loads a trained model.

    Args:
        path: run folder (its best checkpoint is loaded), .ckpt or .safetensors file.

    Raises:
        InputError: if the model does not exist or is damaged.
    """
    if path.suffix == ".safetensors":
        with refusing(MODEL, path):
            return _from_safetensors(path)
    file = find_checkpoint(MODEL, path, "best")
    with refusing(MODEL, file):
        return _from_checkpoint(path, file, read_checkpoint(MODEL, file))


def _from_checkpoint(path: Path, file: Path, checkpoint: dict[str, Any]) -> Saved:
    folder = file.absolute().parent.parent
    scores = _read_scores(folder / SCORES)
    run = folder.parent.name if re.fullmatch(r"version_\d+", folder.name) else ""
    name = scores.get("name") or run or file.stem
    description = Description.from_checkpoint(checkpoint, name, scores)
    return Saved(
        description,
        build_network(MODEL, path, description, checkpoint["state_dict"]),
        _as_gallery(checkpoint.get(GALLERY)),
        data_state(checkpoint).get(TRAINED_ON),
    )


def write_saved(saved: Saved, path: Path) -> None:
    """Writes the weights, gallery and description in half precision.

    Args:
        saved: the model.
        path: .safetensors file; an existing file is replaced.
    """
    tensors = {
        f"{NETWORK}{key}": value.half().contiguous() if value.is_floating_point() else value
        for key, value in saved.network.state_dict().items()
        if not key.endswith("num_batches_tracked")  # only used in training
    }
    metadata = {KEY: saved.description.as_json()}
    if saved.trained_on is not None:
        tensors[TRAINED_ON] = saved.trained_on
    if saved.gallery:
        values = saved.gallery.as_dict()
        tensors |= {f"{GALLERY}.{key}": values.pop(key) for key in TENSORS}
        tensors[f"{GALLERY}.features"] = tensors[f"{GALLERY}.features"].half()
        metadata[GALLERY] = json.dumps(values)
    write_whole_bytes(path, save(tensors, metadata))


def _from_safetensors(path: Path) -> Saved:
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    if KEY not in metadata:
        raise InputError(
            f"{MODEL} {path} contains only weights and was not written by bloodcell. To fine-tune "
            "them, use model.weights."
        )
    description = Description.from_json(metadata[KEY])
    gallery = json.loads(metadata[GALLERY]) if GALLERY in metadata else None
    if gallery is not None:
        tensors = {key: state.get(f"{GALLERY}.{key}") for key in TENSORS}
        gallery |= {key: tensor for key, tensor in tensors.items() if tensor is not None}
    return Saved(
        description,
        build_network(MODEL, path, description, state),
        _as_gallery(gallery),
        state.get(TRAINED_ON),
    )


def _as_gallery(values: dict[str, Any] | None) -> Gallery | None:
    """Returns a stored gallery; None for one of earlier versions, which has no weights."""
    return Gallery.from_dict(values) if values and "weight" in values else None


def _read_scores(path: Path) -> dict[str, Any]:
    """Returns the content of a run's `scores.json`; empty if it is missing or unreadable."""
    if not path.is_file():
        return {}
    try:
        scores: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return {}
    return scores if isinstance(scores, dict) else {}
