"""Several data sets in one table: names, classes, splits and draws."""

from collections import Counter
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bloodcell.data.balance import BalancedSampler
from bloodcell.data.batches import Batches, ImageDataset
from bloodcell.data.datamodule import BloodCells
from bloodcell.data.join import build_any_table, hold_out, known_classes
from bloodcell.data.source import open_source
from bloodcell.data.splits import make_parts
from bloodcell.data.table import PARTS, Row, Table
from bloodcell.errors import InputError


@pytest.fixture
def two(make_folders: Callable[..., Path]) -> list[str]:
    """Two laboratories, one of them with official parts, under other names of the classes."""
    first = make_folders({"Neutrophils": 10, "lymphocyte": 10, "basophil": 10}, "berlin")
    parts = {f"{part}/{name}": 6 for part in ("train", "val", "test") for name in ("SNE", "LYM")}
    return [str(make_folders(parts, "paris")), str(first)]


def test_several_data_sets_in_one_table(two: list[str]) -> None:
    table = build_any_table(open_source(two))
    assert table.class_names == ("basophil", "lymphocyte", "neutrophil")
    assert table.datasets == ["berlin", "paris"]
    assert len(table.rows) == 66
    assert len({row.photo for row in table.rows}) == len({row.path for row in table.rows}) == 66
    assert Counter((row.dataset, row.class_name) for row in table.rows)["paris", "neutrophil"] == 18
    assert all(row.path.startswith(f"{row.dataset}/") for row in table.rows)
    assert build_any_table(open_source(two[::-1])).fingerprint == table.fingerprint
    with open_source(two).reader() as read:
        assert read("berlin/basophil/0.png") == Path(two[1], "basophil/0.png").read_bytes()


def test_a_folder_may_have_dots_in_its_name(make_folders: Callable[..., Path]) -> None:
    roots = [str(make_folders({"a": 1, "b": 1}, name)) for name in ("lab.v1", "lab.v2")]
    assert list(open_source(roots).sets) == ["lab.v1", "lab.v2"]


def test_one_data_set_keeps_its_own_names(two: list[str]) -> None:
    table = build_any_table(open_source(two[1]))
    assert table.class_names == ("Neutrophils", "basophil", "lymphocyte")
    assert table.rows[0].path == "Neutrophils/0.png"
    assert build_any_table(open_source(two[1:])).fingerprint == table.fingerprint
    renamed = build_any_table(open_source(two[1]), classes={"NEUTROPHIL": "poly"})
    assert renamed.class_names == ("basophil", "lymphocyte", "poly")
    assert renamed.fingerprint != table.fingerprint


def test_images_have_the_same_keys_alone_and_joined(two: list[str]) -> None:
    alone, joined = BloodCells(two[1]), BloodCells(two)
    keys = {key for part in PARTS for key in alone.image_keys(part).tolist()}
    theirs = {key for part in PARTS for key in joined.image_keys(part).tolist()}
    assert keys < theirs
    assert len(theirs) == 66


def test_classes_join_by_a_mapping(make_folders: Callable[..., Path], two: list[str]) -> None:
    roots = [*two, str(make_folders({"type 1": 3, "type 2": 3}, "oslo"))]
    table = build_any_table(open_source(roots), classes={"Type_1": "Basophils"})
    assert table.class_names == ("basophil", "lymphocyte", "neutrophil", "type 2")
    with pytest.raises(InputError, match=r"no image has the class 'type 11'.*mean 'type 1'\?"):
        build_any_table(open_source(roots), classes={"type 11": "basophil"})


def test_classes_that_are_numbers(make_folders: Callable[..., Path]) -> None:
    """YAML reads `{0: basophil}` with a number."""
    given: Any = {0: "basophil", 1: "monocyte"}
    root = str(make_folders({"0": 1, "1": 1}))
    assert build_any_table(open_source(root), classes=given).class_names == (
        "basophil",
        "monocyte",
    )
    with pytest.raises(InputError, match=r"no image has the class 7\. The classes are 0, 1\."):
        build_any_table(open_source(root), classes=given | {7: "x"})


def test_a_label_table_names_the_classes_of_a_named_set() -> None:
    assert len(known_classes("kaggle", None, None) or []) == 4
    assert known_classes("kaggle", None, "labels.csv") is None
    assert known_classes(["kaggle", "pbc"], None, None) is None


def test_data_sets_of_one_name_are_refused(make_folders: Callable[..., Path]) -> None:
    roots = [str(make_folders({"a": 1, "b": 1}, f"{lab}/images")) for lab in "xy"]
    with pytest.raises(InputError, match=r"x/images and .*y/images are two data sets with the na"):
        open_source(roots)
    with pytest.raises(InputError, match=r"data\.root=\[\] has no data set"):
        open_source([])


