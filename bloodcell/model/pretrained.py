"""Pretrained weights of a trunk: from timm's hub, or a file of PyTorch or Keras."""

import re
import socket
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import huggingface_hub
import timm
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from bloodcell.errors import InputError, listed, reason
from bloodcell.model.bundled import find_bundled
from bloodcell.model.description import KEY, NETWORK, TRAINED_ON, Description
from bloodcell.model.network import PretrainedConfig

IMAGENET = "imagenet"
NONE = "none"
BUNDLED = "bundled"
_WAYS_OUT = (
    "Give model.weights a file (.safetensors, .pth, or Keras' mobilenet_1_0_224_tf_no_top.h5), "
    "or 'none' to start from random weights."
)
# Keras' MobileNet: TensorFlow's padding and BatchNorm epsilon; Keras' momentum .99 is torch's .01
KERAS = PretrainedConfig(options={"pad_type": "same", "bn_eps": 1e-3, "bn_momentum": 0.01})

State = Mapping[str, Tensor]


def read_pretrained_config(backbone: str, weights: str) -> PretrainedConfig:
    """Tells what weights demand, without loading them.

    A `.safetensors` file says it in its metadata (`mean`, `std`, `pad_type`, `bn_eps`; a model
    that bloodcell wrote, in its description), Keras' `.h5` is known, and for all else timm's own
    configuration of the backbone is taken.

    Args:
        backbone: timm model name.
        weights: `imagenet`, `bundled`, `none` or a file.

    Raises:
        InputError: if the file is missing or of no known kind.
    """
    config = _timm_config(backbone)
    standard = (
        PretrainedConfig(weights, tuple(config.mean), tuple(config.std))
        if config
        else PretrainedConfig(weights)
    )
    if weights in (IMAGENET, NONE):
        return standard
    path = _existing(weights)
    if path.suffix == ".h5":
        return PretrainedConfig(path.name, KERAS.mean, KERAS.std, KERAS.options)
    if path.suffix != ".safetensors":
        return PretrainedConfig(path.name, standard.mean, standard.std)
    try:
        with safe_open(path, "pt") as file:
            said = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(_damaged(path, error)) from error
    if KEY in said:
        return replace(_describe(path, said), source=_shown(weights, path))
    try:
        return _read_metadata(path.name, standard, said)
    except ValueError as error:
        raise InputError(_damaged(path, error)) from error


def _read_metadata(
    name: str, standard: PretrainedConfig, said: Mapping[str, str]
) -> PretrainedConfig:
    options: dict[str, str | float] = {}
    if "pad_type" in said:
        options["pad_type"] = said["pad_type"]
    if "bn_eps" in said:
        options["bn_eps"] = float(said["bn_eps"])
    if options.items() == {k: KERAS.options[k] for k in ("pad_type", "bn_eps")}.items():
        options = KERAS.options  # the same weights as Keras' file: train them as Keras does
    mean = _channels(said["mean"]) if "mean" in said else standard.mean
    std = _channels(said["std"]) if "std" in said else standard.std
    found = {"source": name, "mean": mean, "std": std, "options": options}
    return PretrainedConfig.from_dict(found)


def read_trained_on(weights: str) -> Tensor | None:
    """The images that weights were trained on, as `BloodCells.trained_on`; None if not known.

    Args:
        weights: `imagenet`, `bundled`, `none` or a file.
    """
    if weights in (IMAGENET, NONE) or (path := _existing(weights)).suffix != ".safetensors":
        return None
    with safe_open(path, "pt") as file:
        return file.get_tensor(TRAINED_ON) if TRAINED_ON in file.keys() else None  # noqa: SIM118


def load_trunk(trunk: nn.Module, backbone: str, weights: str) -> None:
    """Loads pretrained weights into a trunk; `none` leaves it as it is.

    Args:
        trunk: as `bloodcell.model.network.create_trunk` builds it.
        backbone: its timm model name.
        weights: `imagenet`, `bundled`, `none` or a file.

    Raises:
        InputError: if they can't be had, or do not fit the trunk (and what differs).
    """
    if weights == NONE:
        return
    state = _from_hub(backbone) if weights == IMAGENET else _from_file(_existing(weights))
    wanted = {k: v for k, v in trunk.state_dict().items() if not k.endswith("num_batches_tracked")}
    # a file made with a classifier has one; the trunk has none
    given = {
        k: v for k, v in state.items() if k in wanted or not k.startswith(("classifier", "fc"))
    }
    given = {k: v for k, v in given.items() if not k.endswith("num_batches_tracked")}
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
            f"{listed(extra, 3)}. Name the backbone the weights were made for."
        )
    trunk.load_state_dict(given, strict=False)


