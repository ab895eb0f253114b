"""Callbacks and loggers of Lightning that are given on the command line take effect."""

import contextlib
import csv
import importlib.util
import json
import os
import re
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bloodcell.cli.main import main
from bloodcell.data.batches import Batch
from bloodcell.evaluate.history import read_history
from bloodcell.train.by_dataset import ByDataset
from bloodcell.train.signals import StopGently
from bloodcell.train.task import Classifier
from bloodcell.train.trainer import callbacks

Fit = Callable[..., Path]


@pytest.fixture
def fit(words: list[str]) -> Fit:
    """Trains with these options and returns the run folder."""

    def run(options: str, epochs: int = 2) -> Path:
        small = "--name own --model.lr 1e-3 --data.batch_size 8 --trainer.max_epochs"
        main(["fit", *words, *small.split(), str(epochs), *options.split()])
        return Path("lightning_logs/own/version_0")

    return run


def read(run: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
    return found


def logged(run: Path, tag: str) -> list[float]:
    """Returns the values of a metric in TensorBoard's event files, one an epoch."""
    return [event.value for event in EventAccumulator(str(run)).Reload().Scalars(tag)]


def test_early_stopping_ends_the_training(fit: Fit) -> None:
    """No epoch is better than the one before by 100: the first is the best, the second the last."""
    run = fit(
        "--trainer.callbacks+ EarlyStopping --trainer.callbacks.monitor val/loss "
        "--trainer.callbacks.patience 1 --trainer.callbacks.min_delta 100",
        epochs=5,
    )
    assert [line.epoch for line in read_history(run / "metrics.csv")] == [0, 1]
    assert read(run, "last")["epoch"] == 1
    assert json.loads((run / "scores.json").read_text())["epochs"] == 2


def test_a_model_checkpoint_comes_beside_best_and_last(fit: Fit) -> None:
    """It watches another metric; `best.ckpt` and `scores.json` still follow the lowest loss."""
    run = fit(
        "--trainer.callbacks+ ModelCheckpoint --trainer.callbacks.monitor val/acc "
        "--trainer.callbacks.mode max --trainer.callbacks.filename theirs"
    )
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["best.ckpt", "last.ckpt", "theirs.ckpt"]
    lines = read_history(run / "metrics.csv")
    accuracy, loss = ([getattr(line, key) for line in lines] for key in ("val_acc", "val_loss"))
    assert read(run, "theirs")["epoch"] == accuracy.index(max(accuracy))
    assert read(run, "best")["epoch"] == loss.index(min(loss))
    assert read(run, "last")["epoch"] == 1
    assert json.loads((run / "scores.json").read_text())["monitor"] == "val/loss"


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_stochastic_weight_averaging_averages(schedule: str, fit: Fit) -> None:
    """The last weights are the mean of those after the first two epochs.

    Lightning takes an epoch's weights at the start of the next one, and adds a last epoch without
    optimizer steps that renews the statistics of BatchNorm.
    """
    run = fit(
        "--trainer.callbacks+ StochasticWeightAveraging --trainer.callbacks.swa_lrs 0.01 "
        "--trainer.callbacks.swa_epoch_start 2 --trainer.callbacks.annealing_epochs 1 "
        "--trainer.callbacks+ ModelCheckpoint --trainer.callbacks.save_top_k -1 "
        f"--trainer.callbacks.filename {{epoch}} --model.schedule {schedule}",
        epochs=3,
    )
    first, second, last = (read(run, name) for name in ("epoch=0", "epoch=1", "last"))
    assert last["epoch"] == 3
    for state in (read(run, "epoch=2"), last):
        (group,) = state["optimizer_states"][0]["param_groups"]
        assert group["lr"] == pytest.approx(0.01)
    (swa,) = (v for k, v in last["callbacks"].items() if k.startswith("StochasticWeightAveraging"))
    assert swa["n_averaged"] == 2
    weights = [key for key in last["state_dict"] if key.endswith(("weight", "bias"))]
    assert weights
    for key in weights:
        before, after, found = (one["state_dict"][key] for one in (first, second, last))
        torch.testing.assert_close(found, (before + after) / 2)
        assert torch.equal(found, swa["average_model_state"][key])
    assert any(not torch.equal(first["state_dict"][k], second["state_dict"][k]) for k in weights)


def test_weight_averaging_goes_on_after_a_stop(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run stopped in its third epoch ends with the weights of one that was not."""
    step, calls = Classifier.training_step, 0

    def counted(self: Classifier, batch: Batch, batch_idx: int) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 15:  # of six an epoch
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, batch_idx)

    swa = (
        "--trainer.callbacks+ StochasticWeightAveraging --trainer.callbacks.swa_lrs 0.01 "
        "--trainer.callbacks.swa_epoch_start 2 --trainer.callbacks.annealing_epochs 1"
    )
    whole = read(fit(swa, epochs=3), "last")
    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "training_step", counted)
        with pytest.raises(SystemExit) as stopped:
            fit(f"{swa} --name parts", epochs=3)
    assert stopped.value.code == 143
    parts = Path("lightning_logs/parts/version_0")
    assert read(parts, "last")["global_step"] == 15
    main(["fit", "--ckpt_path", str(parts)])
    last = read(parts, "last")
    assert last["epoch"] == whole["epoch"] == 3
    for key, value in whole["state_dict"].items():
        assert torch.equal(value, last["state_dict"][key])


def test_the_best_checkpoint_has_the_highest_balanced_accuracy(fit: Fit) -> None:
    run = fit("--monitor val/balanced_accuracy", epochs=3)
    values = logged(run, "val/balanced_accuracy")
    assert len(values) == 3
    assert read(run, "best")["epoch"] == values.index(max(values))
    scores = json.loads((run / "scores.json").read_text())
    assert scores["monitor"] == "val/balanced_accuracy"
    assert scores["best_epoch"] == values.index(max(values))


def test_a_csv_logger_comes_beside_tensorboard(fit: Fit) -> None:
    run = fit("--trainer.logger CSVLogger --trainer.logger.save_dir theirs")
    (path,) = Path("theirs").rglob("metrics.csv")
    with path.open(newline="") as file:
        losses = [float(line["val/loss"]) for line in csv.DictReader(file) if line["val/loss"]]
    assert losses[:2] == pytest.approx(logged(run, "val/loss"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "--trainer.logger WandbLogger",
            r"WandbLogger cannot be used: Requirement 'wandb>=\S+' not",
        ),
        (
            "--trainer.callbacks+ EarlyStopping --trainer.callbacks.monitor val/loss "
            "--trainer.callbacks.mode low",
            r"EarlyStopping cannot be used: `mode` can be m\w+, m\w+, got low",
        ),
    ],
)
def test_constructors_that_fail(
    options: str, message: str, words: list[str], refused: Callable[..., str]
) -> None:
    """A package that is not installed, a value that Lightning refuses: one line."""
    if "Wandb" in options and importlib.util.find_spec("wandb"):
        pytest.skip("wandb is installed")
    said = refused("fit", *words, *options.split())
    assert re.search(message, said)
    assert len(said.splitlines()) <= 2


class Broken(Callback):
    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 8:
            raise KeyError("of the user's own")


def test_an_error_of_a_callback_leaves_the_command_and_the_traceback(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(
            "bloodcell.cli.training.callbacks", lambda *given: [*callbacks(*given), Broken()]
        )
        with pytest.raises(SystemExit) as stopped:
            fit("")
    assert stopped.value.code == 1
    said, run = capsys.readouterr(), Path("lightning_logs/own/version_0")
    assert "Traceback" not in said.err
    assert re.search(
        r"bloodcell: KeyError: .of the user's own. \(test_own_callbacks\.py, line \d+\)\. "
        rf"The traceback is in {run}/traceback\.txt\.",
        said.err,
    )
    assert re.search(rf"Stopped in epoch 2\. To resume:\n  \S+ fit --ckpt_path {run}", said.out)
    assert "in on_train_batch_start" in (run / "traceback.txt").read_text()
    main(["fit", "--ckpt_path", str(run)])
    assert (run / "scores.json").exists()


def test_weights_and_biases_offline(fit: Fit) -> None:
    pytest.importorskip("wandb", reason="needs wandb, which bloodcell does not depend on")
    run = fit(
        "--trainer.logger WandbLogger --trainer.logger.offline true "
        "--trainer.logger.save_dir theirs"
    )
    assert len(logged(run, "val/loss")) == 2
    assert list(Path("theirs").rglob("*.wandb"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what MLflow depends on
def test_mlflow_in_a_database(fit: Fit) -> None:
    """MLflow no longer develops its store in files, and refuses it."""
    pytest.importorskip("mlflow", reason="needs mlflow, which bloodcell does not depend on")
    run = fit("--trainer.logger MLFlowLogger --trainer.logger.tracking_uri sqlite:///theirs.db")
    assert len(logged(run, "val/loss")) == 2
    with contextlib.closing(sqlite3.connect("theirs.db")) as database:
        stored = database.execute("select value from metrics where key = 'val/loss'").fetchall()
    assert len(stored) == 2


def test_metrics_of_data_sets_are_there_for_own_callbacks() -> None:
    own = Callback()
    given = SimpleNamespace(callbacks=own, enable_progress_bar=False)
    assert [type(one) for one in callbacks(given, None, StopGently())] == [ByDataset, Callback]
    given.callbacks = None
    assert [type(one) for one in callbacks(given, None, StopGently())] == [ByDataset]
