"""Where the images lie: a folder or a zip archive, listed and read by name."""

import contextlib
import hashlib
import os
import stat
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from filelock import FileLock

from bloodcell.datasets import drawn as smears
from bloodcell.datasets import drawn_scene as smear_scene
from bloodcell.datasets import kaggle
from bloodcell.errors import InputError, listed

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MOST_BYTES = 300_000_000  # of one image file: 89 million pixels, not compressed
# what opening an archive may raise
ZIP_ERRORS = (zipfile.BadZipFile, OSError, ValueError, NotImplementedError)
DRAWN = "drawn"
KAGGLE = "kaggle"
_HOW_TO_GET_DATA = (
    "Give it a folder of class folders or a .zip of one, 'kaggle' for the Blood Cells set, "
    "or 'drawn' for smears drawn by the program."
)


@dataclass(frozen=True)
class Source:
    """A folder or a zip archive of images.

    Attributes:
        root: the folder or the archive.
        sizes: bytes of every image file, by its name relative to the root, with forward slashes.
        stamps: what changes with its content: time of the last change in ns (of its inode, which no
            tool can set back), or CRC in an archive.
        photos: the photo table that belongs to the images, if one came with them.
    """

    root: Path
    sizes: dict[str, int] = field(repr=False)
    stamps: dict[str, int] = field(repr=False)
    photos: Path | None = None

    @property
    def is_zip(self) -> bool:
        """Whether the images lie in an archive."""
        return self.root.is_file()

    @contextlib.contextmanager
    def reader(self) -> Iterator[Callable[[str], bytes]]:
        """Opens the source; the function it gives reads one file by name, from any thread."""
        if self.is_zip:
            with zipfile.ZipFile(self.root) as archive:
                yield lambda name: read_entry(archive, archive.getinfo(name))
        else:
            yield lambda name: read_file(self.root / name)


def open_source(root: str, setting: str = "data.root") -> Source:
    """Finds the images that `data.root` means.

    Args:
        root: a folder, a .zip file, `kaggle` (downloaded once, then from the cache) or `drawn`.
        setting: what it was given as, for an error.

    Raises:
        InputError: if nothing is there, or the archive is damaged or has paths that leave it.
    """
    if root == KAGGLE:
        return _folder(kaggle.download())
    if root == DRAWN:
        folder = _drawn()
        return _folder(folder / "images", folder / "photos.csv")
    # without `.` and `..`: the root's own name may be the split or class folder of a photo table
    path = Path(os.path.abspath(Path(root).expanduser()))  # noqa: PTH100  keeps symlinks' names
    if path.is_dir():
        return _folder(path)
    if path.is_file():
        return _archive(path, setting)
    raise InputError(_nothing_there(root, path, setting))


def read_file(path: Path) -> bytes:
    """Reads an image file, which may be anything a stranger has put there.

    Raises:
        ValueError: if it is no file, but a pipe that never ends, say, or too large for an image.
    """
    with open(path, "rb", opener=_without_waiting) as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise ValueError("no regular file")
        _check_size(facts.st_size)
        return file.read()


def read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """Reads an image in an archive.

    Raises:
        ValueError: if it would be too large for an image: a small archive can hold it.
    """
    _check_size(entry.file_size)
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("compressed in a way that can unfold without limit: pack it with deflate")
    with archive.open(entry) as file:
        data = file.read(entry.file_size)  # no more than that, whatever there is
        file.read(1)  # compares the checksum
    return data


def _check_size(size: int) -> None:
    if size > MOST_BYTES:
        raise ValueError(f"{size:,} bytes, more than the {MOST_BYTES:,} allowed for one image")


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def cache_folder() -> Path:
    """Where drawn smears and decoded images are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "bloodcell"


def _drawn() -> Path:
    """Draws the demo smears once: 350 photographs a class, two copies of each."""
    cache = cache_folder()
    # named after the code that draws, so that a new version of it never meets old pictures
    code = b"".join(Path(str(m.__file__)).read_bytes() for m in (smears, smear_scene))
    folder = cache / f"drawn-{hashlib.sha256(code).hexdigest()[:8]}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):  # of several processes, one draws
        if not folder.is_dir():
            print(f"drawing blood smears into {folder} (once, half a minute) ...", flush=True)
            smears.write_smears(folder, train_photos=300, test_photos=50, copies=2)
    return folder


def is_image(name: str) -> bool:
    """Whether a path, with forward slashes, ends like an image and no part of it is hidden."""
    path = PurePosixPath(name)
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden


def _folder(path: Path, photos: Path | None = None) -> Source:
    files = ((p.relative_to(path).as_posix(), p) for p in _walk(path) if p.is_file())
    facts = {n: p.stat() for n, p in sorted(files) if is_image(n)}
    sizes = {n: fact.st_size for n, fact in facts.items()}
    return Source(path, sizes, {n: fact.st_ctime_ns for n, fact in facts.items()}, photos)


def _walk(root: Path) -> Iterator[Path]:
    """Yields the files below a folder, also behind links, each real folder once."""
    seen: set[str] = set()
    for folder, below, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        yield from (Path(folder, name) for name in names)


def _archive(path: Path, setting: str) -> Source:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except ZIP_ERRORS as error:
        raise InputError(
            f"{setting}='{path}' cannot be read as a zip archive ({error}). "
            "If it is one, it is cut off: download it again. Else give a folder of class folders."
        ) from error
    for entry in entries:
        name = PurePosixPath(entry.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or ":" in "".join(name.parts[:1]):
            raise InputError(
                f"{setting}='{path}' holds a path that leaves the archive ({entry.filename!r}). "
                "Such a file can be an attack and is not read: get the archive from its author."
            )
    files = {e.filename: e for e in entries if not e.is_dir() and is_image(e.filename)}
    sizes = {name: files[name].file_size for name in sorted(files)}
    return Source(path, sizes, {name: files[name].CRC for name in sizes})


def _nothing_there(root: str, path: Path, setting: str) -> str:
    parent = path.parent
    while not parent.is_dir():
        parent = parent.parent
    found = listed(sorted(p.name for p in parent.iterdir() if not p.name.startswith(".")))
    return (
        f"{setting}='{root}' does not exist (looked for {path.absolute()}; "
        f"{parent.absolute()} holds: {found}). {_HOW_TO_GET_DATA}"
    )
