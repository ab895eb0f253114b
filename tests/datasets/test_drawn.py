"""Tests of the drawn blood smears: what the demo data set promises to those who train on it."""

from __future__ import annotations

import csv
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bloodcell.datasets.drawn import CLASS_NAMES, smears
from bloodcell.datasets.drawn.scene import HEIGHT, WIDTH
from bloodcell.datasets.drawn.smears import draw_copy, draw_photograph, write_smears

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from contact_sheet import draw_sheet

TRAIN_PHOTOS, TEST_PHOTOS, COPIES = 3, 2, 2


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set drawn by one process."""
    root = tmp_path_factory.mktemp("smears") / "set"
    write_smears(root, TRAIN_PHOTOS, TEST_PHOTOS, COPIES, seed=5, workers=1)
    return root


@pytest.fixture(scope="module")
def rows(data_set: Path) -> list[dict[str, str]]:
    """The rows of the small data set's photos.csv."""
    with (data_set / "photos.csv").open(encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table))


def _contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("class_name", CLASS_NAMES)
def test_photograph_has_the_promised_form(class_name: str) -> None:
    photograph = draw_photograph(class_name, 3)
    assert photograph.class_name == class_name
    assert photograph.pixels.shape == (HEIGHT, WIDTH, 3)
    assert photograph.pixels.dtype == np.uint8


def test_same_seed_gives_the_same_pixels_and_box() -> None:
    first, second = (draw_photograph("NEUTROPHIL", (4, 2)) for _ in range(2))
    np.testing.assert_array_equal(first.pixels, second.pixels)
    assert first.box == second.box


@pytest.mark.parametrize("other", [("NEUTROPHIL", 8), ("MONOCYTE", 7)])
def test_another_seed_or_class_gives_another_picture(other: tuple[str, int]) -> None:
    here, there = draw_photograph("NEUTROPHIL", 7), draw_photograph(*other)
    border = (slice(0, 5), slice(None))
    assert (here.pixels[border] != there.pixels[border]).mean() > 0.5


def test_unknown_class_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'BASOPHIL'.*EOSINOPHIL.*NEUTROPHIL"):
        draw_photograph("BASOPHIL", 0)


@pytest.mark.parametrize("class_name", CLASS_NAMES)
def test_box_holds_the_whole_stained_cell(class_name: str) -> None:
    for seed in range(8):
        photograph = draw_photograph(class_name, seed)
        xmin, ymin, xmax, ymax = photograph.box
        assert 0 < xmin < xmax < WIDTH
        assert 0 < ymin < ymax < HEIGHT
        pixels = photograph.pixels.astype(float)
        inside = pixels[int(ymin) : int(ymax), int(xmin) : int(xmax)].mean(axis=(0, 1))
        around = pixels.copy()
        around[int(ymin) : int(ymax), int(xmin) : int(xmax)] = np.nan
        outside = np.nanmean(around, axis=(0, 1))
        assert inside.mean() < outside.mean()
        # Green is the light a purple or red stain takes away most.
        assert inside[1] / inside.sum() < outside[1] / outside.sum()


def test_box_sizes_order_as_in_the_atlas() -> None:
    widths = {
        name: np.mean([(box := draw_photograph(name, seed).box)[2] - box[0] for seed in range(8)])
        for name in CLASS_NAMES
    }
    assert widths["LYMPHOCYTE"] < widths["NEUTROPHIL"] < widths["MONOCYTE"]
    assert widths["LYMPHOCYTE"] < widths["EOSINOPHIL"] < widths["MONOCYTE"]


def test_border_colour_does_not_tell_the_class() -> None:
    colours = np.array(
        [
            [_border_colour(draw_photograph(name, seed).pixels) for seed in range(16)]
            for name in CLASS_NAMES
        ]
    )
    between = np.ptp(colours.mean(axis=1), axis=0)
    within = np.ptp(colours, axis=1).mean(axis=0)
    assert (between < 0.5 * within).all()


def _border_colour(pixels: np.ndarray) -> np.ndarray:
    sides = (pixels[:6], pixels[-6:], pixels[:, :6], pixels[:, -6:])
    return np.asarray(np.median(np.concatenate([side.reshape(-1, 3) for side in sides]), axis=0))


