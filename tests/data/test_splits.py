from collections import Counter
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bloodcell.data.source import open_source
from bloodcell.data.splits import Parts, Split, make_parts, shared_photos
from bloodcell.data.table import PARTS, Row, Table, build_table
from bloodcell.errors import InputError


def table_of(rows: list[Row]) -> Table:
    names = tuple(sorted({row.class_name for row in rows}))
    return Table(tuple(rows), names, 0, "")


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """Data sets with copies, with cells photographed twice, with or without official parts."""
    rows = []
    official = draw(st.booleans())
    for class_name in draw(st.sampled_from(["ab", "abc", "abcde"])):
        n_cells = draw(st.integers(18, 30))
        photo = 0
        for cell in range(n_cells):
            for _ in range(draw(st.integers(1, 2))):
                part = draw(st.sampled_from(["train", "train", "train", "test"]))
                for copy in range(draw(st.integers(1, 3))):
                    rows.append(
                        Row(
                            f"{class_name}/{photo}_{copy}.png",
                            class_name,
                            part if official else "",
                            f"{class_name}{photo}",
                            f"{class_name}{cell}",
                        )
                    )
                photo += 1
    return table_of(rows)


def names(table: Table, parts: Parts, part: str, of: str) -> set[str]:
    return {getattr(table.rows[i], of) for i in parts[part]}


@settings(max_examples=40, deadline=None)
@given(tables(), st.sampled_from(["photo", "folds"]), st.integers(0, 4), st.integers(0, 1000))
def test_no_photograph_and_no_cell_in_two_parts(
    table: Table, split: Split, fold: int, seed: int
) -> None:
    try:
        parts = make_parts(table, split, fold, seed)
    except InputError as error:
        # the drawn official parts may by chance lack a class, or leave too few photographs of one
        assert "without" in str(error) or "has only" in str(error)  # noqa: PT017
        return
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        for of in ("photo", "cell"):
            assert not names(table, parts, one, of) & names(table, parts, other, of)
    for part in PARTS:
        assert names(table, parts, part, "class_name") == set(table.class_names)
    assert parts == make_parts(table, split, fold, seed)


@settings(max_examples=20, deadline=None)
@given(tables(), st.integers(0, 1000))
def test_seed_draws_every_file_once(table: Table, seed: int) -> None:
    parts = make_parts(table, "seed", seed=seed)
    assert sorted(chain.from_iterable(parts.values())) == list(range(len(table.rows)))
    assert len(parts["test"]) == round(0.20 * len(table.rows))
    assert len(parts["val"]) == round(0.16 * len(table.rows))


def test_folds_test_every_photograph_once(smears: Path) -> None:
    table = build_table(open_source(str(smears / "images")), smears / "photos.csv")
    tested: Counter[int] = Counter()
    for fold in range(5):
        tested.update(make_parts(table, "folds", fold)["test"])
    pool = [i for i, row in enumerate(table.rows) if row.official != "test_simple"]
    assert tested == Counter(pool)


def test_train_folds_never_open_the_test_part(smears: Path) -> None:
    table = build_table(open_source(str(smears / "images")), smears / "photos.csv")
    official = make_parts(table, "photo")
    allowed = sorted(official["train"] + official["val"])
    tested: Counter[int] = Counter()
    for fold in range(5):
        parts = make_parts(table, "train_folds", fold)
        assert sorted(chain.from_iterable(parts.values())) == allowed
        assert shared_photos(table, parts) == 0
        tested.update(parts["test"])
    assert tested == Counter(allowed)


def test_the_share_that_validates() -> None:
    rows = [Row(f"{i}", "ab"[i % 2], "", str(i), str(i)) for i in range(100)]
    for share, count in ((0.5, 40), (0.2, 16), (0.1, 8)):
        assert len(make_parts(table_of(rows), "photo", val_share=share)["val"]) == count


