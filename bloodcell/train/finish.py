"""Finishes a run: tests the best checkpoint, writes the scores, prints the table."""

import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import Trainer
from PIL import Image

from bloodcell import machine
from bloodcell.data.datamodule import BloodCells
from bloodcell.data.splits import count_photos, shared_photos
from bloodcell.datasets.drawn import is_drawn
from bloodcell.evaluate import history
from bloodcell.evaluate.baseline import MOST, nearest_labels
from bloodcell.evaluate.card import CARD, write_card
from bloodcell.evaluate.figures.curves import draw_curves
from bloodcell.evaluate.figures.predictions import (
    draw_confusion,
    draw_reliability,
    draw_worst,
    worst_photographs,
)
from bloodcell.evaluate.figures.style import save
from bloodcell.evaluate.metrics import effective_number
from bloodcell.evaluate.scores import (
    CONFUSION,
    Predictions,
    count_confusion,
    read_predictions,
    score,
    write_predictions,
    write_scores,
)
from bloodcell.evaluate.summary import Line, print_table
from bloodcell.files import beside
from bloodcell.model.checkpoint import read_checkpoint
from bloodcell.model.description import Description
from bloodcell.text import clock, command, near
from bloodcell.train import notes
from bloodcell.train.calibrate import add_calibration, build_gallery
from bloodcell.train.checkpoints import KeepBest
from bloodcell.train.notes import Note
from bloodcell.train.runs import RunLogger
from bloodcell.train.task import Classifier
from bloodcell.train.trainer import device_name


def finish_fit(trainer: Trainer, model: Classifier, data: BloodCells, name: str) -> None:
    """Tests the best checkpoint once after `fit`, and writes and prints the results."""
    if trainer.fast_dev_run:  # type: ignore[attr-defined]  # undeclared
        if trainer.is_global_zero:
            print("fast_dev_run: train and validation ran; nothing was written.")
        return
    if not isinstance(trainer.logger, RunLogger):
        trainer.test(model, data, verbose=False)
        print_scores(trainer, model, data, "test", f"{name}, last weights")
        return
    folder = Path(trainer.strategy.broadcast(trainer.logger.log_dir))
    best = folder / "checkpoints" / "best.ckpt"
    if not trainer.strategy.broadcast(best.is_file()):  # the same decision on all ranks
        if trainer.is_global_zero:
            why = "no epoch was validated, or trainer.enable_checkpointing is false"
            print(f"{folder} has no best checkpoint to test: {why}.")
        return
    checkpoint = read_checkpoint("best.ckpt", best)
    model.load_state_dict(checkpoint["state_dict"])
    model.gallery = build_gallery(trainer, model, data)
    trainer.test(model, data, verbose=False)
    if trainer.is_global_zero:
        _write_results(trainer, model, data, name, folder, checkpoint)


def _write_results(
    trainer: Trainer,
    model: Classifier,
    data: BloodCells,
    name: str,
    folder: Path,
    checkpoint: dict[str, Any],
) -> None:
    """Completes the best checkpoint, writes all files of the run folder and prints the scores."""
    best = folder / "checkpoints" / "best.ckpt"
    predictions = collect_predictions(model, data, "test")
    loss = float(trainer.callback_metrics["test/loss"])
    equipped = add_calibration(trainer, model, data, checkpoint)
    with beside(best) as partial:
        torch.save(checkpoint, partial)
    write_predictions(folder, predictions)
    predictions = read_predictions(folder)  # rounded, so that `verify` computes the same scores
    scores = {
        "name": name,
        "drawn": is_drawn(data.hparams["root"]),
        "split": data.split,
        **_count_data(trainer, data, predictions),
        **_read_epochs(folder, checkpoint["epoch"]),
        "test": _score_test(predictions, loss),
        **equipped,
        CONFUSION: count_confusion(predictions),
        "baseline": score(_classify_by_colours(data, predictions)),
        "baseline_training_images": min(MOST, len(data.datasets["train"])),
        "effective_test_images": effective_number(predictions.photo),
        **_describe_training(trainer),
        "parameters": sum(p.numel() for p in model.network.parameters()),
        "data_fingerprint": data.table.fingerprint,
        "machine": machine.describe(device_name(trainer.strategy.root_device)),
    }
    write_card(folder / CARD, Description.from_checkpoint(checkpoint, name, scores), best)
    _log_hyperparameters(trainer, model, data, scores["test"])
    draw_figures(trainer, data, folder, name, predictions)
    write_scores(folder, scores)  # last, because a run with scores counts as finished
    _report(folder, name, scores, notes.on_run(data, scores))


