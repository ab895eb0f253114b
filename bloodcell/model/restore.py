"""Builds the network of a trained model from its description and its weights."""

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from bloodcell.errors import InputError, listed, reason
from bloodcell.model.checkpoint import network_state
from bloodcell.model.description import NETWORK, Description
from bloodcell.model.network import Network, PretrainedConfig


def build_network(
    flag: str, path: Path, description: Description, state: Mapping[str, Tensor]
) -> Network:
    """Builds the network of a trained model.

    Args:
        flag: option that names the file, for error messages.
        path: the file or its run folder, for error messages.
        description: the model without its weights, checked.
        state: its weights; keys that do not begin with `network.` are ignored.

    Returns:
        The network in evaluation mode, on the CPU, in float32, with frozen weights.

    Raises:
        InputError: if the weights are not those of the described network.
    """
    heads = [key for key in state if re.fullmatch(rf"{NETWORK}head\.\d+\.weight", key)]
    widths = [len(state[key]) for key in sorted(heads, key=lambda key: int(key.split(".")[-2]))]
    if widths != [*description.hidden, len(description.class_names)]:  # before memory is allocated
        raise InputError(f"{flag} {path}: weights and description differ (dense layers {widths}).")
    network = Network(
        description.backbone,
        len(description.class_names),
        description.image_size,
        description.hidden,
        0.0,  # dropout is not used in evaluation
        "avg" if description.pool == "avg" else "flatten",
        PretrainedConfig.from_dict(description.recipe),
    )
    given = {
        key: value.float() if value.is_floating_point() else value
        for key, value in network_state(state).items()
    }
    try:
        missing, extra = network.load_state_dict(given, strict=False)
    except RuntimeError as error:
        raise InputError(
            f"{flag} {path}: weights and description differ ({reason(error)})."
        ) from error
    wrong = [key for key in missing if not key.endswith("num_batches_tracked")] + extra
    if wrong:
        raise InputError(f"{flag} {path}: weights and description differ: {listed(wrong, 3)}.")
    return network.eval().requires_grad_(False)
