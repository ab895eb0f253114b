"""The Chula set: whole fields from Chulalongkorn University with a box around each white cell.

github.com/singgihbekti/WBC_Dataset, licence MIT. Photographs are of 1440 x 900 pixels. The source
gives boxes as text files, one for each photograph, whose lines are `class x y width height` with
lengths relative to the photograph; `prepare` writes them as one table, `boxes.csv`. The slide is
the file name up to the last underscore; photographs of a slide belong together.

The numbers of the classes come from the source's notebook, and agree with the boxes of a reduced
copy. The download itself was never tried, and no digest of it is known. `unpack` only checks that
boxes of all five classes occur.
"""

import csv
import re
import shutil
import zipfile
import zlib
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from bloodcell.datasets.downloads import download_file
from bloodcell.datasets.named import NamedDataset, Prepared
from bloodcell.errors import InputError, reason
from bloodcell.files import cache_folder, make_once, write_whole

CHULA = "chula"
ADDRESS = "https://github.com/singgihbekti/WBC_Dataset/archive/refs/heads/main.zip"
CLASS_NAMES = ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")
BOXES = "boxes.csv"
COLUMNS = ("file", "class", "xmin", "ymin", "xmax", "ymax")
_NUMBERED = ("neutrophil", "eosinophil", "basophil", "lymphocyte", "monocyte")
_MIRRORED = "HF-"  # prefix of a photograph that is the mirror image of another
_FILE = re.compile(rf"(?:{_MIRRORED})?[BELMN]-\d+\w*_\d+\.jpe?g(?:#\d+)?", re.IGNORECASE)
_CHANGED = (
    "It may have changed: give data.root a folder or .zip of your own, with a table "
    f"{BOXES} of the columns {', '.join(COLUMNS)}."
)


def is_copy(paths: Collection[str]) -> bool:
    """Returns whether all images are named as those of the set, by slide and number."""
    return bool(paths) and all(_FILE.fullmatch(path.split("/")[-1]) for path in paths)


def slide_of(file: str) -> str:
    """Returns the slide of a photograph, the same for a photograph and its mirror image."""
    return PurePosixPath(file).name.rpartition("_")[0].removeprefix(_MIRRORED)


def prepare() -> Prepared:
    """Downloads the set into the cache, and writes its boxes as a table.

    Raises:
        InputError: if the download fails, or the archive is damaged or lacks boxes of a class.
    """
    folder = cache_folder() / CHULA
    make_once(folder, partial(_make, folder))
    return Prepared(folder)


def _make(folder: Path) -> None:
    archive, unfinished = folder.with_suffix(".zip"), folder.with_suffix(".partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    given = archive.is_file()  # the user has put it there
    download_file(CHULA, ADDRESS, archive)
    try:
        unpack(archive, unfinished)
    except InputError as error:
        again = f" Or delete {archive} to download it again." if given else ""
        raise InputError(f"{error}{again}") from error
    except (zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        way_out = f"Delete {archive}" if given else "Repeat the command"
        raise InputError(
            f"data.root='{CHULA}': the archive from {ADDRESS} is damaged "
            f"({reason(error)}). {way_out} to download it again."
        ) from error
    finally:  # also if it is interrupted: later, the archive would seem to be the user's
        if not given:
            archive.unlink()
    unfinished.rename(folder)


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks the boxed photographs of the source's archive, and writes `boxes.csv`.

    Args:
        archive: the archive.
        folder: a new folder for the photographs and the table.

    Raises:
        InputError: if the archive lacks boxes of a class.
    """
    folder.mkdir(parents=True)
    with zipfile.ZipFile(archive) as opened:
        paths = [PurePosixPath(name) for name in opened.namelist()]
        photographs = {path.stem: path for path in paths if _FILE.fullmatch(path.name)}
        labels = {path.stem: path for path in paths if path.suffix == ".txt"}
        boxed = sorted(photographs.keys() & labels.keys())
        lines = list[tuple[str, ...]]()
        for stem in boxed:
            file = folder / photographs[stem].name
            file.write_bytes(opened.read(str(photographs[stem])))
            try:
                lines += _as_boxes(opened.read(str(labels[stem])).decode(), file)
            except (ValueError, IndexError, OSError) as error:
                raise InputError(
                    f"data.root='{CHULA}': {labels[stem]} in {ADDRESS} has no boxes for "
                    f"{file.name} ({reason(error)}). {_CHANGED}"
                ) from error
    missing = [name for name in CLASS_NAMES if name not in {line[2] for line in lines}]
    if missing:
        raise InputError(
            f"data.root='{CHULA}': {ADDRESS} contains no boxes of the classes "
            f"{', '.join(missing)}. {_CHANGED}"
        )
    with write_whole(folder / BOXES) as table:
        csv.writer(table).writerows([("file", "slide", *COLUMNS[1:]), *lines])


def _as_boxes(text: str, photograph: Path) -> Iterator[tuple[str, ...]]:
    """Converts the lines of one label file into lines of `boxes.csv`, in pixels."""
    from PIL import Image  # only after a download

    with Image.open(photograph) as image:
        width, height = image.size
    for line in filter(str.strip, text.splitlines()):
        number, *relative = line.split()
        x, y, w, h = map(float, relative)
        left, right = (x - w / 2) * width, (x + w / 2) * width
        top, bottom = (y - h / 2) * height, (y + h / 2) * height
        yield (
            *(photograph.name, slide_of(photograph.name), _NUMBERED[int(number)]),
            *(f"{corner:.1f}" for corner in (left, top, right, bottom)),
        )


DATASET = NamedDataset(
    *(CHULA, "the fields of Chulalongkorn University", CLASS_NAMES, prepare, is_copy),
    credit="github.com/singgihbekti/WBC_Dataset, Chulalongkorn University (MIT)",
)
