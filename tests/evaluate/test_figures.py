"""Figures: what they say, read back from what was drawn."""

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from bloodcell.evaluate.figures.curves import draw_curves
from bloodcell.evaluate.figures.explained import Explained, draw_explained
from bloodcell.evaluate.figures.predictions import (
    Worst,
    draw_confusion,
    draw_reliability,
    draw_worst,
    worst_photographs,
)
from bloodcell.evaluate.figures.style import save
from bloodcell.evaluate.history import Epoch
from bloodcell.evaluate.published import PUBLISHED, find_published
from bloodcell.evaluate.scores import Predictions

# photograph p0: two of three files right; p1: none of two; p2: both, and sure
TRUE = np.array([0, 0, 0, 1, 1, 1, 1])
P_FIRST = np.array([0.9, 0.6, 0.4, 0.7, 0.9, 0.1, 0.0])
SAID = Predictions(
    ["test"] * 7,
    [f"{n}.png" for n in range(7)],
    ["p0", "p0", "p0", "p1", "p1", "p2", "p2"],
    TRUE,
    np.stack([P_FIRST, 1 - P_FIRST], 1).astype(np.float32),
    ["round", "lobed"],
)


def width(path: Path | str) -> int:
    with Image.open(path) as image:
        return image.width


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def test_confusion_counts_files_and_photographs() -> None:
    figure = draw_confusion("d8", SAID)
    files, photos = figure.axes[:2]
    assert files.get_title() == "by file: 4 of 7 right"
    assert photos.get_title() == "by photograph: 2 of 3 right"
    assert [t.get_text() for t in files.texts] == ["2\n67%", "1\n33%", "2\n50%", "2\n50%"]
    assert [t.get_text() for t in photos.texts] == ["1\n100%", "0\n0%", "1\n50%", "1\n50%"]


def test_many_classes_are_shades_only() -> None:
    names = [f"class {n}" for n in range(13)]
    true = np.arange(13)
    many = Predictions(["test"] * 13, names, names, true, np.eye(13, dtype=np.float32), names)
    assert texts(draw_confusion("d8", many)) == []


def test_reliability_shows_every_file_once() -> None:
    figure = draw_reliability("d8", SAID)
    bars = [sum(int(bar.get_height()) for bar in ax.patches) for ax in figure.axes[2:]]  # type: ignore[attr-defined, misc]
    assert bars == [7, 3]
    mean, share = figure.axes[0].lines[1].get_data()
    assert np.allclose(mean, [0.6, 0.7, 0.9, 1.0])  # two of them at .6, three at .9
    assert np.allclose(share, [0.5, 0, 2 / 3, 1])
    bottom, _ = figure.axes[0].get_ylim()
    assert bottom < 0, "a point at accuracy 0 is above the axis"
    assert not figure.axes[0].texts, "no number is crossed by the line"
    assert [t.get_text() for t in figure.axes[2].texts if t.get_text()] == ["2", "1", "3", "1"]


@pytest.mark.parametrize(("files", "rotation"), [(999, 0), (1000, 90)])
def test_long_numbers_do_not_overlap(files: int, rotation: float) -> None:
    names = [str(n) for n in range(files)]
    sure = np.tile(np.array([0.9, 0.1], np.float32), (files, 1))
    zeros = np.zeros(files, np.int64)
    figure = draw_reliability(
        "d8", Predictions(["test"] * files, names, names, zeros, sure, ["a", "b"])
    )
    shown = [text for text in figure.axes[2].texts if text.get_text()]
    assert [(t.get_text(), t.get_rotation()) for t in shown] == [(f"{files:,}", rotation)]


def test_the_worst_photograph_comes_first() -> None:
    first, second, third = worst_photographs(SAID)
    assert (first.photo, first.true, first.predicted) == ("p1", "lobed", "round")
    assert first.file == 4, "the file with the lowest probability of the true class is shown"
    assert (first.files, first.files_wrong) == (2, 2)
    assert first.p_true == pytest.approx(0.2)
    assert (second.photo, second.files_wrong, third.photo) == ("p0", 1, "p2")
    assert len(worst_photographs(SAID, most=1)) == 1
    images = [np.zeros((8, 8, 3), np.uint8)] * 3
    titles = [ax.get_title() for ax in draw_worst("d8", [first, second, third], images).axes]
    assert titles[0] == "\nWRONG: round 0.80\ntrue: lobed 0.20\n2 of 2 files wrong\nphotograph p1"
    assert titles[1].startswith("\nright: round 0.63")