def reach_hub(backbone: str) -> None:
    """Makes sure that timm's weights can be had, before its hub client tries for a minute.

    Args:
        backbone: timm model name.

    Raises:
        InputError: if there are none, or neither the cache nor the network has them.
    """
    config = _timm_config(backbone)
    if config is None or not (config.hf_hub_id or config.url):
        raise InputError(
            f"model.weights=imagenet: timm has no pretrained weights for model.backbone="
            f"'{backbone}'. {_WAYS_OUT}"
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


def _from_hub(backbone: str) -> State:
    reach_hub(backbone)
    try:
        model = timm.create_model(backbone, pretrained=True, num_classes=0, global_pool="")
    except Exception as error:  # the hub's client raises what its HTTP library does, and more
        raise InputError(_not_downloaded(backbone, error)) from error
    state: State = model.state_dict()
    return state


def _timm_config(backbone: str) -> Any:
    """What timm knows of a backbone's weights; None if it has no such model or no weights."""
    try:
        return timm.get_pretrained_cfg(backbone) if timm.is_model(backbone) else None
    except RuntimeError as error:  # `mobilenetv1_100.tag` with a tag it has not
        raise InputError(
            f"model.backbone='{backbone}': timm has the model but not this tag ({reason(error)}). "
            "Leave out what follows the dot."
        ) from error


def _not_downloaded(backbone: str, error: Exception) -> str:
    return (
        f"model.weights=imagenet: the weights of '{backbone}' could not be downloaded "
        f"({reason(error)}). {_WAYS_OUT}"
    )


def _from_file(path: Path) -> State:
    try:
        if path.suffix == ".h5":
            return _from_keras(path)
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
                own = KEY in (file.metadata() or {})
            return _trunk_of(state) if own else state
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip, HDF5 and safetensors each raise their own kinds
        raise InputError(_damaged(path, error)) from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(_damaged(path, "it holds no dictionary of tensors"))
    return {key.removeprefix("module."): value for key, value in state.items()}


_KERAS_NAMES = (  # Keras' layer, timm's module
    (r"conv1$", "conv_stem"),
    (r"conv1_bn$", "bn1"),
    (r"conv_dw_(\d+)$", "{block}.conv_dw"),
    (r"conv_dw_(\d+)_bn$", "{block}.bn1"),
    (r"conv_pw_(\d+)$", "{block}.conv_pw"),
    (r"conv_pw_(\d+)_bn$", "{block}.bn2"),
)
_KERAS_PARAMETERS = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_BLOCKS_IN_STAGE = (1, 2, 2, 6, 2)  # timm counts MobileNet's 13 blocks by stage, Keras from 1 on


def _from_keras(path: Path) -> State:
    """Reads `mobilenet_*_tf_no_top.h5`, Keras' legacy layout, under timm's names."""
    blocks = [f"blocks.{s}.{b}" for s, count in enumerate(_BLOCKS_IN_STAGE) for b in range(count)]
    state: dict[str, Tensor] = {}

    def take(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if not isinstance(item, h5py.Dataset):
            return
        layer, parameter = name.split("/")[0], name.split("/")[-1].removesuffix(":0")
        for pattern, module in _KERAS_NAMES:
            if found := re.match(pattern, layer):
                block = blocks[int(found[1]) - 1] if found.groups() else ""
                key = f"{module.format(block=block)}.{_KERAS_PARAMETERS.get(parameter, 'weight')}"
                value = torch.from_numpy(item[()])
                if value.ndim == 4:  # depthwise (h, w, channels, 1), else (h, w, in, out)
                    order = (2, 3, 0, 1) if "conv_dw" in key else (3, 2, 0, 1)
                    value = value.permute(order)
                state[key] = value.contiguous()

    with h5py.File(path) as file:
        file.visititems(take)
    return state


def _trunk_of(state: State) -> State:
    """The trunk of a model that bloodcell wrote, in 32 bits."""
    prefix = f"{NETWORK}trunk."
    return {k.removeprefix(prefix): v.float() for k, v in state.items() if k.startswith(prefix)}


def _describe(path: Path, metadata: Mapping[str, str]) -> PretrainedConfig:
    try:
        return PretrainedConfig.from_dict(Description.from_json(metadata[KEY]).recipe)
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(_damaged(path, error)) from error


def _shown(weights: str, path: Path) -> str:
    return BUNDLED if weights == BUNDLED else path.name


def _existing(weights: str) -> Path:
    if weights == BUNDLED:
        return find_bundled()
    path = Path(weights).expanduser()
    if not path.is_file():
        raise InputError(
            f"model.weights='{weights}' is no file, nor 'imagenet' or 'bundled'. {_WAYS_OUT}"
        )
    if path.suffix not in (".safetensors", ".pth", ".pt", ".bin", ".h5"):
        raise InputError(f"model.weights='{weights}' is of no known kind. {_WAYS_OUT}")
    return path


def _damaged(path: Path, error: object) -> str:
    return f"model.weights='{path}' cannot be read as weights ({reason(error)}). {_WAYS_OUT}"


def _channels(text: str) -> tuple[float, ...]:
    values = tuple(float(value) for value in re.split(r"[,\s]+", text.strip("[]() ")))
    return values * 3 if len(values) == 1 else values
