"""What `audit` finds in drawn smears, into which every fault was put by hand."""

import csv
import errno
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from PIL import Image

from bloodcell.audit.findings import _Group
from bloodcell.cli.main import main
from bloodcell.data.source import open_source
from bloodcell.data.table import Row, build_table
from bloodcell.datasets.kaggle import read_photos
from bloodcell.errors import InputError
from bloodcell.files import check_place

Refused = Callable[..., str]


def audit(*words: str) -> tuple[int, dict[str, Any]]:
    """Runs it and returns the exit status and what it wrote."""
    status = 0
    try:
        main(["audit", *words, "--out", "audit.json"])
    except SystemExit as stop:
        status = int(stop.code or 0)
    return status, json.loads(Path("audit.json").read_text())


@pytest.fixture
def clean(smears_copy: Path) -> Path:
    """Drawn smears without the photographs that show a cell once more, one of each class."""
    root = smears_copy / "images"
    rows = build_table(open_source(str(root)), smears_copy / "photos.csv").rows
    trained_on = {row.cell for row in rows if row.official == "train"}
    for row in rows:
        if row.official != "train" and row.cell in trained_on:
            (root / row.path).unlink()
    return smears_copy


def test_clean_smears(clean: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = ["--photos", str(clean / "photos.csv"), "--write_photos", "photos.csv"]
    status, found = audit(str(clean / "images"), *table)
    assert status == 0
    assert found["images"] == 112
    assert found["parts"]["train"] == {"files": 64, "photographs": 32}
    assert found["parts"]["test"] == {"files": 32, "photographs": 16}
    assert found["unreadable"] == {}
    assert found["sizes"] == {"320x240": 112}
    assert found["modes"] == {"RGB": 112}
    known = found["photo_table"]
    assert known["photographs"] == known["found_exactly"] == found["photographs"] == 48
    assert known["recall_of_pairs"] == known["precision_of_pairs"] == 1
    assert found["leaks"] == found["scene_leaks"] == found["label_conflicts"] == []
    assert [len(group) for group in found["copies"]] == [3] * 16 + [2] * 32
    said = capsys.readouterr().out
    assert "leak         none: no photograph is in more than one of train, val and test" in said
    # what was written is a photo table
    written = build_table(open_source(str(clean / "images")), Path("photos.csv"))
    drawn = build_table(open_source(str(clean / "images")), clean / "photos.csv")
    pairs = {(a.photo, b.photo) for a, b in zip(written.rows, drawn.rows, strict=True)}
    assert len(pairs) == 48
    assert written.unmapped == 0
    # how sure each join is: in the table, in the JSON file and on the console
    with Path("photos.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert {line["sure"] for line in lines} == {"sure"}, "each photograph has copies"
    assert {float(line["likeness"]) for line in lines} == set(found["likeness"]["copies"])
    assert 0.6 < min(found["likeness"]["copies"]) < 1
    assert "how sure     sure 48" in said


def test_a_cell_that_was_photographed_twice_is_a_leak(smears: Path) -> None:
    """The drawn set has one of each class in TRAIN and TEST, as the Kaggle set does."""
    status, found = audit(str(smears / "images"), "--photos", str(smears / "photos.csv"))
    assert status == 1
    known = found["photo_table"]
    assert known["cells_photographed_more_than_once"] == len(known["leaks"]) == 4
    assert sorted(map(sorted, found["leaks"])) == sorted(map(sorted, known["leaks"]))


def test_every_fault_is_found(clean: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = clean / "images"
    train = images / "TRAIN"
    leaked = sorted((train / "NEUTROPHIL").iterdir())[0]
    with Image.open(leaked) as image:
        turned = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).rotate(15)
        turned.save(images / "TEST" / "NEUTROPHIL" / "leak.png")
    mislabelled = sorted((train / "MONOCYTE").iterdir())[0]
    shutil.copy(mislabelled, train / "EOSINOPHIL" / "wrong.jpeg")
    (train / "MONOCYTE" / "empty.jpeg").touch()
    (train / "MONOCYTE" / "text.jpeg").write_text("no image")
    grey = np.random.default_rng(0).integers(0, 255, (60, 50), np.uint8)
    Image.fromarray(grey).save(train / "MONOCYTE" / "grey.png")
    status, found = audit(str(images), "--write_photos", "photos.csv")
    assert status == 1
    (train / "EOSINOPHIL" / "wrong.jpeg").unlink()
    said = capsys.readouterr().out
    assert "correct the labels first" in said
    written = build_table(open_source(str(images)), Path("photos.csv"))
    assert written.unmapped == 0, "also images that cannot be read have their line"
    leak = [path.split("images/")[-1] for path in found["leaks"][0]]
    assert leak[0] == "TEST/NEUTROPHIL/leak.png"
    assert f"TRAIN/NEUTROPHIL/{leaked.name}" in leak
    assert len(found["leaks"]) == 1
    (conflict,) = found["label_conflicts"]
    assert {path.split("/")[-2] for path in conflict} == {"EOSINOPHIL", "MONOCYTE"}
    reasons = {Path(path).name: why for path, why in found["unreadable"].items()}
    assert reasons == {
        "empty.jpeg": "empty file",
        "text.jpeg": "not an image in a supported format",
    }
    assert (found["sizes"]["50x60"], found["modes"]["L"]) == (1, 1)
    equal = [sorted(Path(path).name for path in names) for names in found["equal_pixels"]]
    assert sorted([mislabelled.name, "wrong.jpeg"]) in equal
    assert found["photo_table"] is None
    several = "more than one of train, val and test"
    assert f"LEAK         photographs in {several}: 1 (TEST/NEUTROPHIL/leak.png and " in said
    assert ": sure)" in said.split("LEAK", 1)[1]
    assert "LABELS       photographs with two classes: 1 (" in said
    assert "unreadable   2: " in said


def test_undivided_folders(make_folders: Callable[..., Path]) -> None:
    status, found = audit(str(make_folders({"round": 3, "lobed": 3})))
    assert status == 0
    assert found["parts"] == {"all": {"files": 6, "photographs": 3}}, "one noise, two colours"
    assert found["without_features"] == 0


def test_pictures_without_copies_have_no_wrong_ones(
    clean: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (clean / "images").glob("TRAIN/*/*"):
        path.unlink()
    table = build_table(open_source(str(clean / "images")), clean / "photos.csv")
    kept: set[str] = set()
    for row in table.rows:
        if row.photo in kept:
            (clean / "images" / row.path).unlink()
        kept.add(row.photo)
    found = audit(str(clean / "images"), "--photos", str(clean / "photos.csv"))[1]
    known = found["photo_table"]
    assert known["recall_of_pairs"] == known["precision_of_pairs"] == 1
    assert "0.00% of the found pairs are wrong" in capsys.readouterr().out


def test_names_that_look_like_markup(clean: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("TRAIN", "TEST"):
        (clean / "images" / part / "MONOCYTE").rename(clean / "images" / part / "WBC [old] $x_$")
    audit(str(clean / "images"))
    assert "WBC [old] $x_$" in capsys.readouterr().out


def test_what_cannot_be_audited(refused: Refused, make_folders: Callable[..., Path]) -> None:
    assert "bloodcell audit needs FOLDER. See `bloodcell audit --help`." in refused("audit")
    assert "audit takes no further arguments (got: b)" in refused("audit", "a", "b")
    options = "--photos, --label_table, --out, --write_photos, --labels, --sheet"
    assert f"audit takes {options} (got: --deep)" in refused("audit", "a", "--deep")
    assert "FOLDER='nowhere' does not exist" in refused("audit", "nowhere")
    Path("loose").mkdir()
    (Path("loose") / "a.png").touch()
    assert "or give --label_table a table with" in refused("audit", "loose")
    folder = str(make_folders({"a": 2, "b": 2}))
    Path("data.photos.csv").write_text("file,photo\na/0.png,1\n")
    said = refused("audit", folder, "--photos", "data.photos.csv")
    assert "--photos='data.photos.csv' has no line for 3 of 4 images" in said
    assert "--out=x.csv cannot be used: it must be a file ending in .json" in refused(
        "audit", folder, "--out", "x.csv"
    )
    assert "--write_photos=no/x.csv cannot be used: it must be in a folder that exists" in refused(
        "audit", folder, "--write_photos=no/x.csv"
    )
    for path in Path(folder).rglob("*.png"):
        path.write_bytes(b"")
    assert "none of its 4 images can be read" in refused("audit", folder)


def test_a_full_disk_does_not_cost_the_findings(
    make_folders: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(path: Path) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("bloodcell.audit.audit.write_whole", full)
    with pytest.raises(SystemExit):
        main(["audit", str(make_folders({"a": 2, "b": 2})), "--out", "found.json"])
    said = capsys.readouterr()
    assert "unreadable" in said.out
    assert "no space to write found.json" in said.err


def test_files_that_could_not_be_written_are_refused_first(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("found.json").mkdir()
    with pytest.raises(InputError, match=r"^--out=found\.json .* a file, not a folder"):
        check_place("--out", "found.json", ".json")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(InputError, match=r"^--out=a\.json .* in a folder that you may write to"):
        check_place("--out", "a.json", ".json")


def test_torch_is_not_needed(make_folders: Callable[..., Path]) -> None:
    folder = make_folders({"a": 2, "b": 2})
    code = f"import sys; from bloodcell.cli.main import main; main(['audit', {str(folder)!r}])"
    command = [sys.executable, "-c", f"{code}; print('torch' in sys.modules)"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.real
def test_real_photographs(real_zip: Path, tmp_path: Path) -> None:
    """Every file of 24 photographs: their groups, from pixels, are those of the shipped table."""
    known = read_photos()
    chosen = set(sorted({origin.photo for origin in known.values()})[::15])
    with zipfile.ZipFile(real_zip) as archive:
        for name in archive.namelist():
            key = "/".join(name.split("/")[-3:])
            if key in known and known[key].photo in chosen:
                target = tmp_path / "images" / key
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(name))
    found = audit("images")[1]["photo_table"]
    assert found["found_exactly"] == found["photographs"] == len(chosen)
    assert found["precision_of_pairs"] == 1


@pytest.mark.real
@pytest.mark.slow
def test_the_whole_set(real_zip: Path) -> None:
    status, found = audit(str(real_zip))
    assert status == 1, "four cells lie in TRAIN and TEST"
    known = found["photo_table"]
    assert known["photographs"] == 348
    assert known["found_exactly"] >= 0.99 * 348
    assert known["precision_of_pairs"] >= 0.99
    assert len(known["leaks"]) == 4
    assert found["seconds"] < 600


def test_boxed_cells_are_not_compared(make_folders: Callable[..., Path], refused: Refused) -> None:
    root = make_folders({"": 2})
    rows = ["file,class,xmin,ymin,xmax,ymax", "0.png,a,1,1,9,9", "0.png,b,9,9,20,20"]
    (root / "boxes.csv").write_text("\n".join([*rows, "1.png,b,1,1,9,9"]))
    assert "its table boxes.csv names several cells of one picture" in refused("audit", str(root))


def test_the_shown_images_contradict_each_other() -> None:
    """Also if a group begins and ends with images of one part, or of none."""
    one = Row("", "A", "train", "1", "1")
    rows = [
        replace(one, path=f"{n}", official=part, class_name=name)
        for n, (part, name) in enumerate(
            [("test", "A"), ("train", "B"), ("simple", "B"), ("test", "A")]
        )
    ]
    assert [row.path for row in _Group(rows, 1.0).by_part().rows] == ["0", "3", "2", "1"]
    assert [row.path for row in _Group(rows, 1.0).by_class().rows] == ["0", "3", "1", "2"]
