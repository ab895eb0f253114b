"""The source of images: folders or zip archives, listed and read by name."""

import contextlib
import difflib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from bloodcell.data.boxes import BoxedCell, read_boxes
from bloodcell.data.image_files import (
    READ_ERRORS,
    LeftOut,
    archived_images,
    open_archive,
    open_zip,
    read_entry,
    read_file,
    walk_images,
)
from bloodcell.datasets.chula import BOXES
from bloodcell.datasets.named import NamedDataset, named_datasets, recognise
from bloodcell.errors import InputError, listed, reason
from bloodcell.files import at_home, look_near


@dataclass(frozen=True)
class Source:
    """A folder or a zip archive of images, or several.

    Attributes:
        root: the folder or the archive.
        sizes: size of each image file in bytes, by the image's name: its path relative to the
            root, with forward slashes, and `#1`, `#2` ... for each boxed cell of a photograph. With
            several data sets, their names come first.
        stamps: a number for each image, which changes with the image's content: in a folder, the
            ctime in ns, which tools cannot reset; in an archive, the CRC.
        photos: the photo table that belongs to the images; None if there is none.
        left_out: numbers of image files of unsupported types.
        cells: the boxed cells by their names; empty if each image has one class.
        given: the named data set that was asked for by its name; None for a folder or archive.
        sets: the sources of several data sets by their names; empty for one data set.
    """

    root: Path
    sizes: dict[str, int] = field(repr=False)
    stamps: dict[str, int] = field(repr=False)
    photos: Path | None = None
    left_out: LeftOut = field(default_factory=LeftOut, repr=False)
    cells: Mapping[str, BoxedCell] = field(default_factory=dict, repr=False)
    given: NamedDataset | None = None
    sets: Mapping[str, "Source"] = field(default_factory=dict, repr=False)

    @cached_property
    def dataset(self) -> NamedDataset | None:
        """The named data set that the images are, or are a copy of; None for others."""
        # paths include the root's name, because the root may be images/TRAIN itself
        return self.given or recognise(f"{self.root.name}/{name}" for name in self.sizes)

    @cached_property
    def name(self) -> str:
        """The name of the data set, or of the folder or archive."""
        if self.dataset:
            return self.dataset.name
        return self.root.stem if self.root.is_file() else self.root.name  # a folder may have dots

    @contextlib.contextmanager
    def reader(self) -> Iterator[Callable[[str], bytes]]:
        """Opens the source and yields a thread-safe function that reads one image by name."""
        if self.sets:
            with contextlib.ExitStack() as opened:
                reads = {key: opened.enter_context(one.reader()) for key, one in self.sets.items()}
                yield lambda name: reads[name.partition("/")[0]](name.partition("/")[2])
        elif self.root.is_file():
            with open_zip(self.root) as archive:
                yield lambda name: read_entry(archive, archive.getinfo(self._file(name)))
        else:
            yield lambda name: read_file(self.root / self._file(name))

    def _file(self, name: str) -> str:
        return self.cells[name].file if name in self.cells else name

    def centre(self, name: str) -> tuple[float, float] | None:
        """Returns x and y of a boxed cell in pixels of its photograph; None for other images."""
        return self.cells[name].centre if name in self.cells else None


def open_source(root: str | Sequence[str], setting: str = "data.root") -> Source:
    """Lists the images of one or several data sets.

    Args:
        root: a folder, a .zip file or the name of a data set, which is prepared if necessary; or
            several of these.
        setting: the setting that named the root, for error messages.

    Raises:
        InputError: if a root does not exist, an archive is damaged or contains paths that leave
            it, a named data set cannot be prepared, or two data sets have the same name.
    """
    roots = [root] if isinstance(root, str) else list(root)
    if len(roots) == 1:
        return _open_one(roots[0], setting)
    sets: dict[str, Source] = {}
    for one in sorted((_open_one(one, setting) for one in roots), key=lambda one: one.name):
        if (other := sets.setdefault(one.name, one)) is not one:
            raise InputError(
                f"{setting}: {other.root} and {one.root} are two data sets with the name "
                f"{one.name!r}. Give each once; rename one of two folders with the same name."
            )
    return _join(sets, setting)


