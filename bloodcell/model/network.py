"""The network: a timm trunk, then flatten or pooling, then dense layers.

The head is the published one, in Keras' terms: Flatten, then Dense(relu) and Dropout as often as
there are hidden layers, then Dense. Logits come out; the softmax lives in the loss.
"""

import difflib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

import timm
import torch
from torch import Tensor, nn

from bloodcell.errors import InputError, listed, reason
from bloodcell.model.cpu import spare_slow_kernels

Pool = Literal["flatten", "avg"]
_OPTIONS = {"pad_type", "bn_eps", "bn_momentum"}  # of timm.create_model that weights may demand


@dataclass(frozen=True)
class PretrainedConfig:
    """What a trunk's weights demand of the network they are loaded into.

    Attributes:
        source: where the weights came from: `imagenet`, `none` or a file's name.
        mean: per channel, of pixels in 0 to 1.
        std: per channel, of pixels in 0 to 1.
        options: arguments of `timm.create_model` without which the weights compute other features.
    """

    source: str = "none"
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    options: dict[str, str | float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain types only, for a checkpoint."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Reads what `as_dict` wrote, which may come from a stranger.

        Raises:
            ValueError: if it is none, or asks timm for more than these options.
        """
        mean, std = (tuple(float(one) for one in values[key]) for key in ("mean", "std"))
        options = dict(values["options"])
        if len(mean) != 3 or len(std) != 3 or not all(map(math.isfinite, mean + std)):
            raise ValueError(f"mean {mean} and std {std} are not three numbers each")
        if not all(one > 0 for one in std):
            raise ValueError(f"std {std} must be over 0")
        if others := options.keys() - _OPTIONS:  # timm's checkpoint_path would read any file
            raise ValueError(f"it asks for {listed(sorted(map(str, others)))}")
        return cls(str(values["source"]), mean, std, options)


class Network(nn.Module):
    """Pixels in, logits out.

    Args:
        backbone: any timm model name.
        n_classes: number of logits.
        image_size: side of the square images in pixels; decides the width of `flatten`.
        hidden: widths of the dense layers before the last; empty for a plain linear head.
        dropout: probability after each hidden layer, or before the only one if there is none.
        pool: `flatten` keeps every position of the trunk's map, `avg` averages them.
        config: preprocessing and options that belong to the weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: str,
        n_classes: int,
        image_size: int,
        hidden: Sequence[int],
        dropout: float,
        pool: Pool,
        config: PretrainedConfig,
    ) -> None:
        super().__init__()
        self.trunk = create_trunk(backbone, config)
        spare_slow_kernels(self.trunk)
        self.pool = nn.AdaptiveAvgPool2d(1) if pool == "avg" else nn.Identity()
        shape = _map_shape(self.trunk, image_size)
        # some transformers give maps (B, H, W, C)
        self.gives_nhwc = shape[1] == shape[2] != shape[3]
        channels = shape[3] if self.gives_nhwc else shape[1]
        n_inputs = channels if pool == "avg" else shape.numel()
        self.head = make_head(n_inputs, hidden, n_classes, dropout)
        # not saved with the weights: the checkpoint holds the config they come from
        scale = torch.tensor([config.mean, config.std])[:, None, :, None, None] * 255
        self.register_buffer("mean", scale[0], persistent=False)
        self.register_buffer("std", scale[1], persistent=False)
        self.to(memory_format=torch.channels_last)  # as the batches are

    def forward(self, images: Tensor) -> Tensor:
        """Classifies a batch.

        Args:
            images: (B, 3, H, W), 0 to 255, of any type.

        Returns:
            (B, n_classes) logits.
        """
        return self.classify(self.maps(images))

    def maps(self, images: Tensor) -> Tensor:
        """What the trunk sees, (B, C, h, w), in images (B, 3, H, W), 0 to 255."""
        x = self.trunk((images - self.mean) / self.std)
        # some transformers have (B, h, w, C)
        return x.permute(0, 3, 1, 2) if self.gives_nhwc else x  # type: ignore[no-any-return]

    def classify(self, maps: Tensor) -> Tensor:
        """Maps (B, C, h, w) of the trunk to logits (B, n_classes)."""
        return self.head(self.pool(maps).flatten(1))  # type: ignore[no-any-return]


def create_trunk(backbone: str, config: PretrainedConfig) -> nn.Module:
    """Builds a timm model without its classifier, with random weights.

    Args:
        backbone: any timm model name.
        config: its options are passed on.

    Returns:
        A module that maps (B, 3, H, W) to (B, C, h, w) or (B, h, w, C).

    Raises:
        InputError: if timm knows no such model, or it has not the config's options.
    """
    if not timm.is_model(backbone):
        known = timm.list_models()
        near = difflib.get_close_matches(backbone, known, n=5) or timm.list_models("mobilenet*")
        raise InputError(
            f"model.backbone='{backbone}' is no timm model. "
            f"Some it has: {listed(near)}; all of them: timm.list_models()."
        )
    options: dict[str, Any] = {"num_classes": 0, "global_pool": "", **config.options}
    try:
        return timm.create_model(backbone, **options)
    except (RuntimeError, TypeError) as error:  # an unknown tag or option
        raise InputError(
            f"model.backbone='{backbone}' cannot be built as model.weights='{config.source}' "
            f"demands, with {config.options} ({reason(error)}). Name the backbone the weights were "
            "made for."
        ) from error


def make_head(n_inputs: int, hidden: Sequence[int], n_classes: int, dropout: float) -> nn.Module:
    """Builds the dense layers.

    Args:
        n_inputs: width of the flattened features.
        hidden: widths of the hidden layers, each followed by ReLU and dropout.
        n_classes: number of logits.
        dropout: probability, 0 to 1.

    Returns:
        A module that maps (B, n_inputs) to (B, n_classes).
    """
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(n_inputs, width), nn.ReLU(), nn.Dropout(dropout)]
        n_inputs = width
    if not hidden:
        layers.append(nn.Dropout(dropout))
    layers.append(nn.Linear(n_inputs, n_classes))
    for layer in layers:
        if isinstance(layer, nn.Linear):  # as Keras starts its Dense layers
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


@torch.no_grad()
def _map_shape(trunk: nn.Module, image_size: int) -> torch.Size:
    """Shape of the trunk's map of one image, found by running it once."""
    training = trunk.training
    try:
        shape: torch.Size = trunk.eval()(torch.zeros(1, 3, image_size, image_size)).shape
    except (AssertionError, RuntimeError) as error:
        raise InputError(
            f"data.image_size={image_size} does not suit model.backbone ({reason(error)}). Use the "
            "size it was made for, often 224, or another backbone."
        ) from error
    trunk.train(training)
    if len(shape) != 4:
        raise InputError(
            f"model.backbone gives features of shape {tuple(shape)}, not a map (B, C, h, w). "
            "Use a convolutional model, e.g. one of timm.list_models('mobilenet*')."
        )
    return shape
