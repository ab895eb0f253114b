"""Label tables, which give each image its class, for images that are not in class folders."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from bloodcell.data.image_files import IMAGE_SUFFIXES
from bloodcell.datasets.photos import plain
from bloodcell.errors import InputError, listed
from bloodcell.spreadsheet import TableSetting, find_column

# the usual names of the columns, the preferred ones first
_FILE = (
    *("file", "image", "filename", "path", "file_name", "image_name", "image_id", "file_path"),
    *("image_path", "filepath", "img", "id"),
)
_CLASS = ("class", "label", "target", "category", "class_name", "diagnosis", "dx")
SETTING = TableSetting("data.labels", "a CSV file with the columns file and class")


def read_labels(path: Path, root: str, names: Iterable[str]) -> dict[str, str]:
    """Reads the classes of images from a label table.

    Args:
        path: table with a column for the file and one for the class. A file may be given with or
            without its folders and its extension, or as a path on another machine.
        root: name of the folder or archive of the images.
        names: names of the images within it, with forward slashes.

    Returns:
        The class of each image that the table names, by the image's name.

    Raises:
        InputError: if the table cannot be read, lacks a column or a value, or if a line matches
            no image, several images, or an image that another line puts into another class.
    """
    label, sheet = SETTING.label(path), SETTING.read(path)
    file, kind = find_column(sheet, _FILE, label), find_column(sheet, _CLASS, label)
    images = _Images(root, names)
    classes: dict[str, str] = {}
    unmatched: list[str] = []
    several: list[str] = []
    for line in sheet.lines:
        given, class_name = line.values[file], line.values[kind]
        if not given or not class_name:
            raise InputError(
                f"{label}, line {line.number}: {file}={given!r}, {kind}={class_name!r}. Neither "
                "may be empty: fill it in or delete the line."
            )
        found = images.find(given)
        if len(found) > 1:
            several.append(f"{given!r} ({listed(found, 2)})")
        elif not found:
            unmatched.append(repr(given))
        elif classes.setdefault(found[0], class_name) != class_name:
            raise InputError(
                f"{label}, line {line.number}: {given!r} is {class_name}, but {found[0]} was given "
                f"the class {classes[found[0]]} above. An image has one class: delete one line."
            )
    if several:
        raise InputError(
            f"{label}: {len(several):,} lines match several images each: {listed(several, 3)}. "
            "Give the folders and the extension of each."
        )
    if unmatched:
        raise InputError(
            f"{label}: {len(unmatched):,} lines match no image: {listed(unmatched, 3)}. The images "
            f"have names such as {images.example!r}. Correct the names, or delete the lines."
        )
    return classes


class _Images:
    """Finds images by names that people give them."""

    def __init__(self, root: str, names: Iterable[str]) -> None:
        self.example = ""
        # images by every suffix of root/path (`_ends`), and by the path within the root (`_whole`);
        # the second dictionary of each pair has paths without file extension
        self._ends: tuple[dict[str, list[str]], ...] = (defaultdict(list), defaultdict(list))
        self._whole: tuple[dict[str, list[str]], ...] = (defaultdict(list), defaultdict(list))
        for name in names:
            self.example = self.example or name
            path = PurePosixPath(plain(name))
            for which, form in enumerate((path, path.with_suffix(""))):
                self._whole[which][str(form)].append(name)
                for end in _ends(f"{root}/{form}"):
                    self._ends[which][end].append(name)

    def find(self, given: str) -> list[str]:
        """Returns the images that match the longest possible part of a name."""
        path = PurePosixPath(plain(given))
        text = str(path)
        bare = str(path.with_suffix("")) if path.suffix.lower() in IMAGE_SUFFIXES else text
        for which, form in ((0, text), (1, text), (1, bare)):
            if form in self._ends[which]:
                return self._ends[which][form]
            for end in _ends(form):  # a path on another machine, whose first folders do not match
                if end in self._whole[which]:
                    return self._whole[which][end]
        return []


def _ends(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]