def _join(sets: dict[str, Source], setting: str) -> Source:
    if not sets:
        raise InputError(f"{setting}=[] has no data set: give one, or several.")

    def joined(which: str) -> dict[str, Any]:
        parts = ((key, getattr(one, which)) for key, one in sets.items())
        return {f"{key}/{name}": value for key, part in parts for name, value in part.items()}

    left_out = LeftOut()
    for one in sets.values():
        left_out.update(one.left_out)
    root = Path(" + ".join(str(one.root) for one in sets.values()))  # for messages and the cache
    return Source(
        *(root, joined("sizes"), joined("stamps"), None, left_out, joined("cells")), sets=sets
    )


def _open_one(root: str, setting: str) -> Source:
    if dataset := named_datasets().get(root):
        return _from_folder(*dataset.prepare(), dataset)
    # resolves `.` and `..`, because a photo table may contain the root's own name, e.g. TRAIN
    path = Path(os.path.abspath(at_home(root)))  # noqa: PTH100  keeps the names of links
    if path.is_dir():
        return _from_folder(path)
    if path.is_file():
        return _from_archive(path, setting)
    raise InputError(_explain_missing(root, path, setting))


def check_root(root: str) -> None:
    """Checks that `data.root` is a named data set or an existing path, without reading it.

    Raises:
        InputError: if it is neither.
    """
    path = at_home(root)
    if root not in named_datasets() and not path.exists():
        raise InputError(_explain_missing(root, path, "data.root"))


def _from_folder(
    root: Path, photos: Path | None = None, given: NamedDataset | None = None
) -> Source:
    left_out = LeftOut()
    files = {p.relative_to(root).as_posix(): p for p in walk_images(root, left_out) if p.is_file()}
    status = {name: files[name].stat() for name in sorted(files)}
    sizes = {name: one.st_size for name, one in status.items()}
    stamps = {name: one.st_ctime_ns for name, one in status.items()}
    source = Source(root, sizes, stamps, photos, left_out, given=given)
    tables = (path for path in (root / BOXES, *sorted(root.glob(f"*/{BOXES}"))) if path.is_file())
    table = next(tables, None)
    if table is None:
        return source
    return _with_boxes(source, table.relative_to(root).as_posix(), table.read_bytes())


def _from_archive(path: Path, setting: str) -> Source:
    left_out = LeftOut()
    with open_archive(path, f"{setting}='{path}'") as archive:
        entries = {entry.filename: entry for entry in archived_images(archive, left_out)}
        sizes = {name: entries[name].file_size for name in sorted(entries)}
        stamps = {name: entries[name].CRC for name in sizes}
        source = Source(path, sizes, stamps, None, left_out)
        paths = {name: PurePosixPath(name) for name in archive.namelist()}
        tables = [name for name, one in paths.items() if one.name == BOXES and len(one.parts) <= 2]
        if not tables:
            return source
        table = min(tables, key=lambda name: len(paths[name].parts))
        try:
            data = read_entry(archive, archive.getinfo(table))
        except READ_ERRORS as error:
            raise InputError(
                f"{setting}='{path}': {table} cannot be read ({reason(error)}). Make the archive "
                "again, or extract it and give the folder."
            ) from error
        return _with_boxes(source, table, data)


def _with_boxes(source: Source, table: str, data: bytes) -> Source:
    """Returns the source of the boxed cells; the source itself if the table has no boxes."""
    folder = table.removesuffix(BOXES)
    cells = read_boxes(data, f"{source.root}: {table}", folder, source.sizes)
    if not cells:
        return source
    sizes = {name: source.sizes[cell.file] for name, cell in cells.items()}
    stamps = {name: source.stamps[cell.file] for name, cell in cells.items()}
    return replace(source, sizes=sizes, stamps=stamps, cells=cells)


def _explain_missing(root: str, path: Path, setting: str) -> str:
    parent, inside = look_near(path)
    listing = (p for p in inside if p.is_dir() or p.suffix.lower() == ".zip")
    found = [p.name for p in listing if not p.name.startswith(".")]
    missing, *rest = path.relative_to(parent).parts or ("",)  # a drive that is missing
    near = [parent.joinpath(name, *rest) for name in difflib.get_close_matches(missing, found)]
    meant = [str(one) for one in near if one.exists()]
    meant += difflib.get_close_matches(root, named_datasets(), n=1)
    hint = f"Did you mean {meant[0]}? " if meant else ""
    named = listed([f"{one.name} ({one.title})" for one in named_datasets().values()])
    return (
        f"{setting}='{root}' does not exist (looked for {path.absolute()}; folders and .zip files "
        f"in {parent.absolute()}: {listed(found, 4)}). {hint}Give it a folder of class folders, "
        f"a .zip of one, or a name: {named}."
    )