def test_photo_tests_the_official_part_without_its_cells_in_training(smears: Path) -> None:
    table = build_table(open_source(str(smears / "images")), smears / "photos.csv")
    parts = make_parts(table, "photo")
    official = {i for i, row in enumerate(table.rows) if row.official == "test"}
    assert set(parts["test"]) == official
    # one train photograph a class shows a cell of a test photograph, two files each
    left_out = 4 * 2
    assert len(parts["train"]) + len(parts["val"]) == 4 * 8 * 2 - left_out
    assert shared_photos(table, parts) == 0
    assert shared_photos(table, make_parts(table, "seed")) > 0


def test_an_official_validation_part_is_kept() -> None:
    rows = [
        Row(f"{part}/{name}/{i}", name, part, f"{part}{name}{i}", f"{part}{name}{i}")
        for part, count in (("train", 9), ("val", 2), ("test", 3))
        for name in "ab"
        for i in range(count)
    ]
    parts = make_parts(table_of(rows), "photo")
    assert {part: len(found) for part, found in parts.items()} == {"train": 18, "val": 4, "test": 6}


def test_a_missing_class_is_named() -> None:
    rows = [Row(f"{i}", "ab"[i % 2], "train", str(i), str(i)) for i in range(40)]
    rows += [Row("t", "a", "test", "t", "t")]
    with pytest.raises(InputError, match=r"data\.split=photo leaves the test part without b\..*ad"):
        make_parts(table_of(rows), "photo")


def test_too_few_photographs_of_a_class() -> None:
    rows = [Row(f"{i}", "ab"[i < 4], "", str(i), str(i)) for i in range(40)]
    with pytest.raises(
        InputError, match=r"Class b has photographs of only 4 dif.* 5 folds need 5"
    ) as said:
        make_parts(table_of(rows), "photo")
    assert "for the test part" in str(said.value)
    assert "val_share" not in str(said.value), "it does not change the test part"
    rows += [Row(f"t{i}", "ab"[i % 2], "test", f"t{i}", f"t{i}") for i in range(4)]
    rule = r"only 4 different cells for the val part; 5 folds.* or raise data\.val_share: 0\.5"
    with pytest.raises(InputError, match=rule):
        make_parts(table_of(rows), "photo")
    assert make_parts(table_of(rows), "photo", val_share=0.5)["val"]


def test_fold_out_of_range(smears: Path) -> None:
    table = build_table(open_source(str(smears / "images")), smears / "photos.csv")
    with pytest.raises(InputError, match=r"data\.fold=5 is not one of the 5 folds: give 0 to 4"):
        make_parts(table, "folds", fold=5)


@pytest.mark.real
def test_the_kaggle_set(real_zip: Path) -> None:
    table = build_table(open_source(str(real_zip)))
    seed = make_parts(table, "seed")
    assert abs(len(seed["test"]) - 2500) <= 13
    assert abs(len(seed["val"]) - 2000) <= 13
    assert shared_photos(table, seed) > 300
    photo = make_parts(table, "photo")
    assert len(photo["test"]) == 2487
    assert len(names(table, photo, "test", "photo")) == 71
    trained = names(table, photo, "train", "photo") | names(table, photo, "val", "photo")
    assert len(trained) == 277 - 4
    assert not trained & {"224", "277", "230", "400"}
    folds = [make_parts(table, "folds", fold)["test"] for fold in range(5)]
    assert len({table.rows[i].photo for fold in folds for i in fold}) == 348
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        for of in ("photo", "cell"):
            assert not names(table, photo, one, of) & names(table, photo, other, of)


def test_a_data_set_whose_slides_overlap_is_still_tested() -> None:
    """Class a has one slide; without it, b has one, too; c has others."""
    slides = {"a": ["s0"], "b": ["s0", "s1"], "c": ["s2", "s3", "s4"]}
    rows = [
        Row(f"{name}{slide}{i}", name, "", f"{name}{slide}{i}", slide, "one")
        for name, some in slides.items()
        for slide in some
        for i in range(4)
    ]
    rows += [Row(f"{name}{i}", name, "", f"{name}{i}", f"o{i}", "two") for name in "abc"
             for i in range(20)]  # fmt: skip
    table = table_of(rows)
    tested = Counter(table.rows[i].dataset for i in make_parts(table, "photo")["test"])
    assert tested["one"] == 4
    assert tested["two"] > 0
