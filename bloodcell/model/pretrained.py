"""Loads pretrained weights of a trunk from the Hugging Face Hub, or a PyTorch or Keras file."""

import re
import socket
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from bloodcell.errors import InputError, listed, reason
from bloodcell.model.checkpoint import data_state, refusing
from bloodcell.model.description import KEY, NETWORK, RECIPE, TRAINED_ON, Description
from bloodcell.model.find import BUNDLED, IMAGENET, NONE, OWN, WAYS_OUT, find_weights
from bloodcell.model.keras_weights import read_keras
from bloodcell.model.network import PretrainedConfig
from bloodcell.model.torch_weights import State, choose, read_torch, without_prefix

# Keras' MobileNet: TensorFlow's padding and BatchNorm epsilon; momentum .99 is .01 in PyTorch
KERAS = PretrainedConfig(options={"pad_type": "same", "bn_eps": 1e-3, "bn_momentum": 0.01})


def read_pretrained_config(backbone: str, weights: str) -> PretrainedConfig:
    """Returns the preprocessing and options that weights require, without loading them.

    A `.safetensors` file has them in its metadata (`mean`, `std`, `pad_type`, `bn_eps`), or in the
    description if bloodcell wrote it; a `.ckpt` file of bloodcell has them in its recipe. Keras'
    `.h5` files require `KERAS`. All other weights use timm's configuration of the backbone.

    Args:
        backbone: timm model name.
        weights: `imagenet`, `bundled`, `none` or a path.

    Raises:
        InputError: if the file is missing, damaged or of an unknown type.
    """
    config = _timm_config(backbone)
    standard = (
        PretrainedConfig(weights, tuple(config.mean), tuple(config.std))
        if config
        else PretrainedConfig(weights)
    )
    if weights in (IMAGENET, NONE):
        return standard
    path, _ = find_weights(weights)
    if path.suffix == ".h5":
        return PretrainedConfig(path.name, KERAS.mean, KERAS.std, KERAS.options)
    if path.suffix == OWN and (recipe := read_torch(path).get(RECIPE)):
        return replace(_from_recipe(path, recipe), source=path.name)
    if path.suffix != ".safetensors":
        return PretrainedConfig(path.name, standard.mean, standard.std)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(_damaged(path, error)) from error
    if KEY in metadata:
        return replace(_describe(path, metadata), source=_shown(weights, path))
    try:
        return _read_metadata(path.name, standard, metadata)
    except ValueError as error:
        raise InputError(_damaged(path, error)) from error


def _read_metadata(
    name: str, standard: PretrainedConfig, metadata: Mapping[str, str]
) -> PretrainedConfig:
    options: dict[str, str | float] = {}
    if "pad_type" in metadata:
        options["pad_type"] = metadata["pad_type"]
    if "bn_eps" in metadata:
        options["bn_eps"] = float(metadata["bn_eps"])
    if options.items() == {k: KERAS.options[k] for k in ("pad_type", "bn_eps")}.items():
        options = KERAS.options  # converted Keras weights train as in Keras
    mean = _channels(metadata["mean"]) if "mean" in metadata else standard.mean
    std = _channels(metadata["std"]) if "std" in metadata else standard.std
    found = {"source": name, "mean": mean, "std": std, "options": options}
    return PretrainedConfig.from_dict(found)


def read_trained_on(weights: str) -> Tensor | None:
    """Returns the keys of the images that weights were trained on; None if unknown.

    Args:
        weights: `imagenet`, `bundled`, `none` or a path.
    """
    if weights in (IMAGENET, NONE):
        return None
    path, _ = find_weights(weights)
    if path.suffix == OWN:
        with refusing("model.weights", path):
            return data_state(read_torch(path)).get(TRAINED_ON)
    if path.suffix != ".safetensors":
        return None
    with safe_open(path, "pt") as file:
        return file.get_tensor(TRAINED_ON) if TRAINED_ON in file.keys() else None  # noqa: SIM118


def load_trunk(trunk: nn.Module, backbone: str, weights: str) -> str:
    """Loads pretrained weights into a trunk; `none` leaves the trunk unchanged.

    Args:
        trunk: built by `bloodcell.model.network.create_trunk`.
        backbone: timm model name of the trunk.
        weights: `imagenet`, `bundled`, `none` or a path; `PATH#ENTRY` names an entry of a file
            that contains several weights.

    Returns:
        File and entry, as `FILE#ENTRY`, if the file contains several weights; else empty.

    Raises:
        InputError: if the weights are unavailable or unreadable, or do not fit the trunk.
    """
    if weights == NONE:
        return ""
    wanted = {k: v for k, v in trunk.state_dict().items() if not k.endswith("num_batches_tracked")}
    taken = ""
    if weights == IMAGENET:
        state = _from_hub(backbone, trunk)
    else:
        state, taken = _from_file(*find_weights(weights))
        state = without_prefix(state, wanted)
    # the trunk has no classifier, but a file may have one
    left_out = ("classifier", "fc", "head")
    given = {
        k: v
        for k, v in state.items()
        if k in wanted or not (k.startswith(left_out) or k.endswith("num_batches_tracked"))
    }
    wrong = [
        f"{k} is {tuple(given[k].shape)}, needs {tuple(wanted[k].shape)}"
        for k in sorted(wanted.keys() & given.keys())
        if given[k].shape != wanted[k].shape
    ]
    missing, extra = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    if wrong or missing or extra:
        raise InputError(
            f"model.weights='{weights}' does not fit model.backbone='{backbone}': wrong shape: "
            f"{listed(wrong, 2)}; missing: {listed(missing, 3)}; not in the trunk: "
            f"{listed(extra, 3)}. Give the backbone of the weights."
        )
    trunk.load_state_dict(given, strict=False)
    return taken


