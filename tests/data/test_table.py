import shutil
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from bloodcell.data.source import open_source
from bloodcell.data.table import build_table
from bloodcell.datasets import kaggle, photos
from bloodcell.errors import InputError

KAGGLE_COUNTS = {"train": 9957, "test": 2487, "test_simple": 71}


def test_class_folders_without_split(make_folders: Callable[..., Path]) -> None:
    table = build_table(open_source(str(make_folders({"x": 2, "y": 3, "z": 1}))))
    assert table.class_names == ("x", "y", "z")
    assert table.labels == [0, 0, 1, 1, 1, 2]
    assert {row.official for row in table.rows} == {""}
    assert len({row.photo for row in table.rows}) == 6
    assert table.unmapped == 6


@pytest.mark.parametrize("wrap", ["", "images/", "some/deeper/images/"])
def test_split_folders_at_any_nesting(make_folders: Callable[..., Path], wrap: str) -> None:
    counts = {f"{wrap}Train/a": 2, f"{wrap}Train/b": 2, f"{wrap}valid/a": 1, f"{wrap}TEST/b/c": 1}
    root = make_folders(counts | {"originals/pictures": 3})
    table = build_table(open_source(str(root)))
    assert table.class_names == ("a", "b")
    assert Counter(row.official for row in table.rows) == {"train": 4, "val": 1, "test": 1}


@pytest.mark.parametrize(
    ("counts", "others"),
    [
        ({"a": 2, "b": 2, "test/a": 1, "test/b": 1}, "a, b"),
        ({"a/val/x": 1, "a": 1, "b": 2}, "a, b"),
    ],
)
def test_a_test_folder_beside_class_folders(
    make_folders: Callable[..., Path], counts: dict[str, int], others: str
) -> None:
    source = open_source(str(make_folders(counts)))
    rule = (
        rf"has no folder train, but a validation or test folder \(.*\) and .* \({others}\)\. Move"
    )
    with pytest.raises(InputError, match=rule):
        build_table(source)


def test_split_folders_within_class_folders(make_folders: Callable[..., Path]) -> None:
    source = open_source(str(make_folders({"a/train": 2, "a/test": 1, "b/train": 2})))
    rule = r"has split folders within class folders \(a/test/0\.png\)\. Move them above the class"
    with pytest.raises(InputError, match=rule):
        build_table(source)


@pytest.mark.parametrize("names", [("training_set", "test_set"), ("Train Images", "test-data")])
def test_longer_names_of_split_folders(
    make_folders: Callable[..., Path], names: tuple[str, str]
) -> None:
    train, test = names
    root = make_folders({f"{train}/a": 2, f"{train}/b": 2, f"{test}/a": 1, "latest/b": 1})
    table = build_table(open_source(str(root)))
    assert Counter(row.official for row in table.rows) == {"train": 4, "test": 1}
    with pytest.raises(InputError, match="parts without class folders"):
        build_table(open_source(str(make_folders({train: 1, test: 1}, "bare"))))


def test_parts_without_training_are_one_data_set(make_folders: Callable[..., Path]) -> None:
    root = make_folders({"test/a": 1, "test/b": 1, "val/a": 1, ".": 1})
    table = build_table(open_source(str(root)))
    assert [(row.official, row.class_name) for row in table.rows] == [
        ("", "a"),
        ("", "b"),
        ("", "a"),
    ]


def test_images_below_a_class_folder_belong_to_it(make_folders: Callable[..., Path]) -> None:
    table = build_table(open_source(str(make_folders({"x/day1": 2, "x/day2": 1, "y": 1}))))
    assert [row.class_name for row in table.rows] == ["x", "x", "x", "y"]


def test_no_images(make_folders: Callable[..., Path]) -> None:
    root = make_folders({".": 2})
    with pytest.raises(
        InputError, match=r"no images in class folders \(2 are directly in it.*CLASS/i"
    ):
        build_table(open_source(str(root)))


def test_one_class_only(make_folders: Callable[..., Path]) -> None:
    root = make_folders({"train/a": 2, "test/a": 2})
    with pytest.raises(InputError, match=r"only one class \(a\).*at least two"):
        build_table(open_source(str(root)))


def test_a_photo_table_groups_files(smears: Path) -> None:
    table = build_table(open_source(str(smears / "images")), smears / "photos.csv")
    assert table.unmapped == 0
    assert Counter(Counter(row.photo for row in table.rows).values()) == {2: 32, 3: 20}
    assert len({row.cell for row in table.rows}) == 4 * 13 - 4


def test_the_fingerprint_follows_the_files(smears_copy: Path) -> None:
    def fingerprint() -> str:
        return build_table(open_source(str(smears_copy / "images"))).fingerprint

    before = fingerprint()
    moved = Path(shutil.move(smears_copy, smears_copy.parent / "elsewhere"))
    assert build_table(open_source(str(moved / "images"))).fingerprint == before
    next(moved.rglob("*.jpeg")).unlink()
    assert build_table(open_source(str(moved / "images"))).fingerprint != before


def test_images_no_table_knows_are_counted(real_zip_like: Path) -> None:
    table = build_table(open_source(str(real_zip_like)))
    assert table.unmapped == 2
    assert sorted({row.photo for row in table.rows if row.class_name != "NEUTROPHIL"}) == [
        "TRAIN/BASOPHIL/0.png", "TRAIN/BASOPHIL/1.png",
    ]  # fmt: skip


