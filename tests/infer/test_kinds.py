"""Files of microscopes through every way in: the command, Python, uploads, training and audit."""

import json
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import bloodcell
from bloodcell.cli.main import main
from bloodcell.data.datamodule import BloodCells
from bloodcell.data.image_files import LeftOut
from bloodcell.infer.inputs import find_images
from bloodcell.infer.saved import load_saved
from bloodcell.serve.api import as_dict
from bloodcell.serve.opinion import Adviser

SCALED = "scaled so that 4,095 is white"


@pytest.fixture
def slide(smears: Path) -> Path:
    """A picture in 8 bits, the same in 12, one of two pages, and files of unsupported types."""
    folder = Path("slide")
    folder.mkdir()
    with Image.open(next(smears.rglob("TEST/*/*.jpeg"))) as image:
        pixels = np.array(image)
        image.save(folder / "a8.png")
        image.save(folder / "pages.gif", save_all=True, append_images=[image.rotate(90)])
    deep = np.rint(pixels * (4095 / 255)).astype(np.uint16)
    tifffile.imwrite(folder / "b12.tif", deep, photometric="rgb")
    for name in ("c.czi", "d.CZI", "e.heic", "._f.czi", "Thumbs.db", "notes.txt", "czi"):
        (folder / name).write_bytes(b"x")
    return folder


def test_predict_says_what_it_left_out_and_scaled(
    slide: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile("slide.zip", "w") as archive:
        for path in slide.iterdir():
            archive.write(path, path.name)
    for given in (str(slide), "slide.zip", f"{slide}/*"):
        main(["predict", given, "--model", str(run), "--out", "said.jsonl"])
        said = capsys.readouterr().err
        assert f"{SCALED}: {given.removesuffix('/*')}/b12.tif" in said
        assert "only the first page is read: " in said
        assert "3 files of unsupported types (2 .czi, 1 .heic) are skipped: convert them" in said
        rows = [json.loads(line) for line in Path("said.jsonl").read_text().splitlines()]
        by_name = {Path(row["file"]).name: row for row in rows}
        assert by_name.keys() == {"a8.png", "b12.tif", "pages.gif"}
        assert by_name["a8.png"]["p_MONOCYTE"] == by_name["b12.tif"]["p_MONOCYTE"]


def test_explain_says_it_too(slide: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["explain", str(slide), "--model", str(run)])
    said = capsys.readouterr().err
    assert f"{SCALED}: {slide}/b12.tif" in said
    assert "3 files of unsupported types (2 .czi, 1 .heic) are skipped" in said


def test_a_file_without_an_ending_is_read_only_by_its_own_path(slide: Path) -> None:
    (slide / "a8.png").rename(slide / "noext")
    with ExitStack() as archives:
        for given, names in ((slide, ["b12.tif", "pages.gif"]), (slide / "noext", ["noext"])):
            left_out = LeftOut()
            found = find_images([str(given)], archives, left_out)
            assert [Path(image.name).name for image in found] == names
            assert "" not in left_out


def test_python_says_it_too(slide: Path, run: Path) -> None:
    said = bloodcell.load(run).predict(slide)
    assert [row.note for row in said] == ["", SCALED, "only the first page is read"]
    assert said.left_out == {".czi": 2, ".heic": 1}
    np.testing.assert_array_equal(said.probability[0], said.probability[1])


def test_an_upload_says_it_too(slide: Path, run: Path) -> None:
    adviser = Adviser(load_saved(run))
    # each alone: the place in a batch changes the rounding on some processors
    (plain,), (deep,) = (
        map(as_dict, adviser.look([(one, (slide / one).read_bytes())]))
        for one in ("a8.png", "b12.tif")
    )
    assert deep["note"] == SCALED
    assert "note" not in plain
    assert deep["probability"] == plain["probability"]


def test_a_folder_of_other_kinds_only(run: Path, refused: Callable[..., str]) -> None:
    Path("none").mkdir()
    Path("none", "a.czi").touch()
    said = refused("predict", "none", "--model", str(run))
    assert "none: contains no images. Looked for .jpeg" in said
    assert "1 files of unsupported types (1 .czi) are skipped" in said


def test_training_says_it_each_time(
    make_folders: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_folders({"a": 15, "b": 15})
    deep = np.full((40, 40, 3), 3000, np.uint16)
    tifffile.imwrite(root / "b" / "deep.tif", deep, photometric="rgb")
    (root / "b" / "x.nd2").touch()
    for cache_gib in (1, 1, 0):  # decoded, found, without a cache
        data = BloodCells(str(root), image_size=32, cache_gib=cache_gib)
        data.prepare_data()
        data.setup("fit")
        assert capsys.readouterr().err == f"{SCALED}: b/deep.tif\n"
        assert "1 files of unsupported types (1 .nd2) are skipped" in data.summary()
        names = [row.path for row in data.table.rows]
        part = next(of for of in data.datasets.values() if names.index("b/deep.tif") in of.rows)
        place = part.rows.tolist().index(names.index("b/deep.tif"))
        assert part.__getitems__([place])["image"].float().mean() == 187


def test_audit_says_it(
    make_folders: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_folders({"a": 2, "b": 2})
    tifffile.imwrite(root / "b" / "f.tif", np.full((40, 40, 3), 0.5, np.float32), photometric="rgb")
    (root / "b" / "x.nd2").touch()
    main(["audit", str(root), "--out", "audit.json"])
    found = json.loads(Path("audit.json").read_text())
    assert found["notes"] == {"b/f.tif": "scaled so that 1 is white"}
    assert found["left_out"] == {".nd2": 1}
    assert (found["sizes"], found["modes"]) == ({"40x40": 5}, {"RGB": 4, "other": 1})
    said = capsys.readouterr().out
    assert "note         scaled so that 1 is white: b/f.tif" in said
    assert "left out     1 files of unsupported types (1 .nd2) are skipped" in said
    assert found["outside"] == 0
    (root / "b" / "0.png").rename(root / "loose.png")
    main(["audit", str(root)])
    said = capsys.readouterr().out
    assert "left out     1 images outside of the class or split folders, or without a line" in said
