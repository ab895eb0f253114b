"""A folder that timm loads by itself, without bloodcell."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import ModelCard
from PIL import Image

import bloodcell
from bloodcell.cli.main import main
from bloodcell.data.crop import Crop, InputFormat, show
from bloodcell.datasets.drawn import CLASS_NAMES
from bloodcell.infer.saved import Saved, load_saved, write_saved
from bloodcell.model.description import Description
from bloodcell.model.network import Network, Pool, PretrainedConfig

Refused = Callable[..., str]
TINY = "test_efficientnet"
# as Keras pads and normalises: timm's own defaults give other features
OPTIONS: dict[str, str | float] = {"pad_type": "same", "bn_eps": 1e-3}
KERAS = PretrainedConfig("k", (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), OPTIONS)


def write_model(
    path: str, hidden: tuple[int, ...] = (), pool: Pool = "avg", crop: Crop = "none",
    backbone: str = TINY,
) -> str:  # fmt: skip
    """A network with random weights that is not equally unsure of all classes."""
    network = Network(backbone, 4, 48, hidden, 0.0, pool, KERAS).eval()
    last = list(network.head.children())[-1]
    assert isinstance(last, torch.nn.Linear)
    torch.nn.init.normal_(last.weight, std=0.3)
    torch.nn.init.normal_(last.bias)
    for name, value in network.trunk.named_buffers():
        if name.endswith("running_var"):
            value.mul_(0.5)
    described = Description(
        list(CLASS_NAMES), 48, backbone, list(hidden), pool, KERAS.as_dict(), 0.7, "m", crop=crop
    )
    write_saved(Saved(described, network, None), Path(path))
    return path


def ask_timm(folder: str, images: list[Image.Image]) -> Any:
    """What somebody who has only timm does."""
    data: Any = timm.data
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = data.create_transform(**data.resolve_model_data_config(model))
    with torch.inference_mode():
        return model(torch.stack([transform(image) for image in images])).softmax(1).numpy()


def open_images(folder: Path) -> list[Image.Image]:
    paths = sorted(folder.glob("*/*.jpeg"))
    return [Image.open(path).convert("RGB") for path in paths]


def exact_answers(model: str, images: list[Image.Image]) -> Any:
    """What the network itself computes in 64 bits."""
    saved = load_saved(Path(model))
    decoded = [np.asarray(show(image, saved.description.input_format)) for image in images]
    pixels = torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).double()
    with torch.inference_mode():
        logits = saved.network.double()(pixels)
    return (logits / saved.description.temperature).softmax(1).numpy()


def test_timm_alone_gives_the_same_probabilities(
    smears: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, model = smears / "images" / "TEST", write_model("m.safetensors")
    main(["export", str(folder), "--model", model, "--out", "hub/"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[2] for row in rows if row and row[0] == "hub"] == ["100.00%"]
    assert sorted(path.name for path in Path("hub").iterdir()) == [
        "README.md", "config.json", "model.safetensors",
    ]  # fmt: skip
    images = open_images(folder)
    expected = bloodcell.load(model).predict([np.asarray(image) for image in images])
    assert np.ptp(expected.probability, axis=0).max() > 0.05, "they differ from image to image"
    for found in (ask_timm("hub", images), expected.probability):
        np.testing.assert_allclose(found, exact_answers(model, images), rtol=0, atol=1e-5)
    assert sorted(path.name for path in Path().iterdir()) == ["hub", "m.safetensors"]


def test_what_the_folder_says(smears: Path) -> None:
    folder = str(smears / "images" / "TEST" / "MONOCYTE")
    model = write_model("m.safetensors")
    main(["export", folder, "--model", model, "--out", "hub"])
    main(["export", folder, "--model", model, "--out", "hub"])  # once more, in its place
    config = json.loads(Path("hub/config.json").read_text())
    assert config["architecture"] == TINY
    assert config["num_classes"] == 4
    assert config["num_features"] == timm.create_model(TINY).num_features
    assert config["label_names"] == list(CLASS_NAMES)
    assert config["model_args"] == OPTIONS  # num_classes would be given twice by transformers
    preprocessing = config["pretrained_cfg"]
    assert preprocessing["input_size"] == [3, 48, 48]
    assert preprocessing["mean"] == [0.4, 0.5, 0.6]
    assert preprocessing["std"] == [0.2, 0.3, 0.4]
    assert (preprocessing["interpolation"], preprocessing["crop_pct"]) == ("bilinear", 1.0)
    assert preprocessing["crop_mode"] == "squash"
    card = ModelCard.load("hub/README.md")
    assert 'timm.create_model("local-dir:hub", pretrained=True)' in card.text
    assert "SHA-256 of `model.safetensors`" in card.text
    assert "does not cut the cell out" not in card.text


def test_a_model_of_single_cells_is_given_squares(
    smears: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, model = (
        smears / "images" / "TEST" / "MONOCYTE",
        write_model("m.safetensors", crop="cell"),
    )
    main(["export", str(folder), "--model", model, "--out", "hub/"])
    said = capsys.readouterr().out
    assert "hub: timm does not crop the cell." in " ".join(said.split())
    images = open_images(folder.parent)[:6]
    squares = [Image.fromarray(show(image, InputFormat(48, "cell"))) for image in images]
    expected = bloodcell.load(model).predict([np.asarray(image) for image in images])
    np.testing.assert_allclose(ask_timm("hub", squares), expected.probability, atol=1e-5)
    card = Path("hub/README.md").read_text()
    assert "**timm does not crop the cell.**" in card
    code = card.split("```python\n")[1].split("```")[0]
    images[0].save("cell.jpeg")
    exec(compile(code, "README.md", "exec"), {})
    first = float(capsys.readouterr().out.split(": ")[1].split(",")[0])
    alone = bloodcell.load(model).predict("cell.jpeg").probability[0, 0]
    assert first == pytest.approx(alone, abs=1e-5)


def test_heads_that_timm_has_not_are_refused(smears: Path, refused: Refused) -> None:
    words = ("export", str(smears / "images" / "TEST" / "MONOCYTE"), "--out", "hub/", "--model")
    heads: list[tuple[tuple[int, ...], Pool]] = [((), "flatten"), ((8,), "avg")]
    for hidden, pool in heads:
        said = refused(*words, write_model("m.safetensors", hidden, pool))
        assert f"this one has model.pool={pool}, model.hidden={list(hidden)}, model.white" in said
        assert "Give --out a file that ends in .onnx, .pt2 or .safetensors" in said
    assert sorted(path.name for path in Path().iterdir()) == ["m.safetensors"]


def test_a_trunk_that_timm_pools_elsewhere_is_refused(smears: Path, refused: Refused) -> None:
    """Its last convolution follows the pooling in timm, and precedes it here."""
    model = write_model("m.safetensors", backbone="mobilenetv3_small_050")
    said = refused("export", str(smears / "images"), "--out", "hub/", "--model", model)
    assert "timm's model differs from this one. Give --out an .onnx file" in said
    assert not Path("hub").exists()


def test_folders_that_cannot_be_written(smears: Path, refused: Refused) -> None:
    model = ("--model", write_model("m.safetensors"))
    Path("full").mkdir()
    Path("full/pytorch_model.bin").touch()
    images = str(smears / "images" / "TEST" / "MONOCYTE")
    said = refused("export", images, *model, "--out", "full")
    assert "--out=full cannot be used: it must be empty, new or from an" in said
    assert "it contains pytorch_model.bin" in said
    Path("taken").touch()
    said = refused("export", images, *model, "--out", "taken")
    assert "--out=taken cannot be used: it must be a folder, or a file with a suffix" in said
    said = refused("export", images, *model, "--out", "nowhere/hub/")
    assert "--out=nowhere/hub cannot be used: it must be in a folder that exists" in said
    said = refused("export", images, *model, "--out", "hub/", "--int8", images)
    assert "only an .onnx file can have 8 bits" in said
    Path("hub.onnx").mkdir()
    said = refused("export", images, *model, "--out", "hub.onnx", "--int8", images)
    assert "--int8 with --out hub.onnx: only an .onnx file can have 8 bits" in said
