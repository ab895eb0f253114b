"""The network: a timm trunk, then flatten or pooling, then dense layers.

The head reproduces the published Keras head: Flatten, then Dense(relu) and Dropout for each hidden
layer, then Dense. The network returns logits; the loss includes the softmax.
"""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

import timm
import torch
from torch import Tensor, nn

from bloodcell.data.illumination import balance_white
from bloodcell.errors import InputError, listed, reason, require
from bloodcell.model.cpu import multiply_pointwise, spare_slow_kernels
from bloodcell.model.mirror import Mirror
from bloodcell.model.norm import fuse_norms

Pool = Literal["flatten", "avg"]
BACKBONE = "mobilenetv1_100"  # the default
# arguments of timm.create_model that weights may require
_OPTIONS = {"pad_type", "bn_eps", "bn_momentum"}


@dataclass(frozen=True)
class PretrainedConfig:
    """Preprocessing and timm options that a trunk's weights require.

    Attributes:
        source: origin of the weights: `imagenet`, `none` or a file name.
        mean: mean of each channel, for pixels in 0 to 1.
        std: standard deviation of each channel, for pixels in 0 to 1.
        options: arguments of `timm.create_model` that the weights require.
        white_balance: whether each image is divided by the colour of its clear slide first.
    """

    source: str = "none"
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    options: dict[str, str | float] = field(default_factory=dict)
    white_balance: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields as plain types, for checkpoints."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Returns the config from the output of `as_dict`, which may be untrusted.

        Raises:
            ValueError: if a value is invalid, or an option is not allowed.
        """
        mean, std = (tuple(float(one) for one in values[key]) for key in ("mean", "std"))
        options = dict(values["options"])
        if len(mean) != 3 or len(std) != 3 or not all(map(math.isfinite, mean + std)):
            raise ValueError(f"mean {mean} and std {std} are not three numbers each")
        if not all(one > 0 for one in std):
            raise ValueError(f"std {std} must be over 0")
        if others := options.keys() - _OPTIONS:  # checkpoint_path could read any file
            raise ValueError(f"these options are not allowed: {listed(sorted(map(str, others)))}")
        white_balance = values.get("white_balance", False)  # older files lack it
        return cls(str(values["source"]), mean, std, options, bool(white_balance))


class Network(nn.Module):
    """Maps pixels to logits.

    Args:
        backbone: name of any timm model.
        n_classes: number of logits.
        image_size: side of the square images in pixels; determines the width of `flatten`.
        hidden: widths of the hidden dense layers; empty for a linear head.
        dropout: dropout probability after each hidden layer, or before the last layer if there
            are no hidden layers.
        pool: `flatten` keeps all positions of the trunk's feature map; `avg` averages them or, for
            a trunk without a feature map, uses timm's pooling of that model.
        config: preprocessing and options that the weights require.

    Attributes:
        white_balance: whether images are divided by the colour of their clear slide.
        has_map: whether the trunk returns a feature map; transformers that return tokens do not.
        mirror: lets the trunk pad without copies, in training and, if it `stays`, in evaluation.

    Raises:
        InputError: if timm cannot build the trunk, or the trunk does not accept this image size or
            has no feature map to flatten.
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
        self.trunk, shape = _fit_trunk(backbone, config, image_size, pool)
        self.mirror = Mirror(self.trunk)
        spare_slow_kernels(self.trunk)
        multiply_pointwise(self.trunk)
        fuse_norms(self.trunk)
        self.pool = nn.AdaptiveAvgPool2d(1) if pool == "avg" else nn.Identity()
        self.has_map = len(shape) == 4
        # some transformers return maps (B, h, w, C)
        self.gives_nhwc = self.has_map and shape[1] == shape[2] != shape[3]
        channels = shape[3] if self.gives_nhwc else shape[1]
        n_inputs = channels if pool == "avg" else shape.numel()
        self.white_balance = config.white_balance
        self.head = make_head(n_inputs, hidden, n_classes, dropout)
        # not in the state dict, because the checkpoint contains the config
        scale = torch.tensor([config.mean, config.std])[:, None, :, None, None] * 255
        self.register_buffer("mean", scale[0], persistent=False)
        self.register_buffer("std", scale[1], persistent=False)
        self.to(memory_format=torch.channels_last)  # like the batches

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits (B, n_classes) of a batch.

        Args:
            images: (B, 3, H, W), 0 to 255, of any dtype.
        """
        return self.classify(self.maps(images))

    def train(self, mode: bool = True) -> Self:
        """Switches to training, or to evaluation, in which the trunk can be used by itself."""
        self.mirror.switch(mode)
        return super().train(mode)

    def maps(self, images: Tensor) -> Tensor:
        """Returns the trunk's features of a batch.

        Args:
            images: (B, 3, H, W), 0 to 255, of any dtype.

        Returns:
            (B, C, h, w); h and w are 1 if the trunk has no feature map.
        """
        # by default, evaluation is exactly timm's; Lightning sets `training` without `train`
        self.mirror.switch(self.training)
        pixels = self.mirror.flip(balance_white(images) if self.white_balance else images)
        scaled = ((pixels - self.mean) / self.std).to(self.mean.dtype)
        features: Tensor = self.mirror.flip(self.trunk(scaled))
        if not self.has_map:
            return features[:, :, None, None]
        return features.permute(0, 3, 1, 2) if self.gives_nhwc else features

    def classify(self, maps: Tensor) -> Tensor:
        """Returns the logits (B, n_classes) of features (B, C, h, w) from `maps`."""
        logits: Tensor = self.head(self.pool(maps).flatten(1))
        return logits


def describe(network: nn.Module, settings: Mapping[str, Any], source: str) -> str:
    """Returns a description of a network in one line.

    Args:
        network: the network.
        settings: `backbone`, `pool`, `hidden` and `dropout`.
        source: origin of its first weights.
    """
    sizes = [(p.numel(), p.requires_grad) for p in network.parameters()]
    return (
        f"{settings['backbone']} with weights={source}, {settings['pool']}, "
        f"dense {settings['hidden']}, dropout {settings['dropout']}: "
        f"{sum(n for n, _ in sizes):,} parameters, "
        f"{sum(n for n, trained in sizes if trained):,} trained"
    )


def create_trunk(backbone: str, config: PretrainedConfig, pooled: bool = False) -> nn.Module:
    """Builds a timm model without its classifier, with random weights.

    Args:
        backbone: name of any timm model.
        config: its options are passed to timm.
        pooled: whether to keep timm's pooling, so that the trunk returns the output of timm's
            `forward_head(..., pre_logits=True)`.

    Returns:
        A module that maps (B, 3, H, W) to (B, C, h, w), (B, h, w, C) or tokens (B, n, C), or to
        (B, C) if `pooled` or if the model always pools.

    Raises:
        InputError: if timm has no such model, or the model does not accept the config's options.
    """
    if not timm.is_model(backbone):
        near = difflib.get_close_matches(backbone, timm.list_models(), n=5)
        others = [f"{BACKBONE} (the default)", *(name for name in near if name != BACKBONE)]
        raise InputError(
            f"model.backbone='{backbone}' is not a timm model. "
            f"Use, for example, {listed(others)}; timm.list_models() lists all."
        )
    options: dict[str, Any] = {"num_classes": 0, **config.options}
    if not pooled:
        options["global_pool"] = ""
    try:
        return timm.create_model(backbone, **options)
    except (RuntimeError, TypeError, AssertionError) as error:  # unknown tag or option
        if isinstance(error, AssertionError) and not pooled:  # the model always pools
            return create_trunk(backbone, config, pooled=True)
        raise InputError(
            f"model.backbone='{backbone}' cannot be built with the options that model.weights="
            f"'{config.source}' requires, {config.options} ({reason(error)}). Give the backbone of "
            "the weights."
        ) from error


def build_network(settings: Mapping[str, Any], config: PretrainedConfig) -> Network:
    """Builds the network of a `Classifier`.

    Args:
        settings: the classifier's hyperparameters.
        config: preprocessing and options that belong to the trunk's weights.
    """
    network = Network(
        settings["backbone"],
        len(settings["class_names"]),
        settings["image_size"],
        settings["hidden"],
        settings["dropout"],
        settings["pool"],
        config,
    )
    if (momentum := settings["bn_momentum"]) is not None:
        for norm in (one for one in network.modules() if isinstance(one, nn.BatchNorm2d)):
            norm.momentum = momentum
    return network


def make_head(n_inputs: int, hidden: Sequence[int], n_classes: int, dropout: float) -> nn.Module:
    """Builds the dense layers of the head.

    Args:
        n_inputs: width of the flattened features.
        hidden: widths of the hidden layers, each followed by ReLU and dropout.
        n_classes: number of logits.
        dropout: dropout probability, 0 to 1.

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
        if isinstance(layer, nn.Linear):  # Keras' default for Dense layers
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def _fit_trunk(
    backbone: str, config: PretrainedConfig, image_size: int, pool: Pool
) -> tuple[nn.Module, torch.Size]:
    """Builds a trunk that returns a feature map or, failing that, features pooled by timm.

    Returns:
        The trunk, and the shape of its features for one image.
    """
    trunk = create_trunk(backbone, config)
    shape = _feature_shape(trunk, image_size)
    if len(shape) == 4:
        return trunk, shape
    rule = f"avg, because model.backbone={backbone} has no feature map to flatten"
    require(pool == "avg", "model.pool", pool, rule)
    trunk = create_trunk(backbone, config, pooled=True)
    shape = _feature_shape(trunk, image_size)
    rule = f"a model with features (B, C) or a feature map, not of shape {tuple(shape)}"
    require(len(shape) == 2, "model.backbone", backbone, rule)
    return trunk, shape


@torch.no_grad()
def _feature_shape(trunk: nn.Module, image_size: int) -> torch.Size:
    """Runs the trunk on one image, because timm does not report the shape for an image size."""
    training = trunk.training
    try:
        shape: torch.Size = trunk.eval()(torch.zeros(1, 3, image_size, image_size)).shape
    except (AssertionError, RuntimeError) as error:
        raise InputError(
            f"data.image_size={image_size} does not fit model.backbone ({reason(error)}). Use the "
            "size that it requires, often 224, or another backbone."
        ) from error
    trunk.train(training)
    return shape
