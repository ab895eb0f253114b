import csv
import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import bloodcell
from bloodcell.cli.main import main
from bloodcell.data.image_files import open_archive
from bloodcell.datasets.classes import COMMON
from bloodcell.errors import InputError
from bloodcell.infer.agreement import Agreement
from bloodcell.infer.answers import Answer
from bloodcell.infer.cells import Uncounted
from bloodcell.infer.export import Exported, _require_agreement
from bloodcell.infer.heat import find_heat
from bloodcell.infer.inputs import find_images, reads
from bloodcell.infer.runtime import views
from bloodcell.infer.saved import Saved, load_saved, write_saved
from bloodcell.infer.tally import Tally
from bloodcell.infer.torch_runtime import TorchModel
from bloodcell.model.bundled import find_bundled
from bloodcell.model.description import Description
from bloodcell.model.network import Network, PretrainedConfig

Refused = Callable[..., str]


def asked(out: str) -> list[dict[str, str]]:
    with Path(out).open(newline="") as file:
        return list(csv.DictReader(file))


def test_predictions_are_those_of_the_test_calibrated(run: Path, smears: Path) -> None:
    main(["predict", str(smears / "images" / "TEST"), "--model", str(run), "--out", "said.csv"])
    said = asked("said.csv")
    scores = json.loads((run / "scores.json").read_text())
    temperature = scores["calibration"]["temperature"]
    with (run / "predictions.csv").open(newline="") as file:
        tested = {line["file"].split("/")[-1]: line for line in csv.DictReader(file)}
    assert len(said) == len(tested) == 40
    for row in said:
        line = tested[Path(row["file"]).name]
        columns = [name for name in line if name.startswith("p_")]
        raw = np.array([float(line[name]) for name in columns]) ** (1 / temperature)
        found = np.array([float(row[name]) for name in columns])
        np.testing.assert_allclose(found, raw / raw.sum(), atol=2e-5)
        assert row["class"] == columns[int(found.argmax())].removeprefix("p_")
        assert row["error"] == ""


def test_a_temperature_makes_the_validation_loss_no_worse(run: Path) -> None:
    found = json.loads((run / "scores.json").read_text())
    val = found["calibration"]["val"]
    assert val["after"]["log_loss"] <= val["before"]["log_loss"] + 1e-6
    assert found["gallery"]["photographs"] == found["photos"]["train"]
    assert found["gallery"]["unfamiliar"]["val"] <= 0.05 + 1 / found["files"]["val"]


def test_every_way_to_name_images(run: Path, smears: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = smears / "images" / "TEST"
    files = sorted(folder.glob("*/*.jpeg"))
    with zipfile.ZipFile("all.zip", "w") as archive:
        for file in files:
            archive.write(file, f"set/{file.parent.name}/{file.name}")
    first = files[0].parent.name
    inside = f"all.zip/set/{first}/{files[0].name}"
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{files[0]}\n\n{inside}\n"))
    for given, count in (
        ([str(files[0]), str(files[1])], 2),
        ([str(folder / "*" / "*.jpeg")], 40),
        (["all.zip"], 40),
        ([f"all.zip/set/{first}"], 10),
        ([f"all.zip/*/{first}/*"], 10),
        (["-"], 2),
    ):
        main(["predict", *given, "--model", str(run), "--out", "said.csv"])
        assert len(asked("said.csv")) == count, given
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{inside}\nall.zip/no.png\n"))
    with pytest.raises(SystemExit):
        main(["predict", "-", "--model", str(run), "--out", "said.csv"])
    assert [bool(row["error"]) for row in asked("said.csv")] == [False, True]
    Path("bad.zip").write_bytes(b"no archive")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"bad.zip/a.png\n{inside}\n"))
    with pytest.raises(SystemExit):
        main(["predict", "-", "--model", str(run), "--out", "said.csv"])
    assert [bool(row["error"]) for row in asked("said.csv")] == [True, False]