def test_each_set_is_split_by_itself(two: list[str]) -> None:
    table = build_any_table(open_source(two))
    parts = make_parts(table, "photo")
    assert sorted(chain.from_iterable(parts.values())) == list(range(66))
    official = [i for i in parts["test"] if table.rows[i].dataset == "paris"]
    assert {table.rows[i].official for i in official} == {"test"}
    assert len(official) == 12
    assert len(parts["test"]) == 12 + 6


@pytest.mark.parametrize("name", ["paris", "berlin"])
def test_a_laboratory_is_only_tested_on(two: list[str], name: str) -> None:
    data = BloodCells(two, "labs", test_on=name, image_size=32)
    found = {part: {data.table.rows[i].dataset for i in data.parts[part]} for part in PARTS}
    assert found["test"] == {name}
    assert name not in found["train"] | found["val"]
    if name == "paris":
        assert len(data.parts["test"]) == 36
    else:  # a class that no other laboratory has cannot be learned
        assert data.class_names == ["lymphocyte", "neutrophil"]
        assert len(data.parts["test"]) == 20
        assert "10 images of basophil are left out" in data.summary()
        assert {data.table.rows[i].official for i in data.parts["train"]} == {"train"}


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"split": "labs"}, r"split=labs with data\.test_on=null: .*data\.root has berlin, paris"),
        ({"test_on": "paris"}, r"split=photo with data\.test_on=paris: split labs, and only it"),
        (
            {"split": "labs", "test_on": "rome"},
            r"test_on=rome is not a data set of data\.root: it ha",
        ),
        (
            {"split": "labs", "test_on": ["paris", "berlin"]},
            r"leaves nothing to train on in data\.root: it has",
        ),
        ({"draws": 5}, r"data\.draws=5 cannot be used: .*data\.balance not none"),
        ({"balance": "classes", "draws": 0}, r"data\.draws=0 cannot be used: it must be 1 or more"),
    ],
)
def test_settings_that_do_not_go_together(
    two: list[str], chosen: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        _ = BloodCells(two, **chosen).parts


def test_tables_are_for_own_data_sets(two: list[str], tmp_path: Path) -> None:
    names = [str(p.relative_to(two[1])) for p in sorted(Path(two[1]).rglob("*.png"))]
    lines = [f"{name},{name},{number // 2}" for number, name in enumerate(names)]
    (tmp_path / "photos.csv").write_text("file,photo,cell\n" + "\n".join(lines))
    with pytest.raises(InputError, match="has no line for 36 of 36 images"):
        build_any_table(open_source(two), tmp_path / "photos.csv")
    with pytest.raises(InputError, match=r"is for one data set of your own, but data\.root has 2"):
        build_any_table(open_source(two), labels=tmp_path / "labels.csv")


@st.composite
def laboratories(draw: st.DrawFn) -> Table:
    """Data sets in which slides have several classes, and some classes have one slide."""
    rows = []
    for name in draw(st.sampled_from(["xy", "xyz"])):
        for class_name in draw(st.sampled_from(["ab", "abc", "bc", "abcd"])):
            for number in range(draw(st.integers(2, 12))):
                slide = f"{name}{draw(st.integers(0, 5))}"
                path = f"{name}/{class_name}{number}"
                rows.append(Row(path, class_name, "", path, slide, name))
    rows.sort(key=lambda row: row.path)
    return Table(tuple(rows), tuple(sorted({row.class_name for row in rows})), 0, "")


@settings(max_examples=60, deadline=None)
@given(
    laboratories(), st.sampled_from(["photo", "folds", "train_folds", "labs"]), st.integers(0, 9)
)
def test_no_slide_is_in_two_parts(table: Table, split: Any, seed: int) -> None:
    test_on = ["x"] if split == "labs" else []
    held = hold_out(table, test_on) if test_on else table
    try:
        parts = make_parts(held, split, seed % 5, seed, 0.2, test_on)
    except InputError as error:
        assert "without" in str(error)  # noqa: PT017  slides may hold all of a class
        return
    cells = [{held.rows[i].cell for i in parts[part]} for part in PARTS]
    assert not cells[0] & cells[1]
    assert not cells[0] & cells[2]
    assert not cells[1] & cells[2]
    assert all(held.labels[i] >= 0 for part in PARTS for i in parts[part])


def sampler_of(
    groups: list[int], subgroups: list[int], draws: int, world: int = 1, rank: int = 0
) -> BalancedSampler:
    numbers = torch.arange(len(groups))
    dataset = ImageDataset(torch.zeros(len(groups), 3, 1, 1).__getitem__, numbers, numbers, numbers)
    return BalancedSampler(
        dataset, torch.tensor(groups), torch.tensor(subgroups), draws, world, rank, 0
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=40),
    st.integers(1, 200),
    st.integers(0, 5),
)
def test_draws_are_balanced(pairs: list[tuple[int, int]], draws: int, epoch: int) -> None:
    sampler = sampler_of([g for g, _ in pairs], [s for _, s in pairs], draws)
    sampler.set_epoch(epoch)
    drawn = list(sampler)
    assert len(drawn) == draws
    assert len(set(drawn)) == draws, "each draw has its own number"
    images = Counter(position % len(pairs) for position in drawn)
    groups = {g: {s for other, s in pairs if other == g} for g, _ in pairs}
    for group, subgroups in groups.items():
        for subgroup in subgroups:
            inside = [i for i, pair in enumerate(pairs) if pair == (group, subgroup)]
            expected = draws / len(groups) / len(subgroups)
            assert abs(sum(images[i] for i in inside) - expected) < 1 + 1e-6
            counts = [images[i] for i in inside]
            assert max(counts) - min(counts) <= 1, "no image twice before each is drawn once"


