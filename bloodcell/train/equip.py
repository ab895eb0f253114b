"""Adds to the best checkpoint what answering needs: a temperature and a gallery."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Trainer
from numpy.typing import NDArray

from bloodcell.data.datamodule import BloodCells
from bloodcell.evaluate.calibration import fit_temperature, judge, soften
from bloodcell.evaluate.metrics import sample_of
from bloodcell.files import beside
from bloodcell.model.description import GALLERY, TEMPERATURE
from bloodcell.model.gallery import FALSE_ALARMS, Features, Gallery
from bloodcell.train.task import Classifier


class Seen(NamedTuple):
    """What the network makes of some images.

    Attributes:
        true: (n,) labels.
        probability: (n, classes), not calibrated.
        features: (n, C), the trunk's map averaged.
        photo: n names of the photographs they were made from.
    """

    true: NDArray[np.int64]
    probability: NDArray[np.float32]
    features: Features
    photo: list[str]


def equip(trainer: Trainer, model: Classifier, data: BloodCells, path: Path) -> dict[str, Any]:
    """Fits a temperature and makes a gallery, and writes both into the checkpoint.

    Args:
        trainer: after the test of the checkpoint, whose weights the model has.
        model: what was trained.
        data: what it was trained on.
        path: the checkpoint; replaced by one that also holds these.

    Returns:
        For `scores.json`: `calibration` with the temperature, on how many files and photographs it
        was fitted and, for validation and test, log loss and expected calibration error before and
        after; `gallery` with its size, its threshold and the share of images it calls unfamiliar.
    """
    assert model.predicted is not None
    tested = set(model.predicted[0].tolist())  # less than the part, where batches are limited
    rows = data.datasets["test"].rows.tolist()
    val = look(trainer, model, data, "val")
    test = look(trainer, model, data, "test", [n for n, row in enumerate(rows) if row in tested])
    temperature = fit_temperature(sample_of(val.true, val.probability, val.photo))
    calibration: dict[str, Any] = {
        "temperature": temperature,
        "fitted_on_files": len(val.true),
        "fitted_on_photographs": len(set(val.photo)),
    }
    for part, seen in {"val": val, "test": test}.items():
        after = soften(seen.probability, temperature)
        calibration[part] = {
            "before": judge(seen.true, seen.probability),
            "after": judge(seen.true, after),
        }
    gallery = _make_gallery(trainer, model, data, val, test)
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    checkpoint[TEMPERATURE] = temperature
    checkpoint[GALLERY] = gallery.as_dict() | {
        "features": torch.from_numpy(gallery.features),
        "labels": torch.from_numpy(gallery.labels),
    }
    with beside(path) as partial:
        torch.save(checkpoint, partial)
    beyond = gallery.distances(val.features).min(1) > gallery.threshold
    familiarity = {
        "photographs": len(gallery.files),
        "threshold": gallery.threshold,
        "unfamiliar": {"val": float(beyond.mean()), "test": gallery.false_alarms},
    }
    return {"calibration": calibration, "gallery": familiarity}


def _make_gallery(
    trainer: Trainer, model: Classifier, data: BloodCells, val: Seen, test: Seen
) -> Gallery:
    """Takes the first file of each training photograph, and sets the threshold."""
    first: dict[str, int] = {}
    for place, row in enumerate(data.datasets["train"].rows.tolist()):
        first.setdefault(data.table.rows[row].photo, place)
    places = list(first.values())
    train = look(trainer, model, data, "train", places)
    rows = data.datasets["train"].rows[places].tolist()
    files = [data.table.rows[row].path for row in rows]
    unset = {"labels": train.true, "files": files, "threshold": 0.0, "false_alarms": 0.0}
    gallery = Gallery.from_dict({"features": train.features, **unset})
    threshold = float(np.quantile(gallery.distances(val.features).min(1), 1 - FALSE_ALARMS))
    beyond = gallery.distances(test.features).min(1) > threshold
    return gallery._replace(threshold=threshold, false_alarms=float(beyond.mean()))


@torch.no_grad()
def look(
    trainer: Trainer,
    model: Classifier,
    data: BloodCells,
    part: str,
    places: Sequence[int] | None = None,
) -> Seen:
    """Runs the network over images of a part, in the trainer's precision, without augmentation.

    Args:
        trainer: whose device and precision are used.
        model: whose network is used; it is left on the device it is on.
        data: has decoded the part.
        part: train, val or test.
        places: which images of the part; None takes all.
    """
    dataset = data.datasets[part]
    wanted = list(range(len(dataset)) if places is None else places)
    home, device = model.device, trainer.strategy.root_device
    network = model.network.to(device).eval()
    true, probability, features = [], [], []
    for start in range(0, len(wanted), data.batch_size):
        batch = dataset.__getitems__(wanted[start : start + data.batch_size])
        with trainer.precision_plugin.forward_context():
            maps = network.maps(batch["image"].to(device))
            logits = network.classify(maps)
        true.append(batch["target"].cpu().numpy())
        probability.append(logits.float().softmax(1).cpu().numpy())
        features.append(maps.float().mean((2, 3)).cpu().numpy())
    model.network.to(home)
    photo = [data.table.rows[i].photo for i in dataset.rows[wanted].tolist()]
    return Seen(np.concatenate(true), np.concatenate(probability), np.concatenate(features), photo)
