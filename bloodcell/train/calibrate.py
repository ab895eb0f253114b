"""Adds a temperature and a gallery of training photographs to the best checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer

from bloodcell.data.datamodule import BloodCells
from bloodcell.evaluate.calibration import apply_temperature, fit_temperature, judge
from bloodcell.evaluate.metrics import sample_of
from bloodcell.files import beside
from bloodcell.model.description import GALLERY, TEMPERATURE
from bloodcell.model.gallery import FALSE_ALARMS, Gallery
from bloodcell.train.outputs import Outputs
from bloodcell.train.task import Classifier


def add_calibration(
    trainer: Trainer, model: Classifier, data: BloodCells, path: Path
) -> dict[str, Any]:
    """Fits a temperature, builds a gallery, and writes both into the checkpoint.

    Args:
        trainer: the trainer, right after it tested the checkpoint.
        model: the trained model, with the weights of the checkpoint and the outputs of the test.
        data: the data it was trained on.
        path: the checkpoint file, which is replaced.

    Returns:
        Two entries for `scores.json`. `calibration` holds the temperature, the numbers of files
        and photographs it was fitted on and, for validation and test, log loss and expected
        calibration error before and after calibration. `gallery` holds its size, its threshold and
        the share of images beyond the threshold.
    """
    assert model.outputs is not None
    test = model.outputs
    val = run_network(trainer, model, data, "val")
    photos = [data.table.rows[row].photo for row in val.row.tolist()]
    true, probability = val.target.numpy(), val.probability.numpy()
    temperature = fit_temperature(sample_of(true, probability, photos))
    calibration: dict[str, Any] = {
        "temperature": temperature,
        "fitted_on_files": len(photos),
        "fitted_on_photographs": len(set(photos)),
    }
    for part, outputs in {"val": val, "test": test}.items():
        true, probability = outputs.target.numpy(), outputs.probability.numpy()
        calibration[part] = {
            "before": judge(true, probability),
            "after": judge(true, apply_temperature(probability, temperature)),
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
    beyond = gallery.distances(val.features.numpy()).min(1) > gallery.threshold
    familiarity = {
        "photographs": len(gallery.files),
        "threshold": gallery.threshold,
        "unfamiliar": {"val": float(beyond.mean()), "test": gallery.false_alarms},
    }
    return {"calibration": calibration, "gallery": familiarity}


def _make_gallery(
    trainer: Trainer, model: Classifier, data: BloodCells, val: Outputs, test: Outputs
) -> Gallery:
    """Builds the gallery from the first file of each training photograph and sets its threshold."""
    first: dict[str, int] = {}
    for place, row in enumerate(data.datasets["train"].rows.tolist()):
        first.setdefault(data.table.rows[row].photo, place)
    train = run_network(trainer, model, data, "train", list(first.values()))
    files = [data.table.rows[row].path for row in train.row.tolist()]
    unset = {"labels": train.target.numpy(), "files": files, "threshold": 0.0, "false_alarms": 0.0}
    gallery = Gallery.from_dict({"features": train.features.numpy(), **unset})
    nearest = gallery.distances(val.features.numpy()).min(1)
    threshold = float(np.quantile(nearest, 1 - FALSE_ALARMS))
    beyond = gallery.distances(test.features.numpy()).min(1) > threshold
    return gallery._replace(threshold=threshold, false_alarms=float(beyond.mean()))


@torch.no_grad()
def run_network(
    trainer: Trainer,
    model: Classifier,
    data: BloodCells,
    part: str,
    places: Sequence[int] | None = None,
) -> Outputs:
    """Runs the network over images of a part, in the trainer's precision, without augmentation.

    Args:
        trainer: the trainer, which supplies the device and the precision.
        model: the model; its network is moved back to its device afterwards.
        data: the data, with the part decoded.
        part: train, val or test.
        places: positions of the images within the part; None for all images.
    """
    dataset = data.datasets[part]
    wanted = list(range(len(dataset)) if places is None else places)
    home, device = model.device, trainer.strategy.root_device
    network = model.network.to(device).eval()
    found = []
    for start in range(0, len(wanted), data.batch_size):
        batch = dataset.__getitems__(wanted[start : start + data.batch_size])
        with trainer.precision_plugin.forward_context():
            maps = network.maps(batch["image"].to(device))
            logits = network.classify(maps)
        features = maps.float().mean((2, 3)).cpu()
        found.append(Outputs(batch["row"], batch["target"], logits.float().cpu(), features))
    model.network.to(home)
    return Outputs(*(torch.cat(column).cpu() for column in zip(*found, strict=True)))
