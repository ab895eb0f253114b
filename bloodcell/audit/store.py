"""Keeps the features of all images in a temporary file, so memory does not grow with them.

An image has about 35 kB of features. The file is in the cache folder, because the folder for
temporary files is in memory on many systems; it is deleted when it is closed.
"""

import pickle
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import IO, overload

from bloodcell.audit.features import ImageFeatures
from bloodcell.files import cache_folder

_RECENT = 256  # images whose features are kept in memory; groups compare the same ones repeatedly


class FeatureStore(Sequence[ImageFeatures]):
    """The features of images, in the order in which they were added.

    Args:
        file: an empty file, open for reading and writing.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._starts = array("q", [0])
        self._recent = lru_cache(_RECENT)(self._load)

    def append(self, features: ImageFeatures) -> None:
        """Writes the features of one more image."""
        self._file.seek(self._starts[-1])
        self._file.write(pickle.dumps(tuple(features), pickle.HIGHEST_PROTOCOL))
        self._starts.append(self._file.tell())

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __iter__(self) -> Iterator[ImageFeatures]:
        return (self._load(place) for place in range(len(self)))

    @overload
    def __getitem__(self, place: int) -> ImageFeatures: ...
    @overload
    def __getitem__(self, place: slice) -> list[ImageFeatures]: ...
    def __getitem__(self, place: int | slice) -> ImageFeatures | list[ImageFeatures]:
        if isinstance(place, slice):
            return [self._recent(n) for n in range(len(self))[place]]
        return self._recent(place)

    def _load(self, place: int) -> ImageFeatures:
        start, end = self._starts[place], self._starts[place + 1]
        self._file.seek(start)
        return ImageFeatures(*pickle.loads(self._file.read(end - start)))


@contextmanager
def open_store() -> Iterator[FeatureStore]:
    """Opens an empty store, which is deleted afterwards."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        yield FeatureStore(file)
