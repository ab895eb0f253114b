"""Knowledge distillation: trained networks whose answers a network in training also learns.

An ensemble answers better than each of its networks, most of all on pictures of other laboratories.
A network that learns from the ensemble's answers keeps part of that (EXPERIMENTS.md). The method is
that of Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network" (2015), at
temperature 1.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from bloodcell.data.batches import NOT_COUNTED, Batch
from bloodcell.data.datamodule import BloodCells
from bloodcell.errors import InputError, require
from bloodcell.model.checkpoint import data_state, read_checkpoint, refusing
from bloodcell.model.compiled import Compile, CompiledPass
from bloodcell.model.description import TRAINED_ON, Description
from bloodcell.model.find import TEACHERS, find_teachers
from bloodcell.model.network import Network
from bloodcell.model.restore import build_network

_SHARE = 0.7  # of the teachers' answers in the loss; the labels have the rest


class Teacher(NamedTuple):
    """A trained network.

    Attributes:
        path: its checkpoint.
        description: its classes and input.
        network: the network, frozen.
        trained_on: (n,) keys of its training images; None if unknown.
    """

    path: Path
    description: Description
    network: Network
    trained_on: Tensor | None


class Teachers:
    """Trained networks that answer together.

    Args:
        networks: one or more, each maps pixels to logits.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = networks
        self._student: CompiledPass | None = None
        self._passes: list[CompiledPass] = []

    def start(self, device: torch.device, student: CompiledPass) -> None:
        """Moves the networks to the device of the training.

        Args:
            device: the device.
            student: the training pass; if it is compiled, so are the teachers.
        """
        self._networks = [one.to(device) for one in self._networks]
        self._student, self._passes = student, []

    def answer(self, images: Tensor) -> Tensor:
        """Returns the mean probabilities (B, classes) for pixels (B, 3, H, W), 0 to 255."""
        if not self._passes:  # the student has compiled by now, or cannot
            # recorded graphs of several networks would overwrite each other's memory
            mode: Compile = "default" if self._student and self._student.mode else False
            self._passes = [CompiledPass(one, mode, images.device) for one in self._networks]
        with torch.no_grad():
            answers = [one(images).float().softmax(1) for one in self._passes]
        return torch.stack(answers).mean(0)

    def blend(self, loss: Tensor, logits: Tensor, batch: Batch) -> Tensor:
        """Mixes a loss with the difference from the teachers' answers.

        Args:
            loss: scalar, from the labels.
            logits: (B, classes), of the network in training.
            batch: its images, and targets; those of padding are `NOT_COUNTED`.

        Returns:
            The scalar loss with the share of each part.
        """
        counted = batch["target"] != NOT_COUNTED
        each = F.cross_entropy(logits.float(), self.answer(batch["image"]), reduction="none")
        taught = torch.where(counted, each, 0).sum() / counted.sum().clamp(min=1)
        return (1 - _SHARE) * loss + _SHARE * taught


def load_teachers(settings: Mapping[str, Any], data: object) -> Teachers | None:
    """Loads the networks of `model.teachers`; returns None if there are none.

    Args:
        settings: `teachers` and `class_names` of the network in training.
        data: the data module, or None; other ones than `BloodCells` are not checked.

    Raises:
        InputError: if one cannot be loaded, has other classes or another input, or was trained on
            images that this run does not train on.
    """
    teachers = [_load(Path(path)) for path in find_teachers(settings["teachers"])]
    names = settings["class_names"]
    for one in teachers:
        rule = f"trained on the classes of this run, {names}, not on {one.description.class_names}"
        require(one.description.class_names == names, TEACHERS, one.path, rule)
        if isinstance(data, BloodCells):
            _check_data(one, data)
    return Teachers([one.network for one in teachers]) if teachers else None


def _load(path: Path) -> Teacher:
    with refusing(TEACHERS, path):
        checkpoint = read_checkpoint(TEACHERS, path)
        description = Description.from_checkpoint(checkpoint, path.stem, {})
        network = build_network(TEACHERS, path, description, checkpoint["state_dict"])
        return Teacher(path, description, network, data_state(checkpoint).get(TRAINED_ON))


def _check_data(teacher: Teacher, data: BloodCells) -> None:
    """Checks that a teacher has the input of the run, and knows no more images.

    The run's checkpoint lists its training images, so those of its teachers must be among them.
    """
    given, own = teacher.description.input_format, data.input_format._replace(margin=0)
    rule = (
        f"trained with the data.image_size, data.crop and data.field of this run, "
        f"{', '.join(map(str, own[:3]))}, not {', '.join(map(str, given[:3]))}"
    )
    require(given == own, TEACHERS, teacher.path, rule)
    if teacher.trained_on is None:
        raise InputError(
            f"{TEACHERS} {teacher.path} does not list the images it was trained on, which may be "
            "among those that this run tests. Train the teacher with the data module BloodCells."
        )
    further = int((~torch.isin(teacher.trained_on, data.image_keys("train"))).sum())
    if further:
        raise InputError(
            f"{TEACHERS} {teacher.path} was trained on {further:,} images that this run does not "
            "train on, so the scores would not be those of unseen images. Train it on the same "
            "data with the same data.split, data.fold, data.test_on, data.val_share and "
            "data.split_seed as this run."
        )
