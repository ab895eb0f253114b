"""Builds the gallery of training photographs, and fits the distance and the temperature."""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.nn import functional as F

from bloodcell.data.batches import NOT_COUNTED, Batch, ImageDataset
from bloodcell.data.datamodule import BloodCells
from bloodcell.datasets.drawn.strangers import draw_stranger
from bloodcell.evaluate.calibration import fit_temperature, judge
from bloodcell.evaluate.strangers import find_threshold, fit_distance
from bloodcell.model.description import GALLERY, TEMPERATURE
from bloodcell.model.gallery import MOST, Gallery
from bloodcell.train.outputs import Outputs
from bloodcell.train.task import Classifier

FITTED = 2_000  # training photographs that the distance is fitted to
STRANGERS = 1_080  # drawn pictures without cells
FALSE_ALARMS = 0.05  # largest share of the validation images beyond the threshold
_T = TypeVar("_T")


def build_gallery(trainer: Trainer, model: Classifier, data: BloodCells) -> Gallery:
    """Returns the gallery of the first file of each training photograph.

    The distance is fitted to at most `FITTED` photographs and `STRANGERS` drawn pictures without
    cells. The gallery contains at most `MOST` photographs. Both are balanced over the classes of
    each data set and chosen by a hash of their files. `add_calibration` may raise the threshold.
    """
    train = data.datasets["train"]
    first: dict[str, int] = {}
    for place, row in enumerate(train.rows.tolist()):
        first.setdefault(data.table.rows[row].photo, place)
    mixed = data.mixed("train")
    mixed = mixed[torch.isin(mixed, torch.tensor(list(first.values())))]
    chosen = mixed[balance(_kinds(data, train.only(mixed)), FITTED)]
    photographs = train.only(chosen)

    def find_features(batch: Batch) -> Tensor:
        maps = model.network.maps(batch["image"])
        return F.normalize(maps.float().mean((2, 3)).cpu(), dim=1)

    def of(images: ImageDataset) -> Tensor:
        return torch.cat(_run(trainer, model, images, data.batch_size, find_features))

    features, strange = of(photographs), of(_draw_strangers(data.image_size))
    datasets = [data.table.rows[row].dataset for row in photographs.rows.tolist()]
    known = features.double().numpy()
    weight, bias = fit_distance(known, datasets, strange.double().numpy())
    distance = known @ weight.astype(np.float64) + bias
    kept = chosen[:MOST].argsort()
    files = [data.table.rows[row].path for row in photographs.rows[kept].tolist()]
    return Gallery(
        *(features[kept], photographs.targets[kept], files),
        *(torch.from_numpy(weight), bias, find_threshold(distance, datasets)),
    )


def _draw_strangers(size: int) -> ImageDataset:
    """Returns pictures without cells, which have no class and are drawn when they are fetched."""

    def draw(numbers: Tensor) -> Tensor:
        drawn = np.stack([draw_stranger(number, size) for number in numbers.tolist()])
        return torch.from_numpy(drawn).permute(0, 3, 1, 2)

    numbers = torch.arange(STRANGERS)
    return ImageDataset(draw, numbers, torch.full_like(numbers, NOT_COUNTED), numbers)


def _kinds(data: BloodCells, images: ImageDataset) -> Tensor:
    """Returns a number (n,) for the class and the data set of each image."""
    sets = torch.tensor(data.table.numbers_of_sets(images.rows.tolist()))
    return images.targets + len(data.class_names) * sets


def balance(labels: Tensor, most: int) -> Tensor:
    """Returns the positions of up to `most` items, taken from each class in turn.

    Args:
        labels: (n,) the class of each item.
        most: maximum number of positions.
    """
    turn = torch.empty_like(labels)
    for label in set(labels.tolist()):
        same = labels == label
        turn[same] = torch.arange(int(same.sum()))
    return turn.argsort(stable=True)[:most]


def add_calibration(
    trainer: Trainer, model: Classifier, data: BloodCells, checkpoint: dict[str, Any]
) -> dict[str, Any]:
    """Fits the temperature and the gallery's threshold, and adds both to the checkpoint.

    Args:
        trainer: the trainer, right after the test.
        model: the model, with the weights of the checkpoint, its gallery and the test's outputs.
        data: the data it was trained on.
        checkpoint: content of the checkpoint.

    Returns:
        Two entries for `scores.json`. `calibration` contains the temperature, the numbers of files
        and photographs it was fitted on and, for validation and test, log loss and expected
        calibration error before and after calibration. `gallery` contains its size, threshold and
        the share of images beyond the threshold. At most `FALSE_ALARMS` of the validation images
        are beyond it.
    """
    test, gallery = model.outputs, model.gallery
    assert test is not None
    assert gallery is not None

    def evaluate(batch: Batch) -> Outputs:
        return Outputs.of(model.network, batch, gallery)

    val = Outputs.join(_run(trainer, model, data.datasets["val"], data.batch_size, evaluate))
    n_photos = len({data.table.rows[row].photo for row in val.row.tolist()})
    parts = {"val": val.sorted(), "test": test}
    given = {
        part: (outputs.target.numpy(), outputs.logits.double().numpy())
        for part, outputs in parts.items()
    }
    temperature = fit_temperature(*given["val"], n_photos)
    calibration = {
        "temperature": temperature,
        "fitted_on_files": len(val.row),
        "fitted_on_photographs": n_photos,
    } | {
        part: {"before": judge(*outputs), "after": judge(*outputs, temperature)}
        for part, outputs in given.items()
    }
    distance = {part: outputs.distance.numpy() for part, outputs in parts.items()}
    strict = np.quantile(distance["val"], 1 - FALSE_ALARMS, method="higher")
    threshold = max(gallery.threshold, float(strict))
    beyond = {part: float((far > threshold).mean()) for part, far in distance.items()}
    gallery = gallery._replace(threshold=threshold, false_alarms=beyond["test"])
    checkpoint[TEMPERATURE] = temperature
    checkpoint[GALLERY] = gallery.as_dict()
    size = {"photographs": len(gallery.files), "threshold": threshold, "unfamiliar": beyond}
    return {"calibration": calibration, "gallery": size}


@torch.no_grad()
def _run(
    trainer: Trainer,
    model: Classifier,
    images: ImageDataset,
    batch_size: int,
    step: Callable[[Batch], _T],
) -> list[_T]:
    """Runs a step on batches of images, in the trainer's precision, without augmentation.

    Args:
        trainer: the trainer, which supplies the device and the precision.
        model: the model; its network is moved back to its device afterwards.
        images: the images.
        batch_size: images per batch.
        step: applied to each batch on the trainer's device.
    """
    home, device = model.device, trainer.strategy.root_device
    model.network.to(device).eval()
    found = []
    for positions in torch.split(torch.arange(len(images)), batch_size):
        batch = images.__getitems__(positions.tolist())
        batch["image"] = batch["image"].to(device)
        with trainer.precision_plugin.forward_context():
            found.append(step(batch))
    model.network.to(home)
    return found
