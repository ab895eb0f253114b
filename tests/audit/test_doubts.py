"""`audit --labels` on drawn smears, with a run whose answers are made up."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bloodcell.audit.opinions import Photographs, ask
from bloodcell.cli.main import main
from bloodcell.data.identity import image_keys
from bloodcell.data.source import open_source
from bloodcell.data.table import build_table
from bloodcell.errors import InputError
from bloodcell.evaluate.scores import read_predictions, write_predictions

Refused = Callable[..., str]
PLANTED = "photograph with the planted error"


@pytest.fixture
def sure_run(run: Path, tmp_path: Path) -> Path:
    """The run, as if it had been sure and right about each test photograph."""
    copy = Path(shutil.copytree(run, tmp_path / "runs" / "sure" / "version_0"))
    found = read_predictions(copy)
    right = np.full_like(found.probability, 0.02)
    right[np.arange(len(found.true)), found.true] = 0.94
    write_predictions(copy, found._replace(probability=right))
    return copy


def plant(run: Path) -> tuple[str, str]:
    """Makes the run sure of another class for one photograph; returns its name and label."""
    found = read_predictions(run)
    photo, label = found.photo[0], int(found.true[0])
    of = np.array([name == photo for name in found.photo])
    found.probability[of] = 0.02
    found.probability[of, (label + 1) % len(found.class_names)] = 0.94
    write_predictions(run, found)
    return photo, found.class_names[label]


def change_keys(run: Path, keys: torch.Tensor | None) -> None:
    """Changes the list of training images in the run's best checkpoint."""
    path = run / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["BloodCells"].pop("trained_on")
    if keys is not None:
        checkpoint["BloodCells"]["trained_on"] = keys
    torch.save(checkpoint, path)


def of_smears(smears: Path) -> list[str]:
    return ["audit", str(smears / "images"), "--photos", str(smears / "photos.csv")]


