"""Named data sets: found by their modules, and recognised by their files."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import bloodcell.datasets
from bloodcell.data.source import open_source
from bloodcell.data.splits import make_parts
from bloodcell.data.table import build_table
from bloodcell.datasets import chula, drawn, kaggle, pbc
from bloodcell.datasets.classes import COMMON, common
from bloodcell.datasets.named import named_datasets, recognise
from bloodcell.errors import InputError

MODULE = """
from pathlib import Path
from bloodcell.datasets.named import NamedDataset, Prepared

def prepare() -> Prepared:
    return Prepared(Path({root!r}))

DATASET = NamedDataset("own", "my cells", ("a", "b"), prepare, repeated=("originals",))
"""


def test_the_classes_are_known_without_files() -> None:
    found = named_datasets()
    own = [chula.DATASET, drawn.DATASET, kaggle.DATASET, pbc.DATASET]
    assert found == {one.name: one for one in own}
    for dataset in (drawn.DATASET, kaggle.DATASET):
        assert dataset.class_names == ("EOSINOPHIL", "LYMPHOCYTE", "MONOCYTE", "NEUTROPHIL")
    assert {common(name) for one in own for name in one.class_names} == set(COMMON)


@pytest.fixture
def own_dataset(
    make_folders: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """A data set that one module adds to the package."""
    counts = {f"{part}/{name}": 4 for part in ("train", "test", "Originals") for name in "ab"}
    (tmp_path / "modules").mkdir()
    module = tmp_path / "modules" / "own_dataset.py"
    module.write_text(MODULE.format(root=str(make_folders(counts))))
    package = bloodcell.datasets
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(module.parent)])
    named_datasets.cache_clear()
    yield
    named_datasets.cache_clear()
    sys.modules.pop("bloodcell.datasets.own_dataset")


@pytest.mark.usefixtures("own_dataset")
def test_one_module_adds_a_data_set() -> None:
    table = build_table(open_source("own"))
    assert {row.official for row in table.rows} == {"train", "test", "originals"}
    assert table.class_names == named_datasets()["own"].class_names
    parts = make_parts(table, "photo", val_share=0.5)
    assert sum(len(rows) for rows in parts.values()) == 16, "the originals are in no part"
    said = r"'nowhere' does not exist.* or a name: .*, own \(my cells\)\.$"
    with pytest.raises(InputError, match=said):
        open_source("nowhere")


def test_a_copy_is_recognised_by_its_files() -> None:
    known = next(iter(kaggle.read_photos()))
    found = recognise(["mine/0.png", f"some/folder/{known}"])
    assert found is kaggle.DATASET
    assert len(found.photo_table()) == kaggle.N_FILES
    assert recognise(["mine/0.png"]) is None


def test_naming_data_sets_imports_no_library_of_images() -> None:
    code = (
        "import sys; from bloodcell.datasets.named import named_datasets; named_datasets(); "
        "print({'numpy', 'PIL', 'torch', 'kagglehub'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
