"""Knowledge distillation: trained networks whose answers a network in training also learns.

An ensemble answers better than each of its networks, most of all on pictures of other laboratories.
A network that learns from the ensemble's answers keeps part of that (EXPERIMENTS.md). The method is
that of Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network" (2015), at
temperature 1.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

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
        self._networks: Sequence[Callable[[Tensor], Tensor]] = networks

    def start(self, device: torch.device, compiled: bool) -> None:
        """Moves the networks to the device of the training, and compiles them if it is compiled."""
        # recorded graphs of several networks would overwrite each other's memory
        mode: Compile = "default" if compiled else False
        networks = [one.to(device) for one in self._networks if isinstance(one, Network)]
        self._networks = [CompiledPass(one, mode, device) for one in networks]

    def answer(self, images: Tensor) -> Tensor:
        """Returns the mean probabilities (B, classes) for pixels (B, 3, H, W), 0 to 255."""
        with torch.no_grad():
            answers = [one(images).float().softmax(1) for one in self._networks]
        return torch.stack(answers).mean(0)

    def blend(self, loss: Tensor, logits: Tensor, images: Tensor) -> Tensor:
        """Adds the difference from the teachers' answers to a loss.

        Args:
            loss: scalar, from the labels.
            logits: (B, classes), of the network in training.
            images: (B, 3, H, W), its images, 0 to 255.

        Returns:
            The scalar loss with the share of each part.
        """
        taught = F.cross_entropy(logits.float(), self.answer(images))
        return (1 - _SHARE) * loss + _SHARE * taught


def load_teachers(paths: Sequence[str], names: list[str], data: object) -> Teachers | None:
    """Loads the networks of `model.teachers`; returns None if there are none.

    Args:
        paths: as `model.teachers`.
        names: classes of the network in training.
        data: the data module, or None; other ones than `BloodCells` are not checked.

    Raises:
        InputError: if one cannot be loaded, has other classes or another input, or was trained on
            images that this run validates or tests on.
    """
    teachers = [_load(path) for path in find_teachers(paths)]
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
    """Checks that a teacher has the same input, and that it does not know the answers."""
    given, own = teacher.description.input_format, data.input_format._replace(margin=0)
    rule = (
        f"trained with the data.image_size, data.crop and data.field of this run, "
        f"{', '.join(map(str, own[:3]))}, not {', '.join(map(str, given[:3]))}"
    )
    require(given == own, TEACHERS, teacher.path, rule)
    if teacher.trained_on is None:
        return
    for part, word in (("val", "validates"), ("test", "tests")):
        known = int(torch.isin(data.image_keys(part), teacher.trained_on).sum())
        if known:
            raise InputError(
                f"{TEACHERS} {teacher.path} was trained on {known:,} images that this run {word} "
                "on, so the scores would not be those of unseen images. Train it on the same data "
                "with the same data.split, data.fold, data.test_on, data.val_share and "
                "data.split_seed as this run."
            )