def test_paths_inside_one_archive_open_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"set/{number}.png" for number in range(50)]
    with zipfile.ZipFile("all.zip", "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    opened = list[Path]()

    def count(path: Path, label: str) -> zipfile.ZipFile:
        opened.append(path)
        return open_archive(path, label)

    monkeypatch.setattr("bloodcell.infer.inputs.open_archive", count)
    given = [f"all.zip/{name}" for name in names]
    with ExitStack() as archives:
        assert [image.name for image in find_images(given, archives)] == given
    assert len(opened) == 1


def test_names_that_look_like_homes_archives_or_other_encodings(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (40, 40)).save("~nobody.png")
    with zipfile.ZipFile("SCANS.ZIP", "w") as archive:
        archive.write("~nobody.png", "a.png")
    main(["predict", "~nobody.png", "SCANS.ZIP", "--model", str(run), "--out", "said.csv"])
    assert [row["file"] for row in asked("said.csv")] == ["~nobody.png", "SCANS.ZIP/a.png"]
    latin = os.fsdecode(b"caf\xe9.png")
    Path("~nobody.png").rename(latin)
    lines = io.TextIOWrapper(io.BytesIO(os.fsencode(latin)), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", lines)
    main(["predict", "-", "--model", str(run), "--out", "said.csv"])
    with Path("said.csv").open(errors="surrogateescape", newline="") as file:
        assert [(row["file"], row["error"]) for row in csv.DictReader(file)] == [(latin, "")]


def test_a_class_may_have_the_name_of_no_class() -> None:
    tally = Tally(False, {})
    for class_name, error in (("unreadable", ""), ("unsure", ""), (None, ""), (None, "empty file")):
        tally.add(Answer("a.png", class_name, None, error))
    assert tally.counts[Uncounted.UNREADABLE] == 1
    said = tally.summary(["unreadable", "unsure"], 1)
    assert said.startswith("4 images: unreadable 1, unsure 1, unsure 1, unreadable 1 (")


def test_a_note_names_three_files_and_counts_the_others() -> None:
    tally = Tally(False, {})
    for n in range(5):
        tally.add(Answer(f"{n}.tif", "a", None, note="scaled"))
    assert "scaled: 0.tif, 1.tif, 2.tif and 2 more" in tally.summary(["a"], 1).splitlines()


def test_any_kind_of_image_and_bad_ones(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("kinds").mkdir()
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8))
    for mode in ("L", "RGBA", "CMYK", "P", "1", "LA"):
        suffix = "tif" if mode == "CMYK" else "png"
        rgb.convert(mode).save(f"kinds/{mode}.{suffix}")
    Image.fromarray(np.full((9, 9), 40_000, np.uint16)).save("kinds/I16.png")
    Path("kinds/broken.png").write_bytes(Path("kinds/L.png").read_bytes()[:60])
    Path("kinds/empty.jpg").touch()
    Path("kinds/text.png").write_text("no image")
    with pytest.raises(SystemExit) as stopped:
        main(["predict", "kinds", "--model", str(run), "--out", "said.csv"])
    assert stopped.value.code == 1
    said = {Path(row["file"]).name: row for row in asked("said.csv")}
    assert len(said) == 10
    bad = {name: row["error"] for name, row in said.items() if row["error"]}
    assert bad.keys() == {"broken.png", "empty.jpg", "text.png"}
    assert bad["empty.jpg"] == "empty file"
    assert bad["text.png"] == "not an image in a supported format"
    assert said["text.png"]["class"] == ""
    assert "unreadable 3" in capsys.readouterr().err


def test_json_lines_and_parquet_say_the_same(run: Path, smears: Path) -> None:
    from pyarrow import parquet

    folder = str(smears / "images" / "TEST")
    for name in ("said.csv", "said.jsonl", "said.parquet"):
        main(["predict", folder, "--model", str(run), "--out", name])
    lines = [json.loads(line) for line in Path("said.jsonl").read_text().splitlines()]
    table = parquet.read_table("said.parquet").to_pylist()
    for row, line, record in zip(asked("said.csv"), lines, table, strict=True):
        assert row.keys() == line.keys() == record.keys()
        assert row["file"] == line["file"] == record["file"]
        assert row["class"] == line["class"] == record["class"]
    assert len(list(Path().glob("said*"))) == 3


def test_unsure_images_stay_unnamed(run: Path, smears: Path) -> None:
    folder = str(smears / "images" / "TEST")
    main(["predict", folder, "--model", str(run), "--abstain", "1", "--out", "said.csv"])
    assert {row["class"] for row in asked("said.csv")} == {""}


def test_averaging_views_does_not_depend_on_how_an_image_lies(run: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    Image.fromarray(rgb).save("a.png")
    Image.fromarray(np.rot90(rgb)).save("b.png")
    Image.fromarray(rgb[:, ::-1]).save("c.png")
    main(["predict", "a.png", "b.png", "c.png", "--model", str(run), "--tta", "--out", "said.csv"])
    one, *others = ([v for k, v in row.items() if k[:2] == "p_"] for row in asked("said.csv"))
    for other in others:
        np.testing.assert_allclose(np.array(one, float), np.array(other, float), atol=1e-5)
    assert len({view.tobytes() for view in views(rgb[None])}) == 8


def test_several_devices_answer_in_order(run: Path, smears: Path) -> None:
    folder, model = str(smears / "images" / "TEST"), str(run)
    main(["predict", folder, "--model", model, "--out", "one.csv", "--batch_size", "3"])
    words = ["--devices", "cpu,cpu,cpu", "--batch_size", "3", "--out", "three.csv"]
    main(["predict", folder, "--model", model, *words])
    assert Path("one.csv").read_text() == Path("three.csv").read_text()


def test_a_model_in_one_file_says_the_same(run: Path) -> None:
    saved = load_saved(run)
    write_saved(saved, Path("model.safetensors"))
    again = load_saved(Path("model.safetensors"))
    assert again.description == saved.description
    assert saved.gallery is not None
    assert again.gallery is not None
    assert again.gallery.files == saved.gallery.files
    pixels = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), np.uint8)
    one, two = (
        TorchModel(s, [torch.device("cpu")]).classify(pixels).probability for s in (saved, again)
    )
    np.testing.assert_allclose(one, two, atol=5e-3)  # half precision
    np.testing.assert_allclose(one.sum(1), 1, atol=1e-5)