def test_curves_hold_every_epoch_and_the_published_values(tmp_path: Path) -> None:
    nan = math.nan
    run = [Epoch(0, 1.0, 0.5, 0.9, 0.6, 1e-5, 10, 1), Epoch(1, 0.5, 0.8, nan, nan, 1e-5, 10, 1)]
    figure = draw_curves("d8", {"split seed": [run, run]}, PUBLISHED[0])
    accuracy, loss = figure.axes
    train = accuracy.lines[0]
    assert np.array_equal(train.get_xdata(), [1, 2])
    assert np.array_equal(train.get_ydata(), [0.5, 0.8])
    assert np.array_equal(loss.lines[0].get_ydata(), [1.0, 0.5])
    legend = accuracy.get_legend()
    assert legend
    assert [text.get_text() for text in legend.get_texts()] == [
        "training", "validation", "training, published", "validation, published",
    ]  # fmt: skip
    published = [line.get_ydata()[0] for line in accuracy.lines[4:]]  # type: ignore[index]
    assert published == [0.8056, 0.995]
    save(figure, tmp_path / "curves.png")
    assert width(tmp_path / "curves.png") == 1200
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_long_names_do_not_reach_into_the_next_picture() -> None:
    name, photo = "segmented neutrophilic granulocyte (toxic)", "slide_number_12_of_day_7.tiff"
    worst = [Worst(photo, 0, name, name.upper(), 0.81, 0.02, 3, 2)] * 8
    figure = draw_worst("d8", worst, [np.zeros((32, 32, 3), np.uint8)] * 8)
    widths = [ax.title.get_window_extent().width for ax in figure.axes]
    assert max(widths) < figure.bbox.width / 4
    assert all(name in ax.get_title() for ax in figure.axes)  # whole: ends of names can be alike


def test_curves_of_one_epoch_have_one_tick_and_room_above() -> None:
    figure = draw_curves("d8", {"split seed": [[Epoch(0, 1.3, 0.4, 1.38, 0.3, 1e-5, 10, 1)]]}, None)
    accuracy, loss = figure.axes
    for ax in (accuracy, loss):
        left, right = ax.get_xlim()
        assert [tick for tick in ax.get_xticks() if left <= tick <= right] == [1]
    assert loss.get_ylim()[1] > 1.05 * 1.38


def test_the_title_of_one_explained_image_fits() -> None:
    pixels, heat = np.zeros((32, 32, 3), np.uint8), np.eye(32, dtype=np.float32)
    image = Explained("a.png", pixels, heat, {"monocyte": 0.9, "neutrophil": 0.1})
    figure = draw_explained("bloodcell", [image])
    title = figure.texts[0]
    title.set_wrap(False)
    assert title.get_text().startswith("bloodcell\nIn colour and inside the line")
    assert title.get_window_extent().width < 0.95 * figure.bbox.width


def test_an_explained_image_that_is_unlike_is_marked() -> None:
    pixels, heat = np.zeros((32, 32, 3), np.uint8), np.eye(32, dtype=np.float32)
    images = [
        Explained("a.png", pixels, heat, {"monocyte": 0.9}, far) for far in (None, False, True)
    ]
    marked = [ax.get_xlabel() for ax in draw_explained("bloodcell", images).axes[::2]]
    assert marked[:3] == ["", "", "unlike all\ntraining images"]


@pytest.mark.parametrize(
    ("name", "row"),
    [("d8", "d8"), ("d8-photo-fast", "d8"), ("d8_lr5e-5", "d8_lr5e-5"), ("d8_d8", "d8_d8")],
)
def test_published_rows_are_found_by_name(name: str, row: str) -> None:
    found = find_published(name)
    assert found
    assert found.name == row
    assert find_published(f"my{name}") is None