def reach_hub(backbone: str) -> None:
    """Checks that timm's weights are available, because the client would retry for a minute.

    Args:
        backbone: timm model name.

    Raises:
        InputError: if timm has no weights, or they are not cached and the hub is not reachable.
    """
    config = _timm_config(backbone)
    if config is None or not (config.hf_hub_id or config.url):
        raise InputError(
            f"model.weights=imagenet: timm has no pretrained weights for model.backbone="
            f"'{backbone}'. {WAYS_OUT}"
        )
    cached = (
        huggingface_hub.try_to_load_from_cache(config.hf_hub_id or "none/none", file)
        for file in ("model.safetensors", "pytorch_model.bin")
    )
    if any(isinstance(path, str) for path in cached) or urllib.request.getproxies():
        return
    host = urllib.parse.urlsplit(huggingface_hub.constants.ENDPOINT)
    port = host.port or (443 if host.scheme == "https" else 80)
    try:
        socket.create_connection((host.hostname or "", port), timeout=10).close()
    except OSError as error:
        raise InputError(_not_downloaded(backbone, error)) from error


def _from_hub(backbone: str, trunk: nn.Module) -> State:
    reach_hub(backbone)
    state: State = {}
    try:
        # some models have their own pooling layers
        poolings: tuple[dict[str, Any], ...] = ({}, {"global_pool": ""})
        for pooling in poolings:
            model = timm.create_model(backbone, pretrained=True, num_classes=0, **pooling)
            state = model.state_dict()
            if state.keys() == trunk.state_dict().keys():
                break
    except Exception as error:  # the client does not wrap errors of its HTTP library
        raise InputError(_not_downloaded(backbone, error)) from error
    return state


def _timm_config(backbone: str) -> Any:
    """Returns timm's configuration of pretrained weights; None if there are none."""
    try:
        return timm.get_pretrained_cfg(backbone) if timm.is_model(backbone) else None
    except RuntimeError as error:  # `mobilenetv1_100.tag` with an unknown tag
        raise InputError(
            f"model.backbone='{backbone}': timm has the model but not this tag ({reason(error)}). "
            "Remove the dot and the tag."
        ) from error


def _not_downloaded(backbone: str, error: Exception) -> str:
    return (
        f"model.weights=imagenet: the weights of '{backbone}' could not be downloaded "
        f"({reason(error)}). {WAYS_OUT}"
    )


def _from_file(path: Path, entry: str) -> tuple[State, str]:
    try:
        if path.suffix == ".h5":
            return read_keras(path), ""
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
                own = KEY in (file.metadata() or {})
            return _trunk_of(state) if own else state, ""
    except Exception as error:  # each file format has its own exceptions
        raise InputError(_damaged(path, error)) from error
    weights, taken = choose(path, read_torch(path), entry)
    return weights, f"{path.name}#{taken}" if taken else ""


def _trunk_of(state: State) -> State:
    """Returns the trunk's weights from a model of bloodcell, in float32."""
    prefix = f"{NETWORK}trunk."
    return {k.removeprefix(prefix): v.float() for k, v in state.items() if k.startswith(prefix)}


def _describe(path: Path, metadata: Mapping[str, str]) -> PretrainedConfig:
    try:
        return _from_recipe(path, Description.from_json(metadata[KEY]).recipe)
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(_damaged(path, error)) from error


def _from_recipe(path: Path, recipe: Any) -> PretrainedConfig:
    try:
        return PretrainedConfig.from_dict(recipe)
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(_damaged(path, error)) from error


def _shown(weights: str, path: Path) -> str:
    return BUNDLED if weights == BUNDLED else path.name


def _damaged(path: Path, error: object) -> str:
    return f"model.weights='{path}' cannot be read as weights ({reason(error)}). {WAYS_OUT}"


def _channels(text: str) -> tuple[float, ...]:
    values = tuple(float(value) for value in re.split(r"[,\s]+", text.strip("[]() ")))
    return values * 3 if len(values) == 1 else values