def test_what_cannot_be_asked(run: Path, refused: Refused) -> None:
    assert "no images given. Give at least one file" in refused("predict")
    assert "nothing.png: no such file or folder" in refused("predict", "nothing.png")
    Path("hollow").mkdir()
    assert "hollow: contains no images. Looked for .jpeg" in refused("predict", "hollow")
    Image.new("RGB", (8, 8)).save("a.png")
    assert "--abstain=2 cannot be used" in refused("predict", "a.png", "--abstain", "2")
    assert "Did you mean '--abstain'?" in refused("predict", "a.png", "--abstian", "1")
    said = refused("predict", "a.png", "--out", "a.txt")
    assert "a file ending in .csv, .jsonl, .parquet" in said
    assert "no checkpoint there" in refused("predict", "a.png", "--model", "hollow")
    assert "m.onnx: no such file" in refused("predict", "a.png", "--model", "m.onnx")
    Path("m.safetensors").write_bytes(b"no tensors")
    assert "cannot be read as a model" in refused("predict", "a.png", "--model", "m.safetensors")
    said = refused("predict", "a.png", "--model", str(run), "--devices", "quantum")
    assert "--devices quantum: PyTorch has no such device" in said
    assert not list(Path().glob("*.partial*"))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't "
                     "allocate memory: you tried to allocate 400000000000000 bytes."),
        MemoryError(),
        Exception("Failed to allocate memory for requested buffer of size 4096"),
    ],
)  # fmt: skip
def test_memory_that_runs_out_leaves_no_half_table(
    run: Path, smears: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(TorchModel, "classify", full)
    monkeypatch.setattr("bloodcell.infer.heat.find_heat", full)
    folder, model = str(smears / "images" / "TEST"), ("--model", str(run))
    said = refused("predict", folder, *model, "--out", "said.csv")
    assert "predict ran out of memory. Give a smaller --batch_size, or --devices cpu" in said
    assert not Path("said.csv").exists()
    said = refused("explain", f"{folder}/MONOCYTE", *model)
    assert "explain ran out of memory. Close other programs, or hide the GPU" in said
    assert not Path("explained.png").exists()


def test_other_errors_keep_their_traceback(
    run: Path, smears: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(TorchModel, "classify", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        main(["predict", str(smears / "images" / "TEST"), "--model", str(run), "--out", "a.csv"])


def test_explaining(run: Path, smears: Path, refused: Refused) -> None:
    folder = str(smears / "images" / "TEST" / "MONOCYTE")
    main(["explain", folder, "--model", str(run)])
    with Image.open("explained.png") as image:
        assert image.width > 1000
    Path("each.1").mkdir()  # an existing folder may have any name
    main(["explain", folder, "--model", str(run), "--out", "each.1"])
    assert len(list(Path("each.1").iterdir())) == 10
    main(["explain", folder, "--model", str(run), "--out", "each"])
    assert len(list(Path("each").glob("*.png"))) == 10
    said = refused("explain", "each", "--model", str(run), "--out", "each/more")
    assert "--out each/more is in each: the next call would read the figures as images" in said
    (own,) = Path("each").glob("0001*.png")
    said = refused("explain", str(own), "--model", str(run), "--out", str(own))
    assert f"--out {own} is a given image, which it would replace. Give another file." in said
    for _ in range(2):  # its own figure is not one of the images
        main(["explain", "each", "--model", str(run), "--out", "each/all.png"])
    assert len(list(Path("each").glob("*.png"))) == 11
    many = str(smears / "images")
    assert "one figure holds at most 60 images" in refused("explain", many, "--model", str(run))


def test_explaining_names_what_is_unlike(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8)
    Image.fromarray(noise).save("noise.png")
    assert bloodcell.load(run).predict("noise.png")[0].unlike
    main(["explain", "noise.png", "--model", str(run)])
    assert "unlike all training images: 1. Their classes are unreliable" in capsys.readouterr().err


def test_the_heat_follows_the_weights() -> None:
    network = Network("test_efficientnet", 4, 160, [], 0.0, "flatten", PretrainedConfig()).eval()
    names = list("abcd")
    described = Description(
        names, 160, "test_efficientnet", [], "flatten", PretrainedConfig().as_dict(), 2.0
    )
    saved = Saved(described, network, None)
    pixels = np.random.default_rng(0).integers(0, 255, (4, 160, 160, 3), np.uint8)
    heat, probability, features = find_heat(saved, pixels)
    assert features.shape == (4, network.maps(torch.zeros(1, 3, 160, 160)).shape[1])
    assert heat.shape == (4, 160, 160)
    assert heat.min() >= 0
    assert heat.max() <= 1
    said = TorchModel(saved, [torch.device("cpu")]).classify(pixels).probability
    np.testing.assert_allclose(probability, said, atol=1e-5)
    torch.nn.init.normal_(network.head[-1].weight)  # type: ignore[index]
    assert np.abs(find_heat(saved, pixels).heat - heat).mean() > 0.05


def test_an_exported_model_answers_without_pytorch(run: Path, smears: Path) -> None:
    folder = str(smears / "images" / "TEST")
    main(["export", folder, "--model", str(run), "--out", "m.onnx"])
    main(["predict", folder, "--model", str(run), "--out", "torch.csv"])
    code = (
        "import sys; sys.modules['torch'] = None\n"  # importing it fails
        "from bloodcell.cli.main import main\n"
        "main(['predict', sys.argv[1], '--model', 'm.onnx', '--out', 'onnx.csv', '--tta'])\n"
        "main(['predict', sys.argv[1], '--model', 'm.onnx', '--out', 'onnx.csv'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for one, other in zip(asked("torch.csv"), asked("onnx.csv"), strict=True):
        assert one["file"] == other["file"]
        assert one["class"] == other["class"]
        assert one["unlike"] == other["unlike"] != ""
        for name in (name for name in one if name.startswith("p_")):
            assert float(one[name]) == pytest.approx(float(other[name]), abs=1e-4)


def test_8_bits_that_name_too_many_otherwise_are_not_kept(
    run: Path, smears: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bloodcell.infer.export.LEAST_ALIKE", {8: 1.1})
    # an untrained network differs little
    monkeypatch.setattr("bloodcell.infer.export.LARGEST", 1e-6)
    folder = str(smears / "images" / "TEST" / "MONOCYTE")
    words = ("export", folder, "--model", str(run), "--out", "m.onnx", "--int8", folder)
    said = refused(*words)
    assert "--out m.int8.onnx: the exported model predicts another class for" in said
    assert "too nearly equally probable for fewer bits; without --int8, the file in" in said
    assert not list(Path().glob("m.*"))
    said = refused(*words[:-3], "m.pt2", *words[-2:])
    assert "only an .onnx file can have 8 bits" in said
    assert "--int8=- cannot be used" in refused(*words[:-1], "-")


@pytest.mark.parametrize(
    ("bits", "other_class", "difference", "kept"),
    [
        (32, 0, 1e-4, True),
        (32, 1, 1e-4, False),
        (32, 0, 0.01, False),
        (16, 50, 1e-4, True),  # only classes that are almost equally probable change places
        (16, 1, 0.1, True),
        (16, 2, 0.1, False),
        (8, 9, 0.1, True),
        (8, 11, 0.1, False),
    ],
)
def test_an_export_is_kept_if_it_agrees(
    bits: int, other_class: int, difference: float, kept: bool
) -> None:
    one = Exported(Path("m.onnx"), bits, 1, None)  # type: ignore[arg-type]
    agreement = Agreement(100, other_class, difference)
    if kept:
        _require_agreement(one, agreement)
        return
    with pytest.raises(InputError, match=f"another class for {other_class} of 100 .*not kept"):
        _require_agreement(one, agreement)


def test_a_file_in_16_bits_that_hardly_differs_is_kept(
    run: Path, smears: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bloodcell.infer.export.LEAST_ALIKE", {16: 1.1})
    words = ("export", str(smears / "images" / "TEST"), "--model", str(run))
    main([*words, "--out", "m.safetensors"])
    assert Path("m.safetensors").is_file()
    monkeypatch.setattr("bloodcell.infer.export.LARGEST", -1.0)
    assert "It is not kept" in refused(*words, "--out", "other.safetensors")
    assert not Path("other.safetensors").exists()


def test_images_to_export_with_are_refused(
    run: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ("--model", str(run), "--out", "m.onnx")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert "-: no images found. Give at least one" in refused("export", "-", *model)
    Path("bad").mkdir()
    Path("bad/a.png").write_bytes(b"no image")
    said = refused("export", "bad", *model)
    assert "none of these images can be read (not an image in a supported format)" in said
    Path("e.onnx").touch()
    assert "e.onnx is already exported" in refused("export", "bad", "--model", "e.onnx")
    assert not list(Path().glob("m.*"))


def test_one_small_file_for_bloodcell(
    run: Path, smears: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(smears / "images" / "TEST")
    main(["export", folder, "--model", str(run), "--out", "m.safetensors"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    (megabytes,) = (float(row[1]) for row in rows if row and row[0] == "PyTorch")
    state = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert megabytes == round(sum(tensor.nbytes for tensor in state.values()) / 1e6, 1)
    before, after = load_saved(run), load_saved(Path("m.safetensors"))
    assert after.description == before.description
    assert before.gallery is not None
    assert after.gallery is not None
    assert after.gallery.files == before.gallery.files
    assert (
        "This 16-bit model predicts the same class"
        in Path("m.safetensors.MODEL_CARD.md").read_text()
    )


def test_a_missing_bundle(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bloodcell.model.bundled.FOLDER", Path("nowhere"))
    Image.new("RGB", (8, 8)).save("a.png")
    said = refused("predict", "a.png")
    assert "the bundled model is missing (nowhere/bloodcell.safetensors)" in said


def test_the_bundled_model(smears: Path) -> None:
    folder = str(smears / "images" / "TEST" / "MONOCYTE")
    main(["predict", folder, "--out", "said.csv"])
    (row, *_) = said = asked("said.csv")
    assert len(said) == 10
    assert {name for name in row if name.startswith("p_")} == {f"p_{name}" for name in COMMON}
    file = find_bundled()
    assert file.stat().st_size < 8e6
    card = file.with_name("MODEL_CARD.md").read_text()
    assert hashlib.sha256(file.read_bytes()).hexdigest() in card
    saved = load_saved(file)
    assert saved.gallery is not None
    assert saved.trained_on is not None
    scores = saved.description.scores
    assert scores["split"] == "photo"
    assert set(scores["test"]["by_dataset"]) == {"chula", "kaggle", "pbc"}
    assert set(scores["unseen"]["datasets"]) == {"chula", "kaggle", "pbc"}
    assert saved.description.temperature == scores["unseen"]["temperature"]
    assert "(CC BY 4.0)" in card


def test_a_pytorch_export(run: Path, smears: Path) -> None:
    main(["export", str(smears / "images" / "TEST"), "--model", str(run), "--out", "m.pt2"])
    module = torch.export.load("m.pt2").module()
    said = module(torch.zeros(3, 50, 70, 3, dtype=torch.uint8))  # one tensor, without distances
    torch.testing.assert_close(said.sum(1), torch.ones(3))


def test_an_export_that_differs_is_not_kept(
    run: Path, smears: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bloodcell.infer.export.LARGEST", -1.0)
    words = ["export", str(smears / "images" / "TEST"), "--model", str(run), "--out", "m.onnx"]
    assert "It is not kept" in refused(*words)
    assert not list(Path().glob("m.onnx*"))


@pytest.mark.parametrize(
    "words",
    [
        "predict nothing.png",
        "export nothing.png --out a.h5",
        "explain nothing.png --out a.jpg",
        "serve --port no",
        "serve --data nothing",
    ],
)
def test_nothing_heavy_is_imported_to_refuse(words: str) -> None:
    code = (
        "import sys; from bloodcell.cli.main import main\n"
        f"try: main({words.split()})\n"
        "except SystemExit as stop: assert stop.code == 2\n"
        "assert not {'torch', 'lightning', 'timm', 'gradio'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_pattern_names_each_image_once(make_folders: Callable[..., Path]) -> None:
    make_folders({"a": 2, "a/b": 1, ".": 1})
    with zipfile.ZipFile("pictures/c.zip", "w") as archive:
        archive.write("pictures/0.png", "0.png")
    files = ["pictures/0.png", "pictures/a/0.png", "pictures/a/1.png", "pictures/a/b/0.png"]
    found = {"pictures/**": files, "pictures/*": files, "pictures/*.zip": ["pictures/c.zip/0.png"]}
    for pattern, expected in found.items():
        with ExitStack() as archives:
            names = [image.name for image in find_images([pattern], archives)]
        assert sorted(names) == expected


@pytest.mark.parametrize(
    ("word", "folder", "read"),
    [
        ("slide", "slide/boxed", True),
        ("slide", "slide", True),
        ("slide/a.png", "slide", False),
        ("slide/*", "slide", True),
        ("slide/*", "slide/boxed", True),
        ("slide/*.png", "slide", True),
        ("slide/*.png", "slide/boxed", False),
        ("slide/*.jpg", "slide", False),
        ("**/*.png", "boxed", True),
        ("../run [[]1]/*", ".", False),
    ],
)
def test_drawings_that_would_be_read(
    word: str, folder: str, read: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "run [1]" / "slide").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "run [1]")
    assert reads([word], Path(folder)) == (word if read else "")
