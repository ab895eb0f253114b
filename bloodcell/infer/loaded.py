"""A trained model in a program: `bloodcell.load()`, then `model.predict(...)`."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bloodcell.data.crop import InputFormat, show
from bloodcell.errors import reason, require
from bloodcell.infer.answers import Answer, flat
from bloodcell.infer.cells import Cells
from bloodcell.infer.inputs import Decoded, cells_of, decode_batches, decode_cells, find_images
from bloodcell.infer.open import AUTO, open_model
from bloodcell.infer.predict import BATCH_SIZE, answer_batches
from bloodcell.infer.runtime import Runtime

Place = str | os.PathLike[str]
Array = NDArray[np.uint8]


@dataclass(frozen=True)
class Answers(Sequence[Answer]):
    """What a model says of some images, in their order.

    Attributes:
        class_names: the classes, in the order of the columns of `probability`.
        rows: an answer an image, or a white cell.
        of_cells: whether they are of cells; each has its place in `cell`.
    """

    class_names: list[str]
    rows: list[Answer]
    of_cells: bool = False

    @property
    def classes(self) -> list[str | None]:
        """The class of each image; None if the model is unsure or the image unreadable."""
        return [row.class_name for row in self.rows]

    @property
    def probability(self) -> NDArray[np.float32]:
        """Probabilities (n, classes); NaN for images that cannot be read."""
        unreadable = dict.fromkeys(self.class_names, float("nan"))
        values = [list((row.probability or unreadable).values()) for row in self.rows]
        return np.array(values, np.float32).reshape(len(values), len(self.class_names))

    def as_dicts(self) -> list[dict[str, Any]]:
        """A dictionary a row, as `predict` writes them: for `pandas.DataFrame`, say."""
        return [flat(row, self.class_names, self.of_cells) for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Answer: ...
    @overload
    def __getitem__(self, index: slice) -> "Answers": ...
    def __getitem__(self, index: int | slice) -> "Answer | Answers":
        if isinstance(index, slice):
            return Answers(self.class_names, self.rows[index], self.of_cells)
        return self.rows[index]


class LoadedModel:
    """A trained model.

    Args:
        model: what runs it.

    Attributes:
        class_names: the classes it knows.
        description: what it is: network, size of its images, temperature, scores.
    """

    def __init__(self, model: Runtime) -> None:
        self._model = model
        self.description = model.description
        self.class_names = model.description.class_names

    def predict(
        self,
        images: Place | Array | Iterable[Place | Array],
        *,
        abstain: float = 0.0,
        tta: bool = False,
        batch_size: int = BATCH_SIZE,
        cells: bool = False,
        field: float = 1.0,
    ) -> Answers:
        """Classifies images.

        Args:
            images: one or many: paths of files, folders, archives or patterns, as of the verb
                `predict`; or RGB arrays (H, W, 3) of 0 to 255, of any size.
            abstain: an image whose most probable class is less probable than this stays unnamed.
            tta: whether to average over the eight ways an image can lie.
            batch_size: images the model takes at a time.
            cells: whether to find and classify every white cell of each image.
            field: for `cells`: how many times as wide as on the Kaggle set's pictures the field of
                view is.

        Returns:
            A row an image, or with `cells` a white cell. What cannot be read, or has no cell, has
            its reason in `error`.

        Raises:
            InputError: if a path leads nowhere, an array is no image, or the model cannot be asked
                about single cells.
        """
        require(0 <= abstain <= 1, "abstain", abstain, "0 to 1")
        require(batch_size >= 1, "batch_size", batch_size, "1 or more")
        require(0.1 <= field <= 50, "field", field, "0.1 to 50")
        require(cells or field == 1.0, "field", field, "given with cells=True")
        wanted = Cells(field) if cells else None
        if wanted:
            wanted.check(self._model)
        one = isinstance(images, str | os.PathLike | np.ndarray)
        rule = "a path, an RGB array, or several of one kind"
        require(one or isinstance(images, Iterable), "images", type(images).__name__, rule)
        given: list[Place | Array] = [images] if one else list(images)  # type: ignore[list-item,arg-type]
        for each in given:
            known = isinstance(each, str | os.PathLike | np.ndarray)
            require(known, "images", type(each).__name__, rule)
        arrays = [each for each in given if isinstance(each, np.ndarray)]
        paths = [os.fspath(each) for each in given if not isinstance(each, np.ndarray)]
        require(not (arrays and paths), "images", "paths and arrays", "one kind at a time")
        for array in arrays:
            rule = "RGB arrays (H, W, 3) of uint8"
            shaped = array.ndim == 3 and array.shape[2] == 3 and array.size > 0
            require(shaped and array.dtype == np.uint8, "images", _kind(array), rule)
        size, input_format = self.description.image_size, self._model.input_format
        with ExitStack() as archives:
            if arrays:
                batches = _from_arrays(arrays, input_format, wanted, size, batch_size)
            elif wanted:
                found = find_images(paths, archives)
                batches = decode_cells(found, size, wanted.field, batch_size)
            else:
                batches = decode_batches(find_images(paths, archives), input_format, batch_size)
            answers = answer_batches(self._model, batches, abstain, tta)
            rows = [answer._replace(read=None) for answer in answers]  # its archive is closed then
        return Answers(self.class_names, rows, bool(cells))


def load(model: Place | None = None, devices: str = AUTO) -> LoadedModel:
    """Loads a trained model.

    Args:
        model: a run folder, a .ckpt, .safetensors or exported .onnx file; None: the bundled one.
        devices: PyTorch's names with commas between, such as `cuda:0,cuda:1`; `auto`: all GPUs, or
            what there is.

    Raises:
        InputError: if there is none, or it cannot run there.
    """
    return LoadedModel(open_model(None if model is None else os.fspath(model), devices))


def _kind(array: NDArray[Any]) -> str:
    return f"array of {array.dtype} {array.shape}"


def _from_arrays(
    arrays: list[Array],
    input_format: InputFormat | None,
    cells: Cells | None,
    size: int,
    batch_size: int,
) -> Iterator[list[Decoded]]:
    """What the model is given of images that are in memory already; they are called by number."""

    def decode(n: int, image: Image.Image) -> list[Decoded]:
        if cells is None:
            return [Decoded(str(n), show(image, input_format), "")]
        try:
            return cells_of(str(n), image, size, cells.field)
        except ValueError as error:  # too small for so wide a field
            return [Decoded(str(n), None, reason(error))]

    coming = (one for n, array in enumerate(arrays) for one in decode(n, Image.fromarray(array)))
    while batch := list(islice(coming, batch_size)):
        yield batch