@pytest.fixture
def real_zip_like(make_folders: Callable[..., Path]) -> Path:
    """A file named as one of the Kaggle set, and a class of one's own."""
    root = make_folders({"TRAIN/BASOPHIL": 2, "TRAIN/NEUTROPHIL": 1})
    known = next(name for name in kaggle.read_photos() if name.startswith("TRAIN/NEUTROPHIL"))
    (root / "TRAIN/NEUTROPHIL/0.png").rename(root / known)
    return root


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,photo\n", r"lacks the column file \(found: name, photo\)"),
        ("file,photo\na/0.png,\n", r"line 2: file='a/0\.png', photo=''.*Neither may be empty"),
        ("file,photo\na/0.png,1\na/0.png,2\n", r"line 3: 'a/0\.png' has another photograph"),
        ("file,photo,cell\na,1,1\nb,1,2\n", r"line 3: photo '1' has another cell"),
        (
            "file,photo\n0.png,1\n",
            r"the line of '0\.png' matches several images \(a/0\.png, b/0\.png",
        ),
        ("file,photo\na/0.png,1\nb/0.png,1\n", r"Photograph '1' has images of two classes \(a/0"),
        ("file,photo\na/0.png,1\n", r"no line for 1 of 2 images \(b/0\.png\)"),
    ],
)
def test_bad_photo_tables(
    make_folders: Callable[..., Path], tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "photos.csv"
    path.write_text(text)
    root = make_folders({"a": 1, "b": 1})
    with pytest.raises(InputError, match=message):
        build_table(open_source(str(root)), path)


def test_a_photo_table_that_is_missing_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.photos='.*no\.csv' cannot be read.*columns file"):
        photos.read(tmp_path / "no.csv")
    (tmp_path / "photos.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not a CSV file in UTF-8"):
        photos.read(tmp_path / "photos.csv")


def test_the_shipped_table() -> None:
    table = kaggle.read_photos()
    assert len(table) == 12_515
    assert len({origin.photo for origin in table.values()}) == 348
    assert len({origin.cell for origin in table.values()}) == 325
    packed = Path(photos.__file__).with_name("kaggle_photos.csv.xz")
    assert packed.stat().st_size < 150_000


@pytest.mark.real
@pytest.mark.parametrize(
    ("below", "counts"),
    [
        ("", KAGGLE_COUNTS),
        ("dataset2-master", KAGGLE_COUNTS),
        ("dataset2-master/dataset2-master/images", KAGGLE_COUNTS),
        ("dataset2-master/dataset2-master/images/TRAIN", {"": 9957}),
    ],
)
def test_the_kaggle_set_at_any_nesting(
    real_zip: Path, tmp_path_factory: pytest.TempPathFactory, below: str, counts: dict[str, int]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "kaggle"
    if not folder.exists():
        with zipfile.ZipFile(real_zip) as archive:
            archive.extractall(folder)
    table = build_table(open_source(str(folder / below)))
    assert Counter(row.official for row in table.rows) == counts
    assert table.class_names == ("EOSINOPHIL", "LYMPHOCYTE", "MONOCYTE", "NEUTROPHIL")
    photographs = {row.photo for row in table.rows}
    assert len(photographs) == (277 if "" in counts else 348)


@pytest.mark.real
def test_the_kaggle_zip(real_zip: Path) -> None:
    table = build_table(open_source(str(real_zip)))
    assert Counter(row.official for row in table.rows) == KAGGLE_COUNTS
    assert not any("JPEGImages" in row.path for row in table.rows)


@pytest.mark.parametrize(
    "other",
    ["Lymphocyte", "lymphocyte ", "lymphocytes", " LYMPHOCYTES", "lympho_cyte", "lympho cyte"],
)
def test_classes_of_almost_one_name_are_refused(
    make_folders: Callable[..., Path], other: str
) -> None:
    first = "lympho-cyte" if "o_c" in other or "o c" in other else "lymphocyte"
    root = make_folders({first: 1, other: 1, "monocyte": 1})
    with pytest.raises(InputError, match=r"the classes '.*' and '.*' have almost the same name"):
        build_table(open_source(str(root)))


def test_letters_and_their_accents(make_folders: Callable[..., Path], tmp_path: Path) -> None:
    """Macs write them apart: two folders on Linux, one name for people."""
    root = make_folders({"gro\u0308\u00dfe": 1, "b": 1})
    (tmp_path / "photos.csv").write_text("file,photo\ngr\u00f6\u00dfe/0.png,1\nb/0.png,2\n")
    assert build_table(open_source(str(root)), tmp_path / "photos.csv").unmapped == 0
    make_folders({"gr\u00f6\u00dfe": 1})
    with pytest.raises(InputError, match="have almost the same name"):
        build_table(open_source(str(root)))


def test_a_photo_table_of_paths_that_begin_with_a_dot(
    make_folders: Callable[..., Path], tmp_path: Path
) -> None:
    root = make_folders({"a": 1, "b": 1})
    (tmp_path / "photos.csv").write_text("file,photo\n./a/0.png,1\n.\\b\\0.png,2\n")
    assert build_table(open_source(str(root)), tmp_path / "photos.csv").unmapped == 0


def test_short_and_signed_names_are_their_own(make_folders: Callable[..., Path]) -> None:
    names = ["BA", "BAS", "CD4", "CD4+", "CD4-", "1", "1s"]
    assert (
        len(build_table(open_source(str(make_folders(dict.fromkeys(names, 1))))).class_names) == 7
    )
