"""The Python interface: `bloodcell.load()` and `model.predict(...)`."""

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from bloodcell.data.crop import Field
from bloodcell.data.image_files import LeftOut
from bloodcell.errors import InputError, renamed, require
from bloodcell.infer.answers import Answer, flat
from bloodcell.infer.cells import Cells
from bloodcell.infer.inputs import InMemory, Input, find_images
from bloodcell.infer.open import open_model
from bloodcell.infer.predict import BATCH_SIZE, adapt_to, answer_images, check_numbers
from bloodcell.infer.runtime import AUTO, Runtime

Place = str | os.PathLike[str]
Array = NDArray[np.uint8]
_ARGUMENTS = {r"(?<![\w/.-])--(?=[a-z])": ""}  # in error messages, the options are arguments


@dataclass(frozen=True)
class Answers(Sequence[Answer]):
    """The predictions for several images, in their order.

    Attributes:
        class_names: the classes, in the column order of `probability`.
        rows: one prediction for each image or white cell.
        of_cells: whether the rows are cells, with their positions in `cell`.
        left_out: number of skipped image files of unsupported types, by file extension.
    """

    class_names: list[str]
    rows: list[Answer]
    of_cells: bool = False
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def classes(self) -> list[str | None]:
        """Class of each image; None if the model abstains or the image is unreadable."""
        return [row.class_name for row in self.rows]

    @property
    def probability(self) -> NDArray[np.float32]:
        """Probabilities (n, classes); NaN for unreadable images."""
        unreadable = dict.fromkeys(self.class_names, float("nan"))
        values = [list((row.probability or unreadable).values()) for row in self.rows]
        return np.array(values, np.float32).reshape(len(values), len(self.class_names))

    def as_dicts(self) -> list[dict[str, Any]]:
        """Returns one dictionary per row, for example for `pandas.DataFrame`."""
        return [flat(row, self.class_names, self.of_cells) for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Answer: ...
    @overload
    def __getitem__(self, index: slice) -> "Answers": ...
    def __getitem__(self, index: int | slice) -> "Answer | Answers":
        if isinstance(index, slice):
            return replace(self, rows=self.rows[index])
        return self.rows[index]


class LoadedModel:
    """A trained model.

    Args:
        model: runs the network.

    Attributes:
        class_names: the classes.
        description: network, input size, temperature, scores.
    """

    def __init__(self, model: Runtime) -> None:
        self._model = model
        self.description = model.description
        self.class_names = model.description.class_names

    @renamed(_ARGUMENTS)
    def predict(
        self,
        images: Place | Array | Iterable[Place | Array],
        *,
        abstain: float = 0.0,
        tta: bool = False,
        adapt: bool = False,
        batch_size: int = BATCH_SIZE,
        cells: bool = False,
        field: Field | None = None,
    ) -> Answers:
        """Classifies images.

        Args:
            images: one or several paths, as for `bloodcell predict`, or uint8 RGB arrays
                (H, W, 3) of any size.
            abstain: images get no class if their largest probability is below this value, 0 to 1.
            tta: whether to average the probabilities over the eight rotations and reflections.
            adapt: whether to mix BatchNorm's statistics with those of these images, for this call;
                what was done is printed to the standard error.
            batch_size: images per batch; it has no effect on `adapt`.
            cells: whether to find and classify every white cell of each image.
            field: width of the field of view relative to that of the Kaggle images, 0.1 to 50, or
                `auto`, which measures it; only used with `cells`. None: as the model was trained.

        Returns:
            One row per image, or per white cell with `cells`. A row of an image that is unreadable
            or has no cell has the reason in `error`.

        Raises:
            InputError: if a number is out of range, a path does not exist, an array is not an RGB
                image, `cells` is set for a model that does not classify single cells, or `adapt`
                for an exported one or one without BatchNorm.
        """
        check_numbers(abstain, batch_size, field)
        require(cells or field is None, "field", field, "left out, or used with cells=True")
        settings = Cells(field) if cells else None
        model = settings.prepare(self._model) if settings else self._model
        paths, arrays = _sort(images)
        left_out = LeftOut()
        with ExitStack() as archives:
            found: Iterable[Input] = find_images(paths, archives, left_out)
            if arrays:  # arrays are named by their index
                found = [InMemory(str(n), array) for n, array in enumerate(arrays)]
            if adapt:
                model, found = adapt_to(model, found, settings)
            answers = answer_images(found, model, settings, abstain, tta, batch_size)
            rows = [answer._replace(read=None) for answer in answers]  # the archives are closed
        return Answers(self.class_names, rows, bool(cells), left_out)


@renamed(_ARGUMENTS)
def load(model: Place | None = None, devices: str = AUTO) -> LoadedModel:
    """Loads a trained model.

    Args:
        model: run folder, .ckpt, .safetensors or .onnx file; None uses the bundled model.
        devices: PyTorch device names, separated by commas, such as `cuda:0,cuda:1`; `auto` uses all
            GPUs, or the CPU if there is none.

    Raises:
        InputError: if the model does not exist or cannot run on these devices.
    """
    return LoadedModel(open_model(None if model is None else os.fspath(model), devices))


def _sort(images: Place | Array | Iterable[Place | Array]) -> tuple[list[str], list[Array]]:
    """Returns the paths and the arrays of the input.

    Raises:
        InputError: if paths and arrays are mixed, or an item is neither.
    """
    rule = "a path, an RGB array, or several of one kind"
    given: list[object]
    if isinstance(images, str | os.PathLike | np.ndarray):
        given = [images]
    else:
        require(isinstance(images, Iterable), "images", type(images).__name__, rule)
        given = list(images)
    paths, arrays = [], []
    for each in given:
        if isinstance(each, np.ndarray):
            shaped = each.ndim == 3 and each.shape[2] == 3 and each.size > 0
            kind = f"array of {each.dtype} {each.shape}"
            uint8 = "RGB arrays (H, W, 3) of uint8"
            require(shaped and each.dtype == np.uint8, "images", kind, uint8)
            arrays.append(each)
        elif isinstance(each, str | os.PathLike):
            paths.append(os.fspath(each))
        else:
            require(False, "images", type(each).__name__, rule)
    if arrays and paths:
        raise InputError("images contains paths and arrays. Give either paths or arrays.")
    return paths, arrays
