"""Images in one folder, and a table that gives their classes, as most medical sets come."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bloodcell.cli.main import main
from bloodcell.data.datamodule import BloodCells
from bloodcell.data.identity import image_keys
from bloodcell.data.source import open_source
from bloodcell.data.table import Table, build_table
from bloodcell.errors import InputError

Folders = Callable[..., Path]


def table_of(root: Path, lines: str, photos: str | None = None) -> Table:
    Path("labels.csv").write_text(lines)
    return build_table(open_source(str(root)), photos, "labels.csv")


@pytest.mark.parametrize(
    "names",
    [
        ["0.png", "1.png", "2.png"],
        ["0", "1", "2"],
        ["img/0.png", "img/1", "2.png"],
        ["pictures\\img\\0.png", "pictures/img/1.png", "./2.png"],
        ["C:\\old\\set\\img\\0.png", "/home/me/img/1.png", "/home/me/img/2"],
        ["0.PNG", "1.jpg", "2.tif"],
    ],
)
@pytest.mark.parametrize("header", ["file,class", "Image,Category", "id,label", "image_id,dx"])
def test_usual_names(make_folders: Folders, names: list[str], header: str) -> None:
    root = make_folders({"img": 3})
    lines = [f"{name},{kind}" for name, kind in zip(names, ["x", "y", "x"], strict=True)]
    table = table_of(root, "\n".join([header, *lines]))
    assert [(row.path, row.class_name) for row in table.rows] == [
        ("img/0.png", "x"), ("img/1.png", "y"), ("img/2.png", "x"),
    ]  # fmt: skip
    assert table.class_names == ("x", "y")


def test_split_folders_stay_parts(make_folders: Folders) -> None:
    root = make_folders({"Train": 3, "test/p1": 2, "other": 1})
    lines = "Train/0,x\nTrain/1,y\nTrain/2,x\ntest/p1/0,x\ntest/p1/1,y\nother/0,y"
    table = table_of(root, f"file,class\n{lines}")
    assert Counter(row.official for row in table.rows) == {"train": 3, "test": 2, "": 1}


def test_images_without_a_line_are_counted(make_folders: Folders) -> None:
    root = make_folders({".": 60})
    lines = "\n".join(f"{n},{'xy'[n % 2]}" for n in range(50))
    Path("labels.csv").write_text(f"file,class\n{lines}\n")
    data = BloodCells(str(root), labels="labels.csv", image_size=32)
    assert len(data.table.rows) == 50
    assert "data.labels has no line for 10 images: they are left out" in data.summary()


def test_one_table_may_give_classes_and_photographs(make_folders: Folders) -> None:
    root = make_folders({".": 4})
    lines = "file,class,photo\n0.png,x,p\n1.png,x,p\n2.png,y,q\n3.png,y,r\n"
    table = table_of(root, lines, "labels.csv")
    assert [row.photo for row in table.rows] == ["p", "p", "q", "r"]
    assert table.unmapped == 0


def test_the_fingerprint_follows_the_classes(make_folders: Folders) -> None:
    root = make_folders({".": 3})
    before = table_of(root, "file,class\n0,x\n1,y\n2,x")
    assert table_of(root, "file;class\n2;x\n1;y\n0;x").fingerprint == before.fingerprint
    assert table_of(root, "file,class\n0,x\n1,y\n2,y").fingerprint != before.fingerprint


def test_images_of_one_name_and_size_have_keys_of_their_own(make_folders: Folders) -> None:
    root = make_folders({"p1": 1, "p2": 1})
    shutil.copy(root / "p1" / "0.png", root / "p2" / "0.png")
    shutil.copy(root / "p1" / "0.png", root / "p2" / "1.png")
    table = table_of(root, "file,class\np1/0,x\np2/0,x\np2/1,y\n")
    assert len(set(image_keys(table, open_source(str(root)), range(3)).tolist())) == 3


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("name,kind\n0,x", r"lacks the column file \(or image, .*\(found: name, kind\)"),
        ("file,kind\n0,x", r"lacks the column class \(or label, .*\(found: file, kind\)"),
        ("file,class\na/0,x\nb/0,\n", r"line 3: file='b/0', class=''\. Neither may be empty"),
        (
            "file,class\na/0,x\n7,y\n8,y",
            r"2 lines match no image: '7', '8'.*names such as 'a/0\.png'",
        ),
        (
            "file,class\n0,x\na/0,y",
            r"1 lines match several images each: '0' \(a/0\.png, b/0\.png\)",
        ),
        ("file,class\na/0,x\na/0.png,y", r"line 3: 'a/0\.png' is y, but a/0\.png was given the"),
        ("file,class\n", "has no lines"),
        ("file,class\na/0,x\nb/0,x", "only one class"),
        ("file,class\na/0,x\nb/0,X", "classes 'X' and 'x' have almost .* in data.labels=labels"),
    ],
)
def test_bad_tables(make_folders: Folders, lines: str, message: str) -> None:
    root = make_folders({"a": 1, "b": 1})
    with pytest.raises(InputError, match=message):
        table_of(root, lines)


def test_one_folder_of_images_names_the_way_out(make_folders: Folders) -> None:
    for folder in (".", "img", "train/img"):
        root = make_folders({folder: 2}, root=folder.replace("/", "-").replace(".", "flat"))
        with pytest.raises(
            InputError, match=r"data\.labels a table with the columns file and class"
        ):
            build_table(open_source(str(root)))


def test_audit_takes_the_table(make_folders: Folders) -> None:
    root = make_folders({".": 4})
    Path("labels.csv").write_text("file,class\n0,x\n1,y\n2,x\n")
    main(["audit", str(root), "--label_table", "labels.csv", "--out", "audit.json"])
    found = json.loads(Path("audit.json").read_text())
    assert {name: of["files"] for name, of in found["classes"].items()} == {"x": 2, "y": 1}


def test_a_run_from_a_label_table(
    smears: Path, words: list[str], refused: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained, resumed and tested as from class folders; another table is refused."""
    lines, flat = ["file;class"], Path("flat")
    for path in sorted((smears / "images").glob("T[ER]*[TN]/*/*")):
        name = f"{path.parent.parent.name}/{path.name}"
        (flat / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, flat / name)
        lines.append(f"{name};{path.parent.name}")
    Path("labels.csv").write_text("\n".join(lines))
    photos = (smears / "photos.csv").read_text()
    Path("photos.csv").write_text(re.sub(r"(TRAIN|TEST)/[A-Z]+/", r"\1/", photos))
    words[words.index("--data.root") + 1] = "flat"
    words[words.index("--data.photos") + 1] = "photos.csv"
    fit = ["fit", "--name", "n", *words, "--data.labels", "labels.csv", "--trainer.max_epochs"]
    main([*fit, "1"])
    run = Path("lightning_logs", "n", "version_0")
    scores = json.loads((run / "scores.json").read_text())
    assert scores["files"]["test"] == 40
    main([*fit, "2", "--ckpt_path", "last"])
    capsys.readouterr()
    main(["test", "--ckpt_path", str(run), "--trainer.accelerator", "cpu"])
    assert "test" in capsys.readouterr().out
    said = refused("test", "--ckpt_path", str(run), "--data.labels", "null")
    assert "parts without class folders (TEST, TRAIN)" in said
    Path("labels.csv").write_text("\n".join(lines[:-1]))
    said = refused(*fit, "3", "--ckpt_path", "last")
    assert "has changed since the run began" in said


def test_a_test_folder_beside_others(make_folders: Folders) -> None:
    root = make_folders({"test": 2, ".": 2})
    with pytest.raises(InputError, match=r"no folder train, but .* outside of it \(\.\)\. Move"):
        table_of(root, "file,class\ntest/0,x\ntest/1,y\npictures/0.png,x\npictures/1.png,y")


def test_a_table_in_the_home_folder(
    make_folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    root = make_folders({".": 2})
    (tmp_path / "labels.csv").write_text("file,class\n0,x\n1,y\n")
    given: Any = {"root": root, "labels": Path("~/labels.csv"), "fold": np.int64(1)}
    data = BloodCells(**given)
    assert data.table.class_names == ("x", "y")
    assert data.hparams["labels"] == "~/labels.csv"
    assert data.hparams["root"] == str(root)
    assert type(data.hparams["fold"]) is int
