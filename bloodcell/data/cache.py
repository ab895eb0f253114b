"""The decoded cache: the images of a data set, decoded once into one array on disk.

An entry is a folder with `pixels.npy`, (n, size, size, 3) uint8, and `entry.json`, which lists the
images that are unreadable or were changed when read. It is built in a temporary folder that is
renamed when complete, so an interrupted build is never used. Processes map the array into memory
and share its pages.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
from filelock import FileLock, Timeout

from bloodcell.data.cell import WEIGHTS
from bloodcell.data.crop import InputFormat, Pixels
from bloodcell.data.decode import Report, decode_into
from bloodcell.data.source import Source
from bloodcell.errors import InputError
from bloodcell.files import cache_folder

_PIXELS, _ENTRY, _PARTIAL = "pixels.npy", "entry.json", ".partial"
_DECODING = (
    *("decode.py", "deep.py", "crop.py", "locate.py"),
    *("finder.py", "illumination.py", "sampling.py"),
)
# everything that determines the pixels, besides the files and the format
_METHOD = "\n".join(
    [
        *(Path(__file__).with_name(name).read_text(encoding="utf-8") for name in _DECODING),
        hashlib.sha256(WEIGHTS.read_bytes()).hexdigest(),
        f"Pillow {PIL.__version__} torch {version('torch')} tifffile {version('tifffile')}",
    ]
)


class Entry(NamedTuple):
    """A decoded data set on disk.

    Attributes:
        folder: folder of the entry.
        root: the source of the images.
        images: number of images.
        size: side of the square images in pixels.
        bytes: size on disk.
        used: Unix time of the last use.
    """

    folder: Path
    root: str
    images: int
    size: int
    bytes: int
    used: float


def open_cached(
    source: Source,
    names: Sequence[str],
    input_format: InputFormat,
    limit_gib: float,
    home: Path | None = None,
) -> tuple[Pixels, Report]:
    """Opens the decoded images of a source, and decodes them first if they are not in the cache.

    Args:
        source: the source of the images.
        names: names of all images of the data set.
        input_format: the format of the network's input.
        limit_gib: limit of all entries in GiB; a new entry replaces the least recently used ones.
        home: folder of the entries; None for the program's cache.

    Returns:
        The pixels (n, size, size, 3) in the order of `names`, memory-mapped and read-only, and
        a report on images that are unreadable or were changed.

    Raises:
        InputError: if the images exceed the limit or the free space of the disk.
    """
    home = home or cache_folder() / "pixels"
    home.mkdir(parents=True, exist_ok=True)
    folder = home / fingerprint(source, names, input_format)
    shape = (len(names), input_format.decoded, input_format.decoded, 3)
    with FileLock(folder.with_suffix(".lock")):  # only one of several processes decodes
        opened = _open(folder, shape)
        if opened is None or _readable_again(opened[1].unreadable, source, input_format):
            _make_room(home, 3 * len(names) * input_format.decoded**2, limit_gib)
            opened = _build(folder, source, names, input_format)
        os.utime(folder)
    return opened


def fingerprint(source: Source, names: Sequence[str], input_format: InputFormat) -> str:
    """Returns the name of an entry: a hash of all files, the format and the decoding code."""
    lines = [f"{name} {source.sizes[name]} {source.stamps[name]}" for name in names]
    lines += [f"{name} {source.cells[name].centre}" for name in names if name in source.cells]
    text = "\n".join([_METHOD, str(source.root), str(input_format), *lines])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def list_entries(home: Path | None = None) -> list[Entry]:
    """Returns the entries of the cache, most recently used first.

    Args:
        home: as for `open_cached`.
    """
    entries = []
    for path in (home or cache_folder() / "pixels").glob(f"*/{_PIXELS}"):
        if path.parent.suffix == _PARTIAL:
            continue
        with contextlib.suppress(FileNotFoundError):  # another process may have removed it
            facts = _read(path.parent) or {"root": "(damaged)", "images": 0, "size": 0}
            used, n_bytes = path.parent.stat().st_mtime, path.stat().st_size
            shown = (facts["root"], facts["images"], facts["size"])
            entries.append(Entry(path.parent, *shown, n_bytes, used))
    return sorted(entries, key=lambda entry: entry.used, reverse=True)


def empty() -> int:
    """Deletes all entries except those that are being built; returns the freed bytes."""
    before = sum(entry.bytes for entry in list_entries())
    for lock in (cache_folder() / "pixels").glob("*.lock"):
        _remove(lock.with_suffix(""))
    return before - sum(entry.bytes for entry in list_entries())


def _remove(folder: Path) -> None:
    """Removes an entry and the remains of an interrupted build, unless it is being built."""
    with contextlib.suppress(Timeout), FileLock(folder.with_suffix(".lock"), timeout=0):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(folder.with_suffix(_PARTIAL), ignore_errors=True)


def _read(folder: Path) -> dict[str, Any] | None:
    """Reads an entry's `entry.json`; None if it is missing or damaged."""
    try:
        facts: dict[str, Any] = json.loads((folder / _ENTRY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return facts


def _open(folder: Path, shape: tuple[int, ...]) -> tuple[Pixels, Report] | None:
    facts = _read(folder)
    try:
        pixels = np.load(folder / _PIXELS, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    if not facts or pixels.shape != shape:
        return None
    return pixels, Report(facts["unreadable"], facts["notes"])


def _readable_again(unreadable: dict[str, str], source: Source, input_format: InputFormat) -> bool:
    """Returns whether an unreadable image has become readable, e.g. after a disk was mounted."""
    if not unreadable:
        return False
    again = np.empty((len(unreadable), input_format.decoded, input_format.decoded, 3), np.uint8)
    found = decode_into(again, source, list(unreadable), input_format)
    return len(found.unreadable) < len(unreadable)


def _make_room(home: Path, needed: int, limit_gib: float) -> None:
    if needed > limit_gib * 2**30:
        raise InputError(
            f"data.cache_gib={limit_gib:g}, but the decoded images need {needed / 2**30:.1f} GiB. "
            "Raise it, use a smaller --data.image_size, or use --data.cache_gib 0 to decode into "
            "memory at each start."
        )
    for partial in home.glob(f"*{_PARTIAL}"):
        if not partial.with_suffix("").exists():
            _remove(partial.with_suffix(""))
    entries = list_entries(home)
    while entries and sum(entry.bytes for entry in entries) + needed > limit_gib * 2**30:
        _remove(entries.pop().folder)
    free = shutil.disk_usage(home).free
    if needed > free:
        raise InputError(
            f"{home} needs {needed / 2**30:.1f} GiB for the decoded images; the disk has "
            f"{free / 2**30:.1f} GiB. Free some space, set XDG_CACHE_HOME to another disk, or use "
            "--data.cache_gib 0 to decode into memory at each start."
        )


def _build(
    folder: Path, source: Source, names: Sequence[str], input_format: InputFormat
) -> tuple[Pixels, Report]:
    partial = folder.with_suffix(_PARTIAL)  # the lock is held, so any such folder is stale
    for old in (partial, folder):
        shutil.rmtree(old, ignore_errors=True)
    partial.mkdir()
    try:
        shape = (len(names), input_format.decoded, input_format.decoded, 3)
        pixels = np.lib.format.open_memmap(partial / _PIXELS, "w+", np.uint8, shape)
        if hasattr(os, "posix_fallocate"):  # a full disk fails here, not as a later crash
            with (partial / _PIXELS).open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, (partial / _PIXELS).stat().st_size)
        report = decode_into(pixels, source, names, input_format)
        pixels.flush()
        del pixels  # Windows renames no folder with a mapped file
        entry = {"root": str(source.root), "images": len(names), "size": input_format.decoded}
        with (partial / _ENTRY).open("w", encoding="utf-8") as text:
            json.dump(entry | report._asdict(), text, indent=1)
            text.flush()
            os.fsync(text.fileno())
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return np.load(folder / _PIXELS, mmap_mode="r"), report
