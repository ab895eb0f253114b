"""Writes a trained model as a Hugging Face Hub folder, which timm can load."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torch import nn

from bloodcell.data.crop import InputFormat, Pixels, show
from bloodcell.errors import InputError
from bloodcell.evaluate.card import make_card
from bloodcell.infer.runtime import Classified, Predictor
from bloodcell.infer.saved import Saved

WEIGHTS = "model.safetensors"
_OTHER_FORMATS = "Give --out a file that ends in .onnx, .pt2 or .safetensors"
_USAGE = """\
```python
import timm
from PIL import Image
{imports}
model = timm.create_model("local-dir:{folder}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
image = Image.open("cell.jpeg").convert("RGB")
{crop}probability = model(transform(image)[None]).softmax(1)[0]
print(dict(zip(model.pretrained_cfg["label_names"], probability.tolist())))
```

On the Hugging Face Hub, use `hf-hub:OWNER/NAME` instead of `local-dir:{folder}`.{note}"""
_IMPORTS = "\nfrom bloodcell.data.crop import InputFormat, show\n"
_CROP = """\
input_format = InputFormat({size}, "cell", {field!r})
image = Image.fromarray(show(image, input_format))  # crops the cell
"""
_CELL_NOTE = """

**timm does not crop the cell.** Without the line that does, predictions for whole photographs are
wrong. The image-classification pipeline of transformers does not crop the cell either."""


class HubModel:
    """An exported folder, loaded by timm with timm's preprocessing.

    Args:
        folder: folder written by `write_hub_folder`.
        input_format: with `crop: cell`, bloodcell crops the cell before timm's preprocessing.
    """

    def __init__(self, folder: Path, input_format: InputFormat) -> None:
        self._model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        data: Any = timm.data  # timm has no type hints
        self._transform = data.create_transform(**data.resolve_model_data_config(self._model))
        self._input_format = input_format

    def classify(self, pixels: Pixels) -> Classified:
        """Classifies images (B, H, W, 3); timm has no gallery, so the distances are NaN."""
        if self._input_format.crop == "cell":
            pixels = _show_all(pixels, self._input_format)
        with torch.inference_mode():
            batch = torch.stack([self._transform(Image.fromarray(image)) for image in pixels])
            return Classified.alone(self._model(batch).softmax(1).numpy())


class ResizingModel:
    """A model for images of any size, which Pillow resizes as in `predict`.

    Args:
        model: model for images of the input format.
        input_format: crop and size of the model's input.
    """

    def __init__(self, model: Predictor, input_format: InputFormat) -> None:
        self._model = model
        self._input_format = input_format

    def classify(self, pixels: Pixels) -> Classified:
        """Classifies images (B, H, W, 3)."""
        return self._model.classify(_show_all(pixels, self._input_format))


def _show_all(pixels: Pixels, input_format: InputFormat) -> Pixels:
    return np.stack([show(Image.fromarray(image), input_format) for image in pixels])


@contextmanager
def folder_beside(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder, and moves its files to `folder` if no error occurs.

    Args:
        folder: created if missing; files with the same names are replaced.
    """
    place = folder.absolute()
    with TemporaryDirectory(prefix=f"{place.name}.partial", dir=place.parent) as partial:
        yield Path(partial)
        place.mkdir(exist_ok=True)
        for file in Path(partial).iterdir():
            file.replace(place / file.name)


def write_hub_folder(saved: Saved, folder: Path, name: str) -> None:
    """Writes `config.json`, `model.safetensors` and `README.md`.

    Args:
        saved: the model.
        folder: existing, empty folder.
        name: folder name in the instructions of the model card.

    Raises:
        InputError: if timm has no model with the same head.
    """
    description = saved.description
    size, cell = description.image_size, description.crop == "cell"
    model = _as_timm_model(saved)
    model.pretrained_cfg.update(
        input_size=(3, size, size),
        interpolation="bilinear",
        crop_mode="squash",
        crop_pct=1.0,
        mean=tuple(description.recipe["mean"]),
        std=tuple(description.recipe["std"]),
        license="apache-2.0",
        **dict.fromkeys(("test_input_size", "test_crop_pct", "pool_size", "tag", "paper_ids")),
    )
    timm.models.save_for_hf(
        model,
        str(folder),
        model_config={"label_names": description.class_names},
        safe_serialization=True,
    )
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    # timm adds num_classes, which transformers would pass to create_model twice
    config["model_args"] = description.recipe["options"]
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    usage = _USAGE.format(
        folder=name,
        imports=_IMPORTS if cell else "",
        crop=_CROP.format(size=size, field=description.field) if cell else "",
        note=_CELL_NOTE if cell else "",
    )
    card = make_card(description, folder / WEIGHTS, usage=usage)
    (folder / "README.md").write_text(f"{card}\n", encoding="utf-8")


def _as_timm_model(saved: Saved) -> Any:
    """Builds timm's model with the same weights and the temperature folded into its classifier.

    Raises:
        InputError: if the head is not a linear layer on averaged features, as in timm.
    """
    description = saved.description
    *_, last = saved.network.head.children()
    balanced = saved.network.white_balance
    if description.pool != "avg" or description.hidden or balanced:
        raise InputError(
            "--out: a folder for timm needs a model with model.pool=avg, no hidden layers and "
            f"model.white_balance=false; this one has model.pool={description.pool}, "
            f"model.hidden={description.hidden}, model.white_balance={balanced}. "
            f"{_OTHER_FORMATS}."
        )
    options: dict[str, Any] = dict(description.recipe["options"])
    options["num_classes"] = len(description.class_names)
    model: Any = timm.create_model(description.backbone, **options)
    classifier = model.get_classifier()
    missing, extra = model.load_state_dict(saved.network.trunk.state_dict(), strict=False)
    own = set(map(id, classifier.parameters()))
    names = {name for name, value in model.named_parameters() if id(value) in own}
    if (
        extra
        or set(missing) != names
        or not isinstance(classifier, nn.Linear)
        or classifier.weight.shape != last.weight.shape
    ):
        raise InputError(
            f"--out: timm's own {description.backbone} has different layers. {_OTHER_FORMATS}."
        )
    divisor = description.temperature or 1.0
    classifier.load_state_dict({k: value / divisor for k, value in last.state_dict().items()})
    return model.eval()