def read_list(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_label_that_a_run_doubts_comes_first(
    smears: Path, sure_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, label = plant(sure_run)
    main([*of_smears(smears), "--labels", str(sure_run), "--out", "x.csv", "--sheet", "x.png"])
    lines = read_list("x.csv")
    tested = read_predictions(sure_run)
    assert {line["photo"] for line in lines} == set(tested.photo)
    first = lines[0]
    assert (first["photo"], first["label"], first["likely"]) == (photo, label, "yes")
    assert (first["doubt"], first["models"], first["against"]) == ("0.98", "1", "1")
    assert first["file"] in tested.file
    assert first["suggested"] != label
    assert all(line["suggested"] == line["label"] for line in lines[1:])
    assert [line["likely"] for line in lines].count("yes") == 1
    with Image.open("x.png") as sheet:
        assert sheet.width > 1200, "legible"
    said = capsys.readouterr().out
    assert "20 photographs (its test part); not the " in said
    assert f"likely wrong 1 labels ({label} as {first['suggested']} 1)" in said
    assert "photographs that no model can judge" in said
    assert "pixels       not examined" in said


def test_a_model_classifies_what_it_was_not_trained_on(
    smears: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint on its own has no list of predictions."""
    main([*of_smears(smears), "--labels", str(run / "checkpoints/best.ckpt"), "--out", "x.csv"])
    assert "(classified now); not the " in capsys.readouterr().out
    asked = {line["photo"] for line in read_list("x.csv")}
    source = open_source(str(smears / "images"))
    table = build_table(source, smears / "photos.csv")
    photographs = Photographs(source, table)
    state = torch.load(run / "checkpoints/best.ckpt", weights_only=True)["BloodCells"]
    seen = photographs.trained_on(state["trained_on"].numpy())
    assert asked == {name for name, was in zip(photographs.name, seen, strict=True) if not was}
    assert set(read_predictions(run).photo) < asked, "validation photographs as well"


def test_classifying_now_gives_the_answers_of_the_test_part(smears: Path, run: Path) -> None:
    main([*of_smears(smears), "--labels", str(run / "checkpoints/best.ckpt"), "--out", "now.csv"])
    main([*of_smears(smears), "--labels", str(run), "--out", "then.csv"])
    now = {line["photo"]: line for line in read_list("now.csv")}
    for line in read_list("then.csv"):  # not calibrated
        difference = float(line["p_label"]) - float(now[line["photo"]]["p_label"])
        assert abs(difference) < 0.02


def test_photographs_of_the_training_part_are_not_judged(
    smears: Path, sure_run: Path, refused: Refused
) -> None:
    """As with `split: seed`, where copies of the test photographs are in training."""
    source = open_source(str(smears / "images"))
    table = build_table(source, smears / "photos.csv")
    rows = Photographs(source, table).first.tolist()  # one copy of each
    change_keys(sure_run, image_keys(table, source, rows))
    said = refused(*of_smears(smears), "--labels", str(sure_run))
    assert "it was trained on all photographs that it has answers for, or on their cells" in said
    assert "--config best_folds.yaml" in said


def test_a_model_that_does_not_list_its_images_is_left_out(
    smears: Path, sure_run: Path, refused: Refused
) -> None:
    change_keys(sure_run, None)
    said = refused(*of_smears(smears), "--labels", str(sure_run))
    assert "does not list the images it was trained on" in said


def test_a_run_that_is_left_out_is_named_beside_one_that_counts(
    smears: Path, run: Path, sure_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_keys(sure_run, None)
    main([*of_smears(smears), "--labels", str(run), str(sure_run.parent)])
    said = capsys.readouterr().out
    assert "runs/sure/version_0: LEFT OUT: it does not list the images" in said
    assert "20 photographs (its test part)" in said


def test_images_under_other_labels_are_still_those_of_the_training(
    make_folders: Callable[..., Path],
) -> None:
    root = make_folders({"round": 4, "lobed": 4})
    source = open_source(str(root))
    table = build_table(source)
    keys = image_keys(table, source, range(len(table.rows))).numpy()
    (root / "round" / "0.png").rename(root / "lobed" / "moved.png")
    (root / "lobed" / "1.png").unlink()
    (root / "round" / "1.png").rename(root / "lobed" / "1.png")  # the label was corrected
    now = open_source(str(root))
    photographs = Photographs(now, build_table(now))
    seen = dict(zip(photographs.name, photographs.trained_on(keys).tolist(), strict=True))
    assert seen.pop("lobed/moved.png") is False, "another name is another image"
    assert all(seen.values())
    lines = [f"{row.path},{'b' if n % 3 else 'a'}" for n, row in enumerate(table.rows)]
    Path("labels.csv").write_text("\n".join(["file,class", *lines[:3], *lines[6:]]))
    assert all(seen.values())


def test_labels_of_a_table(make_folders: Callable[..., Path]) -> None:
    """Trained with a label table; now another one corrects a label."""
    source = open_source(str(make_folders({".": 4})))
    lines = ["file,class", "0.png,a", "1.png,a", "2.png,b", "3.png,b"]
    Path("then.csv").write_text("\n".join(lines))
    Path("now.csv").write_text("\n".join(lines).replace("1.png,a", "1.png,b"))
    then, now = (build_table(source, labels=name) for name in ("then.csv", "now.csv"))
    keys = image_keys(then, source, [1, 3]).numpy()
    assert Photographs(source, now).trained_on(keys).tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--labels absent", "--labels absent: no such file or folder. Give run folders"),
        ("--labels pictures --out x.json", "--out=x.json cannot be used: it must be a file ending"),
        ("--labels pictures --sheet x.jpg", "--sheet=x.jpg cannot be used"),
        ("--sheet x.png", "--sheet=x.png cannot be used: it must be used with --labels"),
        ("--labels pictures --write_photos x.csv", "it must be used without --labels"),
        ("--labels pictures", "--labels pictures: no checkpoint there"),
        ("--labels m.onnx", "an exported model does not list the images it was trained on"),
        ("--labels", "--labels: expected at least one argument"),
    ],
)
def test_refusals(
    make_folders: Callable[..., Path], refused: Refused, words: str, message: str
) -> None:
    make_folders({"round": 3, "lobed": 3})
    Path("m.onnx").touch()
    assert message in refused("audit", "pictures", *words.split())


def test_damaged_predictions(smears: Path, sure_run: Path, refused: Refused) -> None:
    (sure_run / "predictions.csv").write_text("split,file,photo,class,p_a\ntest,x.png,x,b,1\n")
    said = refused(*of_smears(smears), "--labels", str(sure_run))
    assert "predictions.csv is damaged" in said
    assert "give checkpoints/best.ckpt" in said


def test_an_unfinished_run_is_left_out(
    smears: Path, sure_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unfinished = sure_run.with_name("version_1")
    unfinished.mkdir()
    (unfinished / "config.yaml").touch()
    main([*of_smears(smears), "--labels", str(sure_run.parent)])
    assert "version_1: LEFT OUT: it has no best checkpoint" in capsys.readouterr().out


def test_boxed_cells_are_judged_by_runs_on_them_only(
    make_folders: Callable[..., Path], run: Path
) -> None:
    root = make_folders({"": 2})
    rows = ["file,class,xmin,ymin,xmax,ymax", "0.png,a,1,1,9,9", "1.png,b,1,1,9,9"]
    (root / "boxes.csv").write_text("\n".join(rows))
    source = open_source(str(root))
    with pytest.raises(InputError, match=rf"^--labels {run}: it was not tested on these data"):
        ask(run, Photographs(source, build_table(source)))