def _describe_training(trainer: Trainer) -> dict[str, Any]:
    """Returns the metric of `best.ckpt` (not that of a user's ModelCheckpoint) and settings."""
    own = (one for one in trainer.checkpoint_callbacks if isinstance(one, KeepBest))
    return {
        "monitor": next((one.monitor for one in own), None),
        "limits": {"max_epochs": trainer.max_epochs, "max_steps": trainer.max_steps},
        "precision": str(trainer.precision),
        "devices": trainer.world_size,
    }


def _count_data(trainer: Trainer, data: BloodCells, tested: Predictions) -> dict[str, Any]:
    """Names the data sets, and counts the files and photographs of each part."""
    rows = {part: dataset.rows.tolist() for part, dataset in data.datasets.items()}
    files = {part: len(part_rows) for part, part_rows in rows.items()}
    photos = {part: count_photos(data.table, part_rows) for part, part_rows in rows.items()}
    return {
        "datasets": data.table.datasets,
        "files": files | {"test": len(tested.file)},
        "photos": photos | {"test": len(set(tested.photo))},
        "unreadable_files_left_out": data.left_out,
        "test_photos_also_in_training": shared_photos(data.table, rows),
        "test_files_not_scored": len(data.parts["test"]) - len(tested.file),
        **_limited_training(trainer, data),
    }


def _limited_training(trainer: Trainer, data: BloodCells) -> dict[str, Any]:
    """Returns how many training files an epoch uses; {} if no setting limits them."""
    batches = trainer.num_training_batches  # infinite if this Trainer has not trained
    if math.isinf(batches) or batches >= data.count_batches():
        return {}
    used, files = int(batches) * data.batch_size * trainer.world_size, len(data.datasets["train"])
    if used >= files:  # data.draws may be larger than the part
        return {}
    overfits = cast(Any, trainer).overfit_batches  # undeclared
    setting = "trainer.overfit_batches" if overfits else "trainer.limit_train_batches"
    return {notes.LIMITED: {"used": used, "files": files, "setting": setting}}


def _read_epochs(folder: Path, best_epoch: int) -> dict[str, Any]:
    """Returns the losses of the best epoch and the training time for `scores.json`."""
    epochs = history.read_history(folder / history.FILE_NAME)
    best = next(epoch for epoch in epochs if epoch.epoch == best_epoch)
    return {
        "train": {"loss": best.train_loss, "accuracy": best.train_acc},
        "val": {"loss": best.val_loss, "accuracy": best.val_acc},
        "best_epoch": best.epoch,
        "epochs": len(epochs),
        "learning_time_seconds": round(sum(epoch.seconds for epoch in epochs), 1),
    }


def _score_test(predictions: Predictions, loss: float) -> dict[str, Any]:
    found = score(predictions)
    return {
        "loss": loss,
        "accuracy": found["by_file"]["accuracy"]["value"],
        "accuracy_by_photo": found["by_photo"]["accuracy"]["value"],
        "photos": found["by_photo"]["n"],
        **found,
    }


def print_scores(
    trainer: Trainer, model: Classifier, data: BloodCells, part: str, scored: str
) -> None:
    """Prints the scores of a part after its evaluation; `scored` describes the model."""
    if not trainer.is_global_zero:
        return
    found = score(collect_predictions(model, data, part))
    photos = found["by_photo"]["accuracy"]["value"]
    metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
    title = "validation" if part == "val" else part
    line = Line(title, metrics[f"{part}/loss"], metrics[f"{part}/acc"], photos)
    below = [
        ("scored", scored),
        *notes.scored_on(data, part, found),
        *notes.intervals(found),
        *notes.by_dataset(found),
        *notes.limited_training(_limited_training(trainer, data)),
        *notes.on_data(data),
    ]
    print_table(f"{title} scores", [line], below)


