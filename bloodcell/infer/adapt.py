"""`predict --adapt`: adapts BatchNorm's statistics to the images that are to be classified."""

import copy
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from bloodcell.data.crop import Pixels
from bloodcell.errors import InputError
from bloodcell.infer.runtime import Classified, Runtime
from bloodcell.infer.torch_runtime import TorchModel, as_images
from bloodcell.model.network import Network

TRUSTED = 200  # number of images at which their own statistics get half of the weight
_FEW = 50  # images
_ONE_CLASS = 0.8  # share of the most frequent class


class Adapted(NamedTuple):
    """A model with adapted statistics; the distances are those of the model as it was trained.

    Attributes:
        model: classifies with adapted statistics.
        trained: the same model, as it was trained.
        report: what was done, and a warning if it probably makes the predictions worse.
    """

    model: TorchModel
    trained: TorchModel
    report: str

    @property
    def runtime(self) -> Runtime:
        """The model, for `answer_images`."""
        return _Both(self.model, self.trained)


class _Both:
    """Takes probabilities from the adapted model, and distances from the trained one."""

    def __init__(self, model: TorchModel, trained: TorchModel) -> None:
        self._model, self._trained = model, trained
        self.description, self.n_devices = trained.description, trained.n_devices
        self.input_format, self.threshold = trained.input_format, trained.threshold

    @property
    def on_squares(self) -> Runtime:
        """The model itself, because its images are always cropped first."""
        return self

    def classify(self, pixels: Pixels) -> Classified:
        """Classifies images (B, size, size, 3)."""
        probability = self._model.classify(pixels).probability
        return Classified(probability, self._trained.classify(pixels).distance)


def adapt(model: TorchModel, batches: Iterable[Pixels]) -> Adapted:
    """Mixes BatchNorm's statistics with those of the images.

    The statistics of n images get the weight n / (n + `TRUSTED`), the trained ones the rest, after
    Schneider et al., "Improving robustness against common corruptions by covariate shift
    adaptation" (NeurIPS 2020). The given model does not change.

    Args:
        model: the model.
        batches: the images, each batch (B, size, size, 3).

    Raises:
        InputError: if the model has no BatchNorm.
    """
    network, device = model.copy_network()
    layers = [one for one in network.modules() if isinstance(one, nn.BatchNorm2d)]
    if not layers:
        raise InputError(
            f"--adapt needs a model with BatchNorm; {model.description.backbone} has none. Leave "
            "--adapt out."
        )
    trained = [(copy.deepcopy(one.running_mean), copy.deepcopy(one.running_var)) for one in layers]
    named = _collect(network, layers, batches, device)
    n = named.total()
    share = n / (n + TRUSTED)
    for layer, before in zip(layers, trained, strict=True):
        for now, old in zip((layer.running_mean, layer.running_var), before, strict=True):
            assert now is not None
            assert old is not None
            now.copy_(torch.lerp(old, now, share) if n else old)
    network.eval().cpu()  # where `prepare_network` expects it, whatever the devices
    report = _describe(named, share, model.description.class_names)
    return Adapted(model.with_network(network), model, report)


@torch.no_grad()
def _collect(
    network: Network, layers: list[nn.BatchNorm2d], batches: Iterable[Pixels], device: torch.device
) -> Counter[int]:
    """Sets the layers' statistics to those of the images; counts the images by predicted class."""
    named: Counter[int] = Counter()
    network.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.train()
    for pixels in batches:
        for layer in layers:  # the mean over all images, whatever the sizes of the batches
            layer.momentum = len(pixels) / (named.total() + len(pixels))
        logits = network(as_images(np.ascontiguousarray(pixels), device))
        named.update(logits.argmax(1).tolist())
    return named


def _describe(named: Counter[int], share: float, names: list[str]) -> str:
    n = named.total()
    text = (
        f"adapted to {n:,} images: BatchNorm's statistics are {share:.0%} theirs, "
        f"{1 - share:.0%} those of the training"
    )
    if not n:
        return text
    label, most = named.most_common(1)[0]
    doubts = []
    if n < _FEW:
        doubts.append(f"fewer than {_FEW} images")
    if most > _ONE_CLASS * n:
        doubts.append(
            f"more than {_ONE_CLASS:.0%} are {names[label]}, unlike the cells of a whole slide"
        )
    if doubts:
        text += f"\nWARNING: this probably makes the predictions worse ({'; '.join(doubts)})"
    return text
