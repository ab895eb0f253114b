import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import bloodcell
from bloodcell.errors import InputError
from bloodcell.infer.predict import predict
from bloodcell.published.reproduce import reproduce
from bloodcell.serve.serve import serve

Folders = Callable[..., Path]


def test_paths_and_arrays_are_answered_alike(run: Path, smears: Path) -> None:
    model = bloodcell.load(run)
    assert model.class_names == ["EOSINOPHIL", "LYMPHOCYTE", "MONOCYTE", "NEUTROPHIL"]
    paths = sorted((smears / "images" / "TEST" / "MONOCYTE").glob("*"))
    arrays = []
    for path in paths:
        with Image.open(path) as image:
            arrays.append(np.array(image.convert("RGB")))
    from_folder = model.predict(paths[0].parent)
    assert len(from_folder) == len(paths) == 10
    np.testing.assert_array_equal(from_folder.probability, model.predict(arrays).probability)
    several = model.predict(paths, batch_size=3)
    np.testing.assert_allclose(several.probability, from_folder.probability, atol=1e-5)
    one = model.predict(arrays[0])
    assert (len(one), one[0].file) == (1, "0")
    assert several.classes == [row.class_name for row in several]
    assert len(several[2:5]) == 3
    row = several.as_dicts()[0]
    assert list(row) == [
        "file",
        "class",
        *(f"p_{name}" for name in model.class_names),
        "unlike",
        "error",
    ]
    unsure = model.predict(arrays, abstain=1.0)
    assert unsure.classes == [None] * 10
    assert model.predict(arrays, tta=True).probability.shape == (10, 4)


def test_a_bad_image_has_its_reason(run: Path, smears: Path) -> None:
    Path("bad.png").write_bytes(b"no image")
    good = next((smears / "images" / "TEST").glob("*/*.jpeg"))
    said = bloodcell.load(str(run)).predict(["bad.png", good])
    assert [row.error for row in said] == ["not an image in a supported format", ""]
    assert np.isnan(said.probability[0]).all()
    assert said.classes[0] is None


def test_what_is_no_image_is_refused(run: Path) -> None:
    model = bloodcell.load(run)
    with pytest.raises(InputError, match=r"images=array of float64 \(2, 2\) cannot be used"):
        model.predict(np.zeros((2, 2)))
    with pytest.raises(InputError, match=r"images contains paths and arrays\. Give either"):
        model.predict(["a.png", np.zeros((2, 2, 3), np.uint8)])
    with pytest.raises(InputError, match="nothing: no such file or folder"):
        model.predict("nothing")
    with pytest.raises(InputError, match="abstain=2 cannot be used"):
        model.predict([], abstain=2)
    for wrong, kind in ((3, "int"), (b"abc", "int"), ([None], "NoneType")):
        with pytest.raises(InputError, match=f"images={kind} cannot be used"):
            model.predict(wrong)  # type: ignore[arg-type]
    assert len(model.predict([])) == 0
    assert model.predict([]).probability.shape == (0, 4)


def test_importing_takes_no_time() -> None:
    code = (
        "import sys, bloodcell\n"
        "assert bloodcell.__version__\n"
        "assert not {'torch', 'numpy', 'PIL', 'timm', 'lightning'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        bloodcell.laod  # noqa: B018


def test_the_lines_of_the_readme(smears: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text()
    code = next(
        block.split("```")[0]
        for block in text.split("```python\n")[1:]
        if "bloodcell.load" in block
    )
    for name in ("my_images", "my_slide"):
        Path(name).symlink_to(smears / "images" / "TEST" / "MONOCYTE")
    said: list[str] = []
    monkeypatch.setattr("builtins.print", lambda *words: said.append(" ".join(map(str, words))))
    exec(compile(code, "README.md", "exec"), {})
    assert len(said) >= 10


@pytest.mark.parametrize(
    ("argument", "value", "rule"),
    [
        ("abstain", "'.5'", "a number from 0 to 1"),
        ("abstain", "nan", "a number from 0 to 1"),
        ("batch_size", "'8'", "a whole number, 1 or more, e.g. 32"),
        ("batch_size", "8.0", "a whole number"),
        ("batch_size", "True", "a whole number"),
        ("field", "'2'", "auto, or a number from 0.1 to 50, e.g. 3"),
    ],
)
def test_a_number_given_as_text(argument: str, value: str, rule: str, run: Path) -> None:
    given: dict[str, Any] = {argument: float(value) if value == "nan" else ast.literal_eval(value)}
    said = f"{argument}={value} cannot be used: it must be {rule}"
    with pytest.raises(InputError, match=f"^{said}"):
        bloodcell.load(run).predict("a.png", cells=True, **given)
    with pytest.raises(InputError, match=f"^--{said}"):
        predict(["a.png"], str(run), cells=True, **given)


def test_numbers_of_other_functions() -> None:
    with pytest.raises(InputError, match=r"^--port='7860' cannot be used: it must be a whole"):
        serve(port="7860")  # type: ignore[arg-type]
    for name in ("seeds", "jobs"):
        given: dict[str, Any] = {name: "2"}
        with pytest.raises(InputError, match=rf"^--{name}='2' cannot be used: .* 1 or more"):
            reproduce([], fast=True, **given)
    assert not list(Path().iterdir())


@pytest.mark.parametrize("name", ["dropout", "lr", "weight_decay", "smoothing"])
def test_numbers_of_a_classifier(name: str) -> None:
    given: dict[str, Any] = {name: "0.1"}
    said = rf"^model.{name}='0.1' cannot be used: it must be a number"
    with pytest.raises(InputError, match=said):
        bloodcell.Classifier(class_names=list("ab"), image_size=32, **given)


@pytest.mark.parametrize("name", ["batch_size", "val_share", "cache_gib"])
def test_numbers_of_the_data(name: str) -> None:
    given: dict[str, Any] = {name: "1"}
    with pytest.raises(InputError, match=rf"^data.{name}='1' cannot be used"):
        bloodcell.BloodCells(root="nothing", **given)


def test_messages_name_arguments() -> None:
    with pytest.raises(InputError, match=r"^model m\.onnx: no such file"):
        bloodcell.load("m.onnx")
    with pytest.raises(InputError, match=r"^devices quantum: PyTorch has no such device"):
        bloodcell.load(devices="quantum")


def test_dashes_in_a_path_are_no_option() -> None:
    with pytest.raises(InputError, match=r"^model runs/exp--a/version_0: no checkpoint there"):
        bloodcell.load("runs/exp--a/version_0")


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"image_size": 1280}, r"image_size=1280 cannot be used: it must be 32 to 1024 pixels"),
        ({"class_names": ["a"]}, r"class_names=\['a'\] cannot be used: it must be two or more"),
    ],
)
def test_a_classifier_that_could_not_be_loaded(given: dict[str, Any], rule: str) -> None:
    settings = {"class_names": ["a", "b"], "weights": "none"} | given
    with pytest.raises(InputError, match=rule):
        bloodcell.Classifier(**settings)
