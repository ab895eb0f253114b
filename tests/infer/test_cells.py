"""A model of single cells: asked about pictures, about all cells of a slide, and exported."""

import csv
import io
import json
import pickle
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import bloodcell
from bloodcell.cli.main import main
from bloodcell.data.crop import InputFormat, crop_cell, show
from bloodcell.data.finder import load_finder
from bloodcell.datasets.drawn import CLASS_NAMES
from bloodcell.datasets.drawn.smears import draw_photograph
from bloodcell.errors import InputError
from bloodcell.infer.deploy import Deployed, capture
from bloodcell.infer.saved import Saved, load_saved, write_saved
from bloodcell.model.description import Description
from bloodcell.model.network import Network, PretrainedConfig

Refused = Callable[..., str]
NAMES = list(CLASS_NAMES)
SIZE = 48


def rows_of(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


BALANCED = PretrainedConfig(white_balance=True)


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A network of single cells with random weights, that is not equally unsure of all."""
    torch.manual_seed(0)
    network = Network("test_efficientnet", 4, SIZE, [], 0.0, "avg", BALANCED).eval()
    *_, last = network.head.children()
    assert isinstance(last, torch.nn.Linear)
    torch.nn.init.normal_(last.weight)
    described = Description(
        NAMES,
        SIZE,
        "test_efficientnet",
        [],
        "avg",
        BALANCED.as_dict(),
        name="cells",
        crop="cell",
    )
    path = tmp_path / "cells.safetensors"
    write_saved(Saved(described, network, None), path)
    return str(path)


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    """Three pictures with a cell each, and one without any."""
    folder = tmp_path / "slide"
    (folder / "second").mkdir(parents=True)
    drawn = [draw_photograph(name, (10, n)).pixels for n, name in enumerate(NAMES)]
    Image.fromarray(drawn[0]).save(folder / "a.png")
    Image.fromarray(drawn[1]).save(folder / "second" / "a.png")
    Image.fromarray(drawn[2]).save(folder / "b.png")
    Image.new("RGB", (320, 240), (230, 225, 228)).save(folder / "c.png")
    return folder


def test_a_row_a_cell_and_the_differential_count(
    model: str, slide: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["predict", str(slide), "--model", model, "--cells", "--out", "cells.csv"])
    rows = rows_of("cells.csv")
    hint = "no white cell found; if the field of view is wider than about 6.4 red cells, set field"
    assert [(Path(row["file"]).name, row["error"]) for row in rows] == [
        ("a.png", ""), ("b.png", ""), ("c.png", hint), ("a.png", ""),
    ]  # fmt: skip
    named = [row for row in rows if row["class"]]
    for row in named:
        with Image.open(row["file"]) as image:
            width, height = image.size
        assert 0 < float(row["x"]) < width
        assert 0 < float(row["y"]) < height
        assert float(row["side"]) == pytest.approx(0.4 * width, abs=0.1)
        assert sum(float(row[f"p_{name}"]) for name in NAMES) == pytest.approx(1, abs=1e-4)
    said = capsys.readouterr().err
    assert "3 white cells" in said
    assert "images without a white cell: 1. If they show some, set --field" in said
    for name in NAMES:
        count = sum(row["class"] == name for row in named)
        line = next(line for line in said.splitlines() if line.strip().startswith(name))
        assert line.split()[1:3] == [str(count), f"{count / 3:.1%}"]


def test_a_wider_field_shows_more_cells(model: str) -> None:
    drawn = [draw_photograph(name, (10, n)).pixels for n, name in enumerate(NAMES[:3])]
    Image.fromarray(np.concatenate(drawn, axis=1)).save("wide.png")
    words = ["predict", "wide.png", "--model", model, "--out", "cells.csv", "--cells"]
    main([*words, "--field", "3"])
    rows = rows_of("cells.csv")
    width = drawn[0].shape[1]
    assert sorted(int(float(row["x"]) // width) for row in rows) == [0, 1, 2]
    assert {row["side"] for row in rows} == {str(round(0.4 * width, 1))}


def test_other_formats_say_the_same(model: str, slide: Path) -> None:
    main(["predict", str(slide), "--model", model, "--cells", "--out", "cells.csv"])
    main(["predict", str(slide), "--model", model, "--cells", "--out", "cells.jsonl"])
    lines = [json.loads(line) for line in Path("cells.jsonl").read_text().splitlines()]
    as_text = [{k: "" if v is None else str(v) for k, v in line.items()} for line in lines]
    assert as_text == rows_of("cells.csv")
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    main(["predict", str(slide), "--model", model, "--cells", "--out", "cells.parquet"])
    table = parquet.read_table("cells.parquet").to_pylist()
    assert [row["x"] for row in table] == pytest.approx([line["x"] for line in lines])


def test_the_cells_from_python(model: str, slide: Path, run: Path) -> None:
    loaded = bloodcell.load(model)
    said = loaded.predict(slide, cells=True)
    main(["predict", str(slide), "--model", model, "--cells", "--out", "cells.csv"])
    for row, written in zip(said.as_dicts(), rows_of("cells.csv"), strict=True):
        assert row.keys() == written.keys()
        for key in ("file", "x", "y", "side", "class", "error"):
            assert ("" if row[key] is None else str(row[key])) == written[key]
    with Image.open(slide / "a.png") as image:
        a = np.asarray(image)
    wide = loaded.predict([np.concatenate([a, a, a], axis=1), a[:0:-1]], cells=True, field=3)
    files = [row.file for row in wide]
    assert files[:4] == ["0", "0", "0", "1"]
    assert wide[:2].of_cells
    assert "too few to show cells" in loaded.predict(a, cells=True, field=50)[0].error
    with pytest.raises(InputError, match=r"^cells needs a model .* Give model one"):
        bloodcell.load(run).predict(a, cells=True)
    with pytest.raises(InputError, match="field=0 cannot be used"):
        loaded.predict(a, cells=True, field=0)
    with pytest.raises(InputError, match="field=3 cannot be used: it must be left out, or used"):
        loaded.predict(a, field=3)
    assert pickle.loads(pickle.dumps(said)) == said


def test_the_width_is_measured_on_request(
    model: str, slide: Path, refused: Callable[..., str]
) -> None:
    words = ["predict", str(slide / "a.png"), "--model", model, "--cells", "--field"]
    main([*words, "auto", "--out", "auto.csv"])
    main([*words, "1", "--out", "one.csv"])
    assert rows_of("auto.csv")[0]["side"] != rows_of("one.csv")[0]["side"]
    assert "--field=wide cannot be used: it must be a number or auto" in refused(*words, "wide")


def test_a_cell_of_a_picture_is_what_predict_alone_takes(model: str, slide: Path) -> None:
    main(["predict", str(slide / "a.png"), "--model", model, "--out", "one.csv"])
    main(["predict", str(slide / "a.png"), "--model", model, "--cells", "--out", "cells.csv"])
    (one,), (cell,) = rows_of("one.csv"), rows_of("cells.csv")
    assert (cell["file"], cell["error"]) == (one["file"], "")
    for name in NAMES:  # `predict` finds the cell by colour, as this model was trained
        assert float(cell[f"p_{name}"]) == pytest.approx(float(one[f"p_{name}"]), abs=0.01)
    with Image.open(slide / "a.png") as image:
        answers = bloodcell.load(model).predict(np.asarray(image))
    assert answers.probability[0] == pytest.approx([float(one[f"p_{n}"]) for n in NAMES], abs=1e-5)


def test_pictures_with_boxes(model: str, slide: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["predict", str(slide), "--model", model, "--cells", "--draw", "drawn", "--out", "c.csv"])
    assert capsys.readouterr().err.endswith("c.csv\ndrawn: 4 pictures\n")
    assert sorted(path.name for path in Path("drawn").iterdir()) == [
        "a-2.cells.png", "a.cells.png", "b.cells.png", "c.cells.png",
    ]  # fmt: skip
    cell = rows_of("c.csv")[0]
    with Image.open("drawn/a.cells.png") as image, Image.open(cell["file"]) as before:
        factor = image.width / before.width
        pixels = np.asarray(image).astype(int)
        plain = np.asarray(before.resize(image.size)).astype(int)
    changed = np.abs(pixels - plain).max(2) > 60
    x, y, side = (float(cell[k]) * factor for k in ("x", "y", "side"))
    left, right = max(0, int(x - side / 2) - 2), int(x + side / 2) + 3
    assert changed.any()
    assert not changed[:, :left].any()
    assert not changed[:, right:].any()
    assert changed[int(min(y + side / 2, image.height - 1)) - 3 :].any()  # its lower edge


def test_a_model_that_measures_the_field_is_exported_in_a_fresh_process(model: str) -> None:
    saved = load_saved(Path(model))
    saved = saved._replace(description=replace(saved.description, field="auto"))
    load_finder.cache_clear()
    program = capture(Deployed(saved))
    pixels = torch.from_numpy(draw_photograph(NAMES[0], 3).pixels)[None]
    expected = saved.network(
        crop_cell(pixels.permute(0, 3, 1, 2).float(), saved.description.input_format)
    )
    assert torch.allclose(program.module()(pixels), expected.softmax(1), atol=1e-4)


def test_the_exported_file_cuts_the_cell_by_itself_also_in_8_bits(
    model: str,
    smears: Path,
    refused: Refused,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, training = (str(smears / "images" / part) for part in ("TEST", "TRAIN"))
    # a model that is not trained
    monkeypatch.setattr("bloodcell.infer.export.LEAST_ALIKE", {8: 0.0001})
    main(["export", folder, "--model", model, "--int8", training])
    said = capsys.readouterr().out
    rows = [line.split() for line in said.splitlines() if line.strip().startswith("cells.")]
    assert [row[0] for row in rows] == ["cells.onnx", "cells.int8.onnx"]
    assert rows[0][2] == "100.00%"
    assert Path("cells.int8.onnx").stat().st_size < Path("cells.onnx").stat().st_size
    for name in ("cells.onnx", "cells.int8.onnx"):
        assert f"SHA-256 of `{name}`" in Path(f"{name}.MODEL_CARD.md").read_text()
    main(["predict", folder, "--model", model, "--out", "torch.csv"])
    main(["predict", folder, "--model", "cells.onnx", "--out", "onnx.csv"])
    main(["predict", folder, "--model", "cells.int8.onnx", "--out", "int8.csv"])
    assert len(rows_of("int8.csv")) == 40
    for one, other in zip(rows_of("torch.csv"), rows_of("onnx.csv"), strict=True):
        for name in NAMES:
            assert float(one[f"p_{name}"]) == pytest.approx(float(other[f"p_{name}"]), abs=3e-3)
    words = ["predict", folder, "--cells", "--tta", "--model"]
    main([*words, model, "--out", "torch.csv"])
    main([*words, "cells.onnx", "--out", "onnx.csv"])
    columns = [*(f"p_{name}" for name in NAMES), "x", "y", "side"]
    for one, other in zip(rows_of("torch.csv"), rows_of("onnx.csv"), strict=True):
        assert one["file"] == other["file"]
        for name in columns:
            assert float(one[name]) == pytest.approx(float(other[name]), abs=1e-5)
    exact, close = (
        bloodcell.load(name).predict(folder, cells=True) for name in (model, "cells.int8.onnx")
    )
    assert close.probability == pytest.approx(exact.probability, abs=0.3)
    monkeypatch.setitem(sys.modules, "onnx", None)
    said = refused("predict", folder, "--model", "cells.onnx", "--cells")
    assert "--cells with --model cells.onnx needs onnx: pip install 'bloodcell[export]'" in said


def test_words_that_cannot_be_used(run: Path, model: str, slide: Path, refused: Refused) -> None:
    picture = str(slide / "a.png")
    assert "was trained on whole images" in refused(
        "predict", picture, "--model", str(run), "--cells"
    )
    assert "--draw drawn needs --cells" in refused("predict", picture, "--draw", "drawn")
    Path("file").touch()
    for place, said in ((str(slide / "boxed"), "is in"), ("file", "is a file")):
        words = ("predict", str(slide), "--model", model, "--cells", "--draw", place)
        assert said in refused(*words)
    words = ("predict", f"{slide}/*", "--model", model, "--cells", "--draw", str(slide / "boxed"))
    assert f"is in {slide}/*: the next call would read the drawings" in refused(*words)
    assert "--field=0" in refused("predict", picture, "--model", model, "--cells", "--field", "0")
    assert not Path("drawn").exists()


def test_training_on_cells(words: list[str]) -> None:
    main(["fit", *words, "--data.crop", "cell", "--trainer.max_epochs", "1", "--name", "cells",
          "--model.schedule", "cosine", "--model.smoothing", "0.1",
          "--model.weight_decay", "0.02"])  # fmt: skip
    folder = Path("lightning_logs/cells/version_0")
    assert "cropped to a square around the white cell" in (folder / "MODEL_CARD.md").read_text()
    description = bloodcell.load(folder).description
    assert description.input_format == InputFormat(32, "cell")
    assert description.training["model.schedule"] == "cosine"
    drawn = Image.fromarray(draw_photograph(NAMES[0], 3).pixels)
    assert show(drawn, description.input_format).shape == (32, 32, 3)


def test_paths_from_the_standard_input_are_drawn_too(
    model: str, slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = str(slide / "a.png")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{picture}\n{picture}\n"))
    main(["predict", "-", "--model", model, "--cells", "--draw", "drawn", "--out", "c.csv"])
    assert sorted(path.name for path in Path("drawn").iterdir()) == ["a-2.cells.png", "a.cells.png"]
    assert len(rows_of("c.csv")) == 2


def test_a_drawing_that_cannot_be_written_costs_no_answer(
    model: str, slide: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = slide / f"{'a' * 245}.png"  # the drawing's name is longer than file systems allow
    (slide / "a.png").rename(long)
    words = ["predict", str(long), str(slide / "b.png"), "--model", model, "--cells"]
    main([*words, "--draw", "drawn", "--out", "c.csv"])
    assert len(rows_of("c.csv")) == 2
    assert [path.name for path in Path("drawn").iterdir()] == ["b.cells.png"]
    said = capsys.readouterr().err
    assert "could not be drawn" in said
    assert "drawn: 1 picture\n" in said


def test_a_picture_too_small_for_its_field(model: str, slide: Path) -> None:
    words = ["predict", str(slide / "a.png"), "--model", model, "--cells", "--field", "50"]
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--out", "c.csv"])
    assert stopped.value.code == 1
    assert "too few to show cells in a field of 50" in rows_of("c.csv")[0]["error"]


def test_a_checkpoint_of_before_keeps_what_it_was_made_with(
    run: Path, words: list[str], refused: Refused
) -> None:
    old = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    for key in ("schedule", "weight_decay", "bn_momentum", "smoothing"):
        del old["hyper_parameters"][key]
    for key in ("crop", "val_share"):
        del old["datamodule_hyper_parameters"][key]
    torch.save(old, "old.ckpt")
    main(["test", "--ckpt_path", "old.ckpt"])
    said = refused("test", "--ckpt_path", "old.ckpt", "--data.crop", "cell")
    assert "data.crop=cell, but the checkpoint was made with none" in said


def test_a_cosine_needs_an_end(words: list[str], refused: Refused) -> None:
    words += ["--model.schedule", "cosine", "--trainer.max_epochs", "-1"]
    said = refused("fit", *words, "--trainer.max_time", "00:00:00:05")
    assert "model.schedule=cosine" in said
    assert "set trainer.max_epochs" in said
