"""The source of a data set: a folder or a zip archive of images, listed and read by name."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bloodcell.data.image_files import (
    LeftOut,
    archived_images,
    open_archive,
    open_zip,
    read_entry,
    read_file,
    walk_images,
)
from bloodcell.datasets.named import named_datasets
from bloodcell.errors import InputError, listed


@dataclass(frozen=True)
class Source:
    """A folder or a zip archive of images.

    Attributes:
        root: the folder or the archive.
        sizes: size of each image file in bytes, by its name relative to the root, with forward
            slashes.
        stamps: a number for each image file that changes with its content: in a folder, the ctime
            in ns, which tools cannot reset; in an archive, the CRC.
        photos: the photo table that belongs to the images; None if there is none.
        left_out: numbers of image files of unsupported types.
    """

    root: Path
    sizes: dict[str, int] = field(repr=False)
    stamps: dict[str, int] = field(repr=False)
    photos: Path | None = None
    left_out: LeftOut = field(default_factory=LeftOut, repr=False)

    @contextlib.contextmanager
    def reader(self) -> Iterator[Callable[[str], bytes]]:
        """Opens the source and yields a thread-safe function that reads one file by name."""
        if self.root.is_file():
            with open_zip(self.root) as archive:
                yield lambda name: read_entry(archive, archive.getinfo(name))
        else:
            yield lambda name: read_file(self.root / name)


def open_source(root: str, setting: str = "data.root") -> Source:
    """Lists the images of a data set.

    Args:
        root: a folder, a .zip file or the name of a data set, which is prepared if necessary.
        setting: the setting that named the root, for error messages.

    Raises:
        InputError: if the root does not exist, the archive is damaged or contains paths that leave
            it, or a named data set cannot be prepared.
    """
    if dataset := named_datasets().get(root):
        return _from_folder(*dataset.prepare())
    # resolves `.` and `..`, because a photo table may contain the root's own name, e.g. TRAIN
    path = Path(os.path.abspath(Path(root).expanduser()))  # noqa: PTH100  keeps the names of links
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
    path = Path(root).expanduser()
    if root not in named_datasets() and not path.exists():
        raise InputError(_explain_missing(root, path, "data.root"))


def _from_folder(root: Path, photos: Path | None = None) -> Source:
    left_out = LeftOut()
    files = {p.relative_to(root).as_posix(): p for p in walk_images(root, left_out) if p.is_file()}
    status = {name: files[name].stat() for name in sorted(files)}
    sizes = {name: one.st_size for name, one in status.items()}
    stamps = {name: one.st_ctime_ns for name, one in status.items()}
    return Source(root, sizes, stamps, photos, left_out)


def _from_archive(path: Path, setting: str) -> Source:
    left_out = LeftOut()
    with open_archive(path, f"{setting}='{path}'") as archive:
        entries = {entry.filename: entry for entry in archived_images(archive, left_out)}
    sizes = {name: entries[name].file_size for name in sorted(entries)}
    return Source(path, sizes, {name: entries[name].CRC for name in sizes}, None, left_out)


def _explain_missing(root: str, path: Path, setting: str) -> str:
    parent = path.parent
    while not parent.is_dir():
        parent = parent.parent
    found = listed(sorted(p.name for p in parent.iterdir() if not p.name.startswith(".")))
    named = " or ".join(f"'{one.name}' for {one.title}" for one in named_datasets().values())
    return (
        f"{setting}='{root}' does not exist (looked for {path.absolute()}; {parent.absolute()} "
        f"contains: {found}). Give it a folder of class folders, a .zip of one, or {named}."
    )