def test_copy_is_repeatable_and_differs_from_its_original() -> None:
    original = draw_photograph("EOSINOPHIL", 1)
    copy, again, other = (draw_copy(original, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(copy.pixels, again.pixels)
    assert (copy.pixels != original.pixels).mean() > 0.5
    assert (copy.pixels != other.pixels).mean() > 0.5
    assert copy.class_name == "EOSINOPHIL"


def test_copy_box_follows_the_cell() -> None:
    original = draw_photograph("LYMPHOCYTE", 11)
    for seed in range(20):
        copy = draw_copy(original, seed)
        xmin, ymin, xmax, ymax = copy.box
        assert 0 <= xmin < xmax <= WIDTH
        assert 0 <= ymin < ymax <= HEIGHT
        # A lymphocyte's nucleus holds the middle of its box and is darker than all else.
        y, x = int((ymin + ymax) / 2), int((xmin + xmax) / 2)
        lit = copy.pixels[copy.pixels.sum(axis=2) > 0]
        middle = copy.pixels[max(y - 3, 0) : y + 3, max(x - 3, 0) : x + 3]
        assert middle[..., 1].mean() < 0.6 * np.median(lit[:, 1])


def test_copy_is_black_where_the_original_ends() -> None:
    original = draw_photograph("MONOCYTE", 2)
    black = [(draw_copy(original, seed).pixels.sum(axis=2) == 0).mean() for seed in range(10)]
    assert max(black) > 0.02
    assert (original.pixels.sum(axis=2) > 0).all()


def test_contact_sheet_has_a_labelled_row_per_class() -> None:
    sheet = draw_sheet(columns=1)
    assert sheet.width == 240
    bands = np.split(np.asarray(sheet.convert("L")), len(CLASS_NAMES))
    for band in bands:
        label = band[:28]
        assert label.min() < 60
        assert (label[:, -20:] == 255).all()


def test_contact_sheet_without_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="columns"):
        draw_sheet(columns=0)


def test_file_counts_are_exact(data_set: Path) -> None:
    counts = {"TRAIN": TRAIN_PHOTOS * COPIES, "TEST": TEST_PHOTOS * COPIES, "TEST_SIMPLE": 2}
    for split, count in counts.items():
        for class_name in CLASS_NAMES:
            names = [path.name for path in (data_set / "images" / split / class_name).iterdir()]
            assert len(names) == count
            assert {int(name.split("_")[1]) for name in names} == set(range(count))


def test_files_are_readable_pictures(data_set: Path) -> None:
    for path in (data_set / "images" / "TEST").rglob("*.jpeg"):
        with Image.open(path) as picture:
            assert (picture.format, picture.size) == ("JPEG", (WIDTH, HEIGHT))


def test_table_lists_exactly_the_files(data_set: Path, rows: list[dict[str, str]]) -> None:
    on_disk = [name.removeprefix("images/") for name in _contents(data_set)]
    on_disk.remove("photos.csv")
    assert sorted(row["file"] for row in rows) == sorted(on_disk)
    assert list(rows[0]) == ["file", "photo", "cell", "xmin", "ymin", "xmax", "ymax"]


def test_photograph_stays_in_one_split_and_class(rows: list[dict[str, str]]) -> None:
    homes, files = defaultdict(set), defaultdict(list)
    for row in rows:
        split, class_name, _ = row["file"].split("/")
        homes[row["photo"]].add((split.removesuffix("_SIMPLE"), class_name))
        files[row["photo"]].append(split)
    assert len(homes) == len(CLASS_NAMES) * (TRAIN_PHOTOS + TEST_PHOTOS)
    assert all(len(home) == 1 for home in homes.values())
    assert all(found.count("TEST_SIMPLE") == ("TEST" in found) for found in files.values())


def test_one_cell_a_class_was_photographed_for_both_splits(rows: list[dict[str, str]]) -> None:
    seen = defaultdict(set)
    for row in rows:
        split, class_name, _ = row["file"].split("/")
        seen[row["cell"]].add((class_name, split.removesuffix("_SIMPLE"), row["photo"]))
    shared = [sorted(views) for views in seen.values() if len(views) > 1]
    assert [[view[:2] for view in views] for views in shared] == [
        [(name, "TEST"), (name, "TRAIN")] for name in CLASS_NAMES
    ]


def test_second_view_of_a_cell_shows_it_whole_and_alike() -> None:
    for seed in range(6):
        first = smears._photograph("MONOCYTE", (seed, 1), (seed, 1))
        second = smears._photograph("MONOCYTE", (seed, 1), (seed, 2))
        moved = np.abs(np.subtract(first.box, second.box))
        assert 0 < moved.max() < 20
        assert min(second.box) > 0
        assert second.box[2] < WIDTH
        assert second.box[3] < HEIGHT
        assert second.pixels.min(axis=2).min() > 0


def test_files_do_not_depend_on_the_number_of_workers(data_set: Path, tmp_path: Path) -> None:
    write_smears(tmp_path / "set", TRAIN_PHOTOS, TEST_PHOTOS, COPIES, seed=5, workers=2)
    assert _contents(tmp_path / "set") == _contents(data_set)


def test_existing_root_is_refused_and_left_alone(tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    with pytest.raises(FileExistsError, match=re.escape(str(root))):
        write_smears(root, 1, 1, 1)
    assert list(tmp_path.rglob("*")) == [root]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failing_draw_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def fail(*_: object) -> None:
        assert any(tmp_path.iterdir()), "the draw runs after the temporary folder is made"
        raise error("no ink")

    monkeypatch.setattr(smears, "draw_copy", fail)
    with pytest.raises(error, match="no ink"):
        write_smears(tmp_path / "set", 1, 1, 1, workers=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("numbers", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_empty_set_is_refused(tmp_path: Path, numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        write_smears(tmp_path / "set", *numbers)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_twice_ends_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    code = """if __name__ == "__main__":
        import signal  # a shell's background job is started deaf to Ctrl-C
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from pathlib import Path
        from bloodcell.datasets.drawn.smears import write_smears
        print("drawing", flush=True)
        write_smears(Path("smears"), train_photos=2000, test_photos=1, copies=1, workers=2)
    """
    drawing = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert drawing.stdout is not None
    drawing.stdout.readline()
    while not list(tmp_path.rglob("*.jpeg")):
        time.sleep(0.05)
    drawing.send_signal(signal.SIGINT)
    time.sleep(0.02)
    drawing.send_signal(signal.SIGINT)
    try:
        _, said = drawing.communicate(timeout=20)
    finally:
        drawing.kill()
    assert drawing.returncode != 0
    assert "KeyboardInterrupt" in said
    assert list(tmp_path.iterdir()) == []


def test_a_script_without_a_guard_draws_once(tmp_path: Path) -> None:
    """Its processes do not run the script again."""
    (tmp_path / "script.py").write_text(
        "from pathlib import Path\n"
        "from bloodcell.datasets.drawn.smears import write_smears\n"
        'print("begun")\n'
        'write_smears(Path("smears"), train_photos=1, test_photos=1, copies=1, workers=2)\n'
    )
    ran = subprocess.run(
        [sys.executable, "script.py"], capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout.splitlines() == ["begun"]
    assert len(list(tmp_path.glob("smears/images/*/*/*.jpeg"))) == 3 * 4
