"""The description of a trained model: what inference needs besides the weights."""

import dataclasses
import json
import math
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self, get_args

from bloodcell.data.crop import AUTO, Crop, Field, InputFormat
from bloodcell.data.decode import IMAGE_SIZES

# keys of a checkpoint
RECIPE, TEMPERATURE, GALLERY, TRAINED_ON = "recipe", "temperature", "gallery", "trained_on"
KEY = "bloodcell"  # key of the description, as JSON, in the metadata of a file
NETWORK = "network."  # prefix of the network's keys in state dicts
_MOST = 65_536  # largest number of classes and largest width of a dense layer
_TRAINING = (  # training settings to store
    *(
        ("model", key)
        for key in ("dropout", "freeze", "lr", "schedule", "weight_decay", "smoothing")
    ),
    *(("data", key) for key in ("batch_size", "augment", "margin", "split_seed", "seed")),
)


@dataclass(frozen=True)
class Description:
    """A trained model without its weights.

    Attributes:
        class_names: the classes, in the order of the outputs.
        image_size: side of the square input in pixels.
        backbone: timm's name of the trunk.
        hidden: widths of the hidden dense layers.
        pool: `flatten` or `avg`.
        recipe: preprocessing and options of the trunk, as `PretrainedConfig.as_dict` returns them.
        temperature: divisor of the logits before the softmax; None if it was not fitted.
        name: name of the run.
        scores: content of the run's `scores.json`; empty if there is none.
        training: training settings, by their command-line keys.
        crop: part of the picture that the network receives: `none` (all of it) or `cell`.
        field: field of view of the pictures relative to the Kaggle set's, or `auto`.
    """

    class_names: list[str]
    image_size: int
    backbone: str
    hidden: list[int]
    pool: str
    recipe: dict[str, Any]
    temperature: float | None = None
    name: str = ""
    scores: dict[str, Any] = dataclasses.field(default_factory=dict)
    training: dict[str, Any] = dataclasses.field(default_factory=dict)
    crop: Crop = "none"
    field: Field = 1.0

    @property
    def input_format(self) -> InputFormat:
        """The format of the network's input."""
        return InputFormat(self.image_size, self.crop, self.field)

    def as_json(self) -> str:
        """Returns the description as JSON, for the metadata of a file."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Returns the description from the output of `as_json`.

        Raises:
            ValueError: if the text is not a description, or a value is invalid.
        """
        try:
            values = json.loads(text)
        except RecursionError as error:
            raise ValueError("the description is nested too deeply") from error
        if not isinstance(values, dict):
            raise ValueError("the description is not a JSON object")
        known = {one.name for one in fields(cls)}
        try:
            description = cls(**{key: value for key, value in values.items() if key in known})
        except TypeError as error:
            raise ValueError(f"the description is incomplete ({error})") from error
        description.check()
        return description

    def check(self) -> None:
        """Checks that a model can be built from an untrusted description.

        Raises:
            ValueError: if a value is invalid; the message names it.
        """
        names, widths, size = self.class_names, self.hidden, self.image_size
        for what, holds in {
            "class_names": _is_list_of(names, str) and 2 <= len(set(names)) == len(names) <= _MOST,
            "hidden": _is_list_of(widths, int) and all(0 < width <= _MOST for width in widths),
            "image_size": isinstance(size, int) and size in IMAGE_SIZES,
            "backbone": isinstance(self.backbone, str),
            "recipe": isinstance(self.recipe, dict),
            "pool": self.pool in ("flatten", "avg"),
            "name": isinstance(self.name, str),
            "temperature": self.temperature is None or _is_positive(self.temperature),
            "scores": isinstance(self.scores, dict),
            "training": isinstance(self.training, dict),
            "crop": self.crop in get_args(Crop),
            "field": self.field == AUTO or _is_positive(self.field),
        }.items():
            if not holds:
                value = reprlib.repr(getattr(self, what))
                raise ValueError(f"its {what} cannot be used: {value}")

    @classmethod
    def from_checkpoint(cls, checkpoint: Mapping[str, Any], name: str, scores: Any) -> Self:
        """Returns the description of the model in a checkpoint.

        Args:
            checkpoint: as `read_checkpoint` returns it.
            name: name of the run.
            scores: content of the run's `scores.json`.

        Raises:
            ValueError: if no model can be built from the description.
        """
        made = checkpoint["hyper_parameters"]
        # missing if it was trained on other loaders than those of BloodCells
        groups = {"model": made, "data": checkpoint.get("datamodule_hyper_parameters", {})}
        training = {
            f"{group}.{key}": groups[group][key] for group, key in _TRAINING if key in groups[group]
        }
        if taught := made.get("teachers"):  # their paths mean nothing elsewhere
            training["model.teachers"] = len(taught)
        description = cls(
            list(made["class_names"]),
            made["image_size"],
            made["backbone"],
            list(made["hidden"]),
            made["pool"],
            checkpoint[RECIPE],
            checkpoint.get(TEMPERATURE),
            name,
            scores,
            training,
            groups["data"].get("crop", "none"),  # the oldest checkpoints lack it
            groups["data"].get("field", 1.0),
        )
        description.check()
        return description


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(type(one) is kind for one in value)


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value < math.inf
