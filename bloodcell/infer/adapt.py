"""`predict --adapt`: adapts BatchNorm's statistics to the images that are to be classified."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

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

    Each batch is normalised with its own statistics, as in training, so a batch should have images
    of all kinds.

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
    trained = [_statistics(one) for one in layers]
    named, theirs = _collect(network, layers, batches, device)
    share = named.total() / (named.total() + TRUSTED)
    for layer, before, now in zip(layers, trained, theirs, strict=True):
        layer.running_mean, layer.running_var = torch.lerp(before, now, share).float()
    network.eval().cpu()  # where `prepare_network` expects it, whatever the devices
    report = _describe(named, share, model.description.class_names)
    return Adapted(model.with_network(network), model, report)


@torch.no_grad()
def _collect(
    network: Network, layers: list[nn.BatchNorm2d], batches: Iterable[Pixels], device: torch.device
) -> tuple[Counter[int], list[Tensor]]:
    """Counts the images by predicted class, and returns their statistics in each layer."""
    named: Counter[int] = Counter()
    sums = [torch.zeros_like(_statistics(one)) for one in layers]  # of means and mean squares
    network.eval()
    for layer in layers:
        layer.train()
        layer.momentum = 1.0  # its running statistics are those of the last batch
    for pixels in batches:
        # BatchNorm refuses a single value per channel; an image has the same statistics twice
        given = np.repeat(pixels, 2, axis=0) if len(pixels) == 1 else pixels
        logits = network(as_images(np.ascontiguousarray(given), device))
        named.update(logits[: len(pixels)].argmax(1).tolist())
        for layer, total in zip(layers, sums, strict=True):
            mean, variance = _statistics(layer)
            total += len(pixels) * torch.stack([mean, variance + mean**2])
    means = [total / max(named.total(), 1) for total in sums]
    return named, [torch.stack([mean, square - mean**2]) for mean, square in means]


def _statistics(layer: nn.BatchNorm2d) -> Tensor:
    """Returns a layer's running mean and variance (2, channels), in 64 bits on the CPU."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return torch.stack([layer.running_mean, layer.running_var]).cpu().double()


def _describe(named: Counter[int], share: float, names: list[str]) -> str:
    n = named.total()
    text = (
        f"adapted to {n:,} image{'s' if n != 1 else ''}: BatchNorm's statistics are "
        f"{share:.1%} theirs, {1 - share:.1%} those of the training"
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