@pytest.mark.parametrize("world", [2, 3])
def test_devices_share_the_draws(world: int) -> None:
    groups, subgroups = [0] * 9 + [1] * 2, [0, 1, 2] * 3 + [0, 0]
    alone = list(sampler_of(groups, subgroups, 24))
    shared = [list(sampler_of(groups, subgroups, 24, world, rank)) for rank in range(world)]
    assert [one for together in zip(*shared, strict=True) for one in together] == alone
    assert len(set(map(len, shared))) == 1


def test_balanced_draws_continue_within_an_epoch() -> None:
    sampler = sampler_of([0, 0, 0, 1], [0, 1, 1, 0], 22)
    sampler.set_epoch(3)
    whole = list(Batches(sampler, 4, joins=True))
    resumed = Batches(sampler, 4, joins=True)
    resumed.skip = 2
    assert list(resumed) == whole[2:]
    sampler.set_epoch(4)
    assert list(Batches(sampler, 4, joins=True)) != whole


def test_further_draws_are_augmented_differently(two: list[str]) -> None:
    data = BloodCells(two, balance="datasets", draws=200, batch_size=200, image_size=32)
    data.setup("fit")
    (batch,) = data.train_dataloader()
    assert len(batch["draw"].unique()) == 200
    assert (batch["target"] >= 0).all()
    sets = Counter(data.table.rows[row].dataset for row in batch["row"].tolist())
    assert sets == {"berlin": 100, "paris": 100}
    assert len(data.batch_files(0, 0)) == 200
    other = BloodCells(two, balance="classes", batch_size=500, image_size=32)
    other.setup("fit")
    (batch,) = other.train_dataloader()
    assert len(batch["row"]) == len(other.parts["train"])
    counts = batch["target"].bincount()
    assert counts.max() - counts.min() <= 1


def test_a_boxed_cell_is_cut_around_its_box(tmp_path: Path) -> None:
    """Two cells in each photograph, of which the finder alone would give one."""
    lines = ["file,class,slide,xmin,ymin,xmax,ymax"]
    for number in range(12):
        pixels = np.full((100, 200, 3), 230, np.uint8)
        pixels[40:60, 40:60], pixels[40:60, 140:160] = (90, 30, 120), (60, 20, 200)
        (tmp_path / "fields").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / f"fields/{number}.png")
        lines += [f"{number}.png,a,{number},40,40,60,60", f"{number}.png,b,{number},140,40,160,60"]
    (tmp_path / "fields/boxes.csv").write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"data\.crop=none shows whole photographs, but .*fields"):
        _ = BloodCells(str(tmp_path / "fields")).source
    data = BloodCells(str(tmp_path / "fields"), crop="cell", image_size=32, batch_size=99)
    data.setup("fit")
    (batch,) = data.train_dataloader()
    middle = batch["image"][:, 2, 14:18, 14:18].float().mean((1, 2))
    assert ((middle > 150) == (batch["target"] == 1)).all()
    assert data.table.rows[0].photo != data.table.rows[1].photo
    photographs = {data.table.rows[row].cell for row in batch["row"].tolist()}
    assert len(batch["row"]) == 2 * len(photographs), "cells of a photograph stay together"


@pytest.mark.real
def test_three_laboratories(real_zip: Path) -> None:
    roots = [str(real_zip), *(str(real_zip.with_name(f"{name}.zip")) for name in ("pbc", "chula"))]
    data, kaggle = BloodCells(roots, val_share=0.1), BloodCells(roots[0], val_share=0.1)
    data.hparams["crop"] = "cell"
    assert len(data.table.class_names) == 8
    for part in PARTS:
        paths = [data.table.rows[i].path for i in data.parts[part]]
        ours = [path.removeprefix("kaggle/") for path in paths if path.startswith("kaggle/")]
        assert ours == [kaggle.table.rows[i].path for i in kaggle.parts[part]]
        assert set(kaggle.image_keys(part).tolist()) <= set(data.image_keys(part).tolist())
        assert {path.split("/")[0] for path in paths} == {"chula", "kaggle", "pbc"}
    assert kaggle.table.fingerprint == "9e3762e15de17303"
    held = hold_out(data.table, ["pbc"])
    assert held.class_names == ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")
