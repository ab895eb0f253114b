"""The answers of trained models for photographs that they were not trained on."""

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from bloodcell.data.identity import image_key, possible_keys
from bloodcell.data.source import Source
from bloodcell.data.splits import spread
from bloodcell.data.table import Row, Table
from bloodcell.errors import InputError, reason
from bloodcell.evaluate.metrics import Floats, average_photos, sample_of
from bloodcell.evaluate.runs import CONFIG, find_runs
from bloodcell.evaluate.scores import PREDICTIONS, read_predictions
from bloodcell.infer.inputs import Named
from bloodcell.infer.predict import BATCH_SIZE, answer_images
from bloodcell.infer.runtime import AUTO
from bloodcell.infer.saved import Saved, load_saved
from bloodcell.infer.torch_runtime import TorchModel, find_devices
from bloodcell.model.find import BEST, SUFFIX

_MOST_FILES = 8  # of a photograph that a model classifies; further copies add little
_NOT_LISTED = "it does not list the images it was trained on. Give the run folder or its .ckpt"


class Photographs:
    """The photographs whose labels are examined.

    Args:
        source: the images.
        table: their classes, photographs and cells.

    Attributes:
        source: the images.
        table: their classes, photographs and cells.
        name: n names of the photographs, sorted.
        number: (images,) index of the photograph of each image, 0 to n - 1.
        first: (n,) index of the first image of each photograph.
        label: (n,) label of each photograph, an index of `table.class_names`.
    """

    def __init__(self, source: Source, table: Table) -> None:
        self.source, self.table = source, table
        names, self.first, self.number = np.unique(
            [row.photo for row in table.rows], return_index=True, return_inverse=True
        )
        self.name: list[str] = names.tolist()
        self.label = np.array(table.labels)[self.first]
        self._cell = np.unique([row.cell for row in table.rows], return_inverse=True)[1]
        self._keys = np.array([possible_keys(row, source) for row in table.rows])

    def trained_on(self, keys: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Finds the photographs that a model was trained on, also under other labels.

        Args:
            keys: (m,) keys of the training images, as `image_keys` returns them.

        Returns:
            (n,) whether an image of the photograph, or of its cell, is one of them.
        """
        found = np.logical_or.reduce(np.isin(self._keys, keys), axis=1)
        rest = set(np.setdiff1d(keys, self._keys).tolist())
        for i in np.flatnonzero(~found).tolist() if rest else []:
            row = self.table.rows[i]
            others = self._under_other_labels(row)
            found[i] = any(image_key(one, self.source, row.path) in rest for one in others)
        cells = np.isin(self._cell, self._cell[found])
        return np.bincount(self.number, cells) > 0

    def _under_other_labels(self, row: Row) -> Iterator[Row]:
        """Yields an image as other label tables or class folders would give it."""
        before, folder, after = f"/{row.path}".rpartition(f"/{row.class_name}/")
        for name in self.table.class_names:
            if name != row.class_name:
                yield replace(row, class_name=name, folder=None)
                if folder:
                    path = f"{before}/{name}/{after}"[1:]
                    yield replace(row, class_name=name, folder=None, path=path)


class Opinion(NamedTuple):
    """The answers of a model for the photographs that it was not trained on.

    Attributes:
        model: run folder or file of the model.
        photo: (m,) indices of the photographs with an answer, ascending.
        probability: (m, classes), each row sums to 1.
        class_names: the classes, in the order of the columns.
        trained_on: number of photographs that it was trained on, and that it does not judge.
        note: where the answers come from, or why there are none.
    """

    model: Path
    photo: NDArray[np.int64]
    probability: Floats
    class_names: list[str]
    trained_on: int
    note: str


def find_models(given: list[str]) -> list[Path]:
    """Lists the models that `--labels` names; a folder of run folders names all of them.

    Raises:
        InputError: if a path does not exist.
    """
    found: list[Path] = []
    for path in map(Path, given):
        if not path.exists():
            raise InputError(
                f"--labels {path}: no such file or folder. Give run folders, e.g. "
                "lightning_logs/best_folds/version_0, or model files (.ckpt, .safetensors)."
            )
        found += find_runs([str(path)]) if path.is_dir() else [path]
    return list(dict.fromkeys(found))


def ask(path: Path, photographs: Photographs) -> Opinion:
    """Returns the answers of a model for the photographs that it was not trained on.

    The answers of a run on the same data are those of its test part, in its `predictions.csv`. Any
    other model classifies the images now.

    Args:
        path: run folder, .ckpt or .safetensors file.
        photographs: the photographs to be judged.

    Raises:
        InputError: if the model cannot be loaded.
    """
    best = path / "checkpoints" / f"{BEST}{SUFFIX}"
    if (path / CONFIG).is_file() and not best.is_file():
        return Opinion(path, *_nothing(0), [], 0, "it has no best checkpoint")
    if path.suffix == ".onnx":
        raise InputError(
            f"--labels {path}: an exported model does not list the images it was trained on. Give "
            "the run folder."
        )
    try:
        saved = load_saved(path)
    except InputError as error:
        raise InputError(re.sub(r"--model\b", "--labels", str(error))) from error
    names = saved.description.class_names
    nothing = _nothing(len(names))
    if saved.trained_on is None:
        return Opinion(path, *nothing, names, 0, _NOT_LISTED)
    seen = photographs.trained_on(saved.trained_on.numpy())
    same = saved.description.scores.get("data_fingerprint") == photographs.table.fingerprint
    tested = same and (path / PREDICTIONS).is_file()
    if seen.all():
        photo, probability = nothing
    else:
        photo, probability = (
            _read(path, photographs, seen) if tested else _classify(saved, path, photographs, seen)
        )
    note = "its test part" if tested else "classified now"
    if not len(photo):
        note = "it was trained on all photographs that it has answers for, or on their cells"
    return Opinion(path, photo, probability, names, int(seen.sum()), note)


def _nothing(n_classes: int) -> tuple[NDArray[np.int64], Floats]:
    return np.array([], np.int64), np.empty((0, n_classes))


def _read(
    path: Path, photographs: Photographs, seen: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], Floats]:
    """Reads the mean answers of a run for the photographs of its test part."""
    place = {name: number for number, name in enumerate(photographs.name)}
    try:
        read = read_predictions(path)
        names = read.photo
        mean = average_photos(sample_of(read.true, read.probability, names)).probability
        photo = np.array([place[name] for name in np.unique(names)], np.int64)
    except (ValueError, LookupError) as error:
        raise InputError(
            f"--labels {path}: its {PREDICTIONS} is damaged ({reason(error)}). Restore it, or "
            "give checkpoints/best.ckpt of the run, which classifies the images now."
        ) from error
    return photo[~seen[photo]], mean[~seen[photo]]


def _classify(
    saved: Saved, path: Path, photographs: Photographs, seen: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], Floats]:
    """Classifies some images of each photograph, and returns the mean answers."""
    if photographs.source.cells:
        raise InputError(
            f"--labels {path}: it was not tested on these data, and the boxed cells of a picture "
            "cannot be classified here. Give the folder of a run that was tested on them."
        )
    files: dict[int, list[int]] = {}
    for row, number in enumerate(photographs.number.tolist()):
        if not seen[number]:
            files.setdefault(number, []).append(row)
    chosen = [(n, i) for n, of in files.items() for i in spread(of, _MOST_FILES)]
    rows = photographs.table.rows
    photo, probability = [], []
    with photographs.source.reader() as read:
        images = [Named(rows[i].path, partial(read, rows[i].path)) for _, i in chosen]
        answers = answer_images(
            images, TorchModel(saved, find_devices(AUTO)), None, 0.0, False, BATCH_SIZE
        )
        shown = track(
            zip(chosen, answers, strict=True),
            f"{path}: classifying",
            len(chosen),
            console=Console(file=sys.stderr),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        for (number, _), answer in shown:
            if answer.probability is not None:  # readable
                photo.append(str(number))
                probability.append([*answer.probability.values()])
    if not photo:
        raise InputError(f"--labels {path}: none of the {len(chosen):,} images can be read.")
    sample = sample_of(np.zeros(len(photo), np.int64), np.array(probability, np.float32), photo)
    order = np.unique(photo).astype(np.int64)
    mean = average_photos(sample).probability
    ascending = order.argsort()
    return order[ascending], mean[ascending]
