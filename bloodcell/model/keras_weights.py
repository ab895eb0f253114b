"""Reads the weights of Keras' MobileNet under timm's names."""

import re
from pathlib import Path

import h5py
import torch
from torch import Tensor

_NAMES = (  # pattern of Keras' layer, timm's module
    (r"conv1$", "conv_stem"),
    (r"conv1_bn$", "bn1"),
    (r"conv_dw_(\d+)$", "{block}.conv_dw"),
    (r"conv_dw_(\d+)_bn$", "{block}.bn1"),
    (r"conv_pw_(\d+)$", "{block}.conv_pw"),
    (r"conv_pw_(\d+)_bn$", "{block}.bn2"),
)
_PARAMETERS = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_BLOCKS_IN_STAGE = (1, 2, 2, 6, 2)  # timm numbers the 13 blocks within stages, Keras from 1


def read_keras(path: Path) -> dict[str, Tensor]:
    """Returns the weights of a file in Keras' legacy format.

    Args:
        path: `mobilenet_*_tf_no_top.h5`.

    Returns:
        The tensors in PyTorch's order of dimensions, by timm's names.

    Raises:
        OSError: if the file is not HDF5; invalid content may raise other exceptions.
    """
    blocks = [f"blocks.{s}.{b}" for s, count in enumerate(_BLOCKS_IN_STAGE) for b in range(count)]
    state: dict[str, Tensor] = {}

    def take(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if not isinstance(item, h5py.Dataset):
            return
        layer, parameter = name.split("/")[0], name.split("/")[-1].removesuffix(":0")
        for pattern, module in _NAMES:
            if found := re.match(pattern, layer):
                block = blocks[int(found[1]) - 1] if found.groups() else ""
                key = f"{module.format(block=block)}.{_PARAMETERS.get(parameter, 'weight')}"
                value = torch.from_numpy(item[()])
                if value.ndim == 4:  # depthwise (h, w, channels, 1), else (h, w, in, out)
                    order = (2, 3, 0, 1) if "conv_dw" in key else (3, 2, 0, 1)
                    value = value.permute(order)
                state[key] = value.contiguous()

    with h5py.File(path) as file:
        file.visititems(take)
    return state