def collect_predictions(model: Classifier, data: BloodCells, part: str) -> Predictions:
    """Returns the probabilities of the last evaluation with their files and photographs."""
    assert model.outputs is not None
    numbers, probability = model.outputs.row, model.outputs.probability
    rows = [data.table.rows[i] for i in numbers.tolist()]
    labels = torch.tensor(data.table.labels)[numbers]
    several = len(data.table.datasets) > 1
    return Predictions(
        [part] * len(rows),
        [row.path for row in rows],
        [row.photo for row in rows],
        labels.numpy(),
        probability.numpy(),
        data.class_names,
        [row.dataset for row in rows] if several else [],
    )


def _classify_by_colours(data: BloodCells, tested: Predictions) -> Predictions:
    """Returns the baseline: the class of the training image with the most similar colours."""
    test, train = data.datasets["test"], data.datasets["train"]
    sample = train.only(data.mixed("train")[:MOST].sort().values)
    nearest = nearest_labels(sample, test).tolist()
    paths = (data.table.rows[row].path for row in test.rows.tolist())
    label = dict(zip(paths, nearest, strict=True))
    labels = [label[path] for path in tested.file]
    return tested._replace(probability=np.eye(len(tested.class_names), dtype=np.float32)[labels])


def draw_figures(
    trainer: Trainer, data: BloodCells, folder: Path, name: str, predictions: Predictions
) -> None:
    """Draws figures of the test predictions into the run folder and into TensorBoard."""
    worst = worst_photographs(predictions)
    tested = data.datasets["test"]
    place = {data.table.rows[row].path: n for n, row in enumerate(tested.rows.tolist())}
    positions = [place[predictions.file[one.file]] for one in worst]
    images = tested.__getitems__(positions)["image"].permute(0, 2, 3, 1).cpu()  # (B, H, W, 3)
    epochs = history.read_history(folder / history.FILE_NAME)
    title = f"{name}, split {data.split}" + notes.drawn(data)
    figures = {
        "curves": draw_curves(title, {"": [epochs]}, None),
        "confusion": draw_confusion(f"{title}, test part", predictions),
        **{
            f"confusion_{name}": draw_confusion(f"{title}, {name}", predictions.only(name))
            for name in sorted(set(predictions.dataset))
        },
        "reliability": draw_reliability(f"{title}, test part", predictions),
        "worst": draw_worst(f"{title}, test part", worst, list(images.numpy())),
    }
    logger: Any = trainer.logger
    for what, figure in figures.items():
        save(figure, folder / f"{what}.png")
        with Image.open(folder / f"{what}.png") as image:
            pixels = np.asarray(image.convert("RGB"))
        logger.experiment.add_image(
            f"figures/{what}", pixels, trainer.global_step, dataformats="HWC"
        )
    logger.save()


def _log_hyperparameters(
    trainer: Trainer, model: Classifier, data: BloodCells, test: dict[str, Any]
) -> None:
    """Logs the settings and the test scores to TensorBoard's HPARAMS tab."""
    chosen = {**model.hparams, **data.hparams, "weights": model.pretrained_config.source}
    chosen["classes"] = len(chosen.pop("class_names"))
    names = {"test/loss": "loss", "test/acc": "accuracy", "test/acc_by_photo": "accuracy_by_photo"}
    plain = {k: v if isinstance(v, int | float | str) else str(v) for k, v in chosen.items()}
    metrics = {tag: test[key] for tag, key in names.items()}
    for name, found in test.get("by_dataset", {}).items():
        metrics[f"test/acc_by_photo/{name}"] = found["by_photo"]["accuracy"]["value"]
    logger: Any = trainer.logger
    logger.log_hyperparams(plain, metrics, trainer.global_step)
    logger.save()


def _report(folder: Path, name: str, scores: dict[str, Any], below: list[Note]) -> None:
    shown = Path(near(folder))
    lines = [
        Line("train", scores["train"]["loss"], scores["train"]["accuracy"]),
        Line("validation", scores["val"]["loss"], scores["val"]["accuracy"]),
        Line(
            "test",
            scores["test"]["loss"],
            scores["test"]["accuracy"],
            scores["test"]["accuracy_by_photo"],
        ),
    ]
    below = [
        *below,
        ("best epoch", f"{scores['best_epoch'] + 1} of {scores['epochs']}"),
        ("learning time", clock(scores["learning_time_seconds"])),
        ("run folder", str(shown)),
        ("see it", command("tensorboard", "--logdir", shown.parent.parent)),
        ("score again", command("bloodcell", "test", "--ckpt_path", shown)),
    ]
    print_table(name, lines, below)
