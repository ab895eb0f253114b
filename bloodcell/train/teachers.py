"""Labels shared with teachers: runs that judged a photograph which they were not trained on.

A label may be wrong, and a network that is trained on a photograph believes whatever label it has.
A run that never saw the photograph does not. Half of each label is what such runs say of it: the
teachers of Hinton, Vinyals and Dean (2015, arXiv:1503.02531), one for each fold.
"""

from collections import defaultdict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from bloodcell.data.datamodule import BloodCells
from bloodcell.errors import InputError, listed
from bloodcell.model.checkpoint import BEST, find_checkpoint, read_checkpoint
from bloodcell.model.description import TRAINED_ON
from bloodcell.report.experiments import Run, find_runs, read_runs

SETTING = "model.teachers"
SHARE = 0.5  # of a label that is the teachers'; EXPERIMENTS.md
_WAY_OUT = (
    "Teachers test each training photograph once and know nothing of the test part: for split "
    "photo, five runs of data.split=train_folds, data.fold 0 to 4, with the same seed_everything."
)


def shared_labels(folder: str, data: BloodCells) -> Tensor:
    """Mixes the labels of the training images with what teachers say of their photographs.

    Args:
        folder: a run folder, or one that holds the teachers' run folders.
        data: what is to be trained and tested on.

    Returns:
        (rows of the table, classes) float32: each row of the training part sums to 1, the others
        are as they are labelled.

    Raises:
        InputError: if a run is unfinished, knows other classes, or has seen a cell of the test
            part; or if a training photograph was tested by none that had not seen its cell.
    """
    runs, left_out = read_runs(find_runs([folder], SETTING))
    for path, why in left_out.items():
        raise InputError(f"{SETTING}={folder}: {path} is {why}. Finish it, or move it elsewhere.")
    said: dict[str, list[NDArray[np.float32]]] = defaultdict(list)
    for run in runs:
        for photo, probability in _answers(run, data).items():
            said[photo].append(probability)
    rows = data.table.rows
    mute = sorted({rows[i].photo for i in data.parts["train"]} - said.keys())
    if mute:
        raise InputError(
            f"{SETTING}={folder}: none of {len(runs)} runs tested {len(mute)} of the training "
            f"photographs without having seen their cell ({listed(mute, 3)}). {_WAY_OUT}"
        )
    labels = F.one_hot(torch.tensor(data.table.labels), len(data.class_names)).float()
    for i in data.parts["train"]:
        opinion = torch.from_numpy(np.mean(said[rows[i].photo], 0))
        labels[i] = labels[i].lerp(opinion / opinion.sum(), SHARE)
    return labels


def doubted(labels: Tensor, data: BloodCells) -> str:
    """Says which training photographs the teachers would have labelled otherwise.

    Args:
        labels: as `shared_labels`.
        data: what is trained on.
    """
    rows, names = data.table.rows, data.class_names
    first = {rows[i].photo: i for i in reversed(data.parts["train"])}
    other: list[tuple[float, str]] = []
    for photo, i in first.items():
        own = F.one_hot(torch.tensor(data.table.labels[i]), len(names))
        opinion = (labels[i] - (1 - SHARE) * own) / SHARE
        said = int(opinion.argmax())
        if said != data.table.labels[i]:
            what = f"{photo} {rows[i].class_name} -> {names[said]} ({opinion[said]:.2f})"
            other.append((-float(opinion[said]), what))
    return (
        f"half of each training label is its teachers', who name {len(other)} of {len(first)} "
        f"photographs otherwise: {listed([what for _, what in sorted(other)], 5)}"
    )


def _answers(run: Run, data: BloodCells) -> dict[str, NDArray[np.float32]]:
    """What a run said of each photograph of its test part, of whose cell it had seen nothing."""
    of = run.predictions
    if of.class_names != data.class_names:
        raise InputError(
            f"{SETTING}: {run.folder} knows the classes {of.class_names}, the data has "
            f"{data.class_names}. Take runs on the same data."
        )
    seen = _seen_cells(run, data)
    tested = {data.table.rows[i].cell for i in data.parts["test"]}
    if known := tested & seen:
        raise InputError(
            f"{SETTING}: {run.folder} was trained on, or its checkpoint chosen by, {len(known)} of "
            f"the {len(tested)} cells of this run's test part: they would reach the training "
            f"through its answers. {_WAY_OUT}"
        )
    blind = {row.photo for row in data.table.rows if row.cell not in seen}
    files: dict[str, list[int]] = defaultdict(list)
    for n, (part, photo) in enumerate(zip(of.split, of.photo, strict=True)):
        if part == "test" and photo in blind:
            files[photo].append(n)
    return {photo: of.probability[where].mean(0) for photo, where in files.items()}


def _seen_cells(run: Run, data: BloodCells) -> set[str]:
    """The cells that a run was trained on, or chosen by: those of its validation part."""
    path = find_checkpoint(SETTING, run.folder, BEST)
    trained_on = read_checkpoint(SETTING, path)[TRAINED_ON]
    every = range(len(data.table.rows))
    trained = torch.isin(data.image_keys(every), trained_on).tolist()
    of = run.predictions
    validated = {photo for part, photo in zip(of.split, of.photo, strict=True) if part == "val"}
    return {
        row.cell
        for row, known in zip(data.table.rows, trained, strict=True)
        if known or row.photo in validated
    }
