"""What is kept of a run that is stopped, damaged or goes wrong."""

import json
import math
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bloodcell.cli.main import main
from bloodcell.data.batches import Batch
from bloodcell.errors import InputError
from bloodcell.evaluate.history import read_history
from bloodcell.train.checkpoints import WholeFiles, read_monitor
from bloodcell.train.signals import StopGently
from bloodcell.train.task import Classifier
from bloodcell.train.trainer import callbacks

Refused = Callable[..., str]


def stop_at(
    monkeypatch: pytest.MonkeyPatch, nth: int, *numbers: int, where: str = "training_step"
) -> None:
    """Sends signals to this process in the n-th step of all epochs."""
    step, calls = getattr(Classifier, where), 0

    def counted(self: Classifier, batch: Batch, batch_idx: int) -> object:
        nonlocal calls
        calls += 1
        if calls == nth:
            for number in numbers:
                os.kill(os.getpid(), number)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Classifier, where, counted)


@pytest.fixture
def small(words: list[str]) -> list[str]:
    return [*words, "--data.batch_size", "4", "--trainer.max_epochs", "2", "--name", "c"]


def checkpoint(name: str, version: int = 0) -> dict[str, torch.Tensor]:
    path = Path(f"lightning_logs/c/version_{version}/checkpoints/{name}.ckpt")
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)
    return state


@pytest.mark.parametrize(
    ("number", "status", "where", "steps"),
    [
        (signal.SIGINT, 130, "training_step", 14),
        (signal.SIGTERM, 143, "training_step", 14),
        (signal.SIGUSR1, 143, "validation_step", 11),
    ],
)
def test_a_run_that_is_asked_to_stop_saves_and_goes_on(
    number: int,
    status: int,
    where: str,
    steps: int,
    small: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """In its fourteenth step of eleven an epoch; in the first validation, which it finishes."""
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        stop_at(patch, 14 if steps == 14 else 4, number, where=where)
        with pytest.raises(SystemExit) as stopped:
            main(["fit", *small])
    assert stopped.value.code == status
    said = capfd.readouterr()
    assert "stopping after this step or validation; press Ctrl-C again" in said.err
    assert re.search(r"To resume:\n  \S*bloodcell fit --ckpt_path lightning_logs/c/v", said.out)
    assert checkpoint("last")["global_step"] == steps
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    main(["fit", *small, "--resume", "auto", "--trainer.enable_progress_bar", "true"])
    shown = capfd.readouterr().out
    assert "Epoch 2/2" in shown
    assert "Epoch 1/1" not in shown, "Lightning numbers epochs from 0"
    assert len(read_history(Path("lightning_logs/c/version_0/metrics.csv"))) == 2
    assert not Path("lightning_logs/c/version_0/checkpoints/before.ckpt").exists()
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *small, "--resume", "auto"])
    assert stopped.value.code == 0
    assert "lightning_logs/c/version_0 is finished: nothing is left to do" in capfd.readouterr().out


def test_a_run_that_ended_early_is_finished(
    small: list[str], refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command trains it no further; more epochs do."""
    early = ["--trainer.callbacks+", "EarlyStopping", "--trainer.callbacks.monitor", "val/loss"]
    early += ["--trainer.callbacks.patience", "0", "--trainer.max_epochs", "9", "--model.lr", "0.1"]
    main(["fit", *small, *early])
    run = Path("lightning_logs/c/version_0")
    done = len(read_history(run / "metrics.csv"))
    assert done < 9
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *small, *early, "--resume", "auto"])
    assert stopped.value.code == 0
    assert "is finished: nothing is left to do" in capsys.readouterr().out
    said = refused("fit", *small, *early, "--ckpt_path", "last")
    assert f"this run is finished after epoch {done} (trainer.max_epochs=9)" in said
    main(["fit", *small, *early, "--ckpt_path", "last", "--trainer.max_epochs", "10"])
    assert len(read_history(run / "metrics.csv")) > done


@pytest.mark.parametrize("first", [5, 11, 14])
def test_a_run_with_a_limit_of_steps_is_resumed(small: list[str], first: int) -> None:
    """After 5 steps, after an epoch of 11, and after 3 steps of the second.

    An epoch that was cut short is not continued.
    """
    small += ["--model.lr", "1e-3", "--trainer.max_epochs", "4", "--trainer.max_steps"]
    main(["fit", *small, str(first)])
    main(["fit", *small, "25", "--resume", "auto"])
    assert checkpoint("last")["global_step"] == 25
    epochs = [line.epoch for line in read_history(Path("lightning_logs/c/version_0/metrics.csv"))]
    assert epochs == [0, 1, 2]
    if first == 11:
        main(["fit", *small, "25", "--name", "whole"])
        path = "lightning_logs/whole/version_0/checkpoints/last.ckpt"
        whole, resumed = torch.load(path, weights_only=True), checkpoint("last")
        for key, weight in whole["state_dict"].items():
            assert torch.equal(resumed["state_dict"][key], weight)


def test_a_run_whose_extension_failed_is_not_finished(
    small: list[str], refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise InputError("no memory")

    more = ["fit", *small, "--ckpt_path", "last", "--trainer.max_epochs", "3"]
    main(["fit", *small])
    with monkeypatch.context() as patch:
        patch.setattr(StopGently, "on_fit_start", fail)
        assert "no memory" in refused(*more)
    main(more)
    assert len(read_history(Path("lightning_logs/c/version_0/metrics.csv"))) == 3


def test_the_second_ctrl_c_stops_at_once(small: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    stop_at(monkeypatch, 3, signal.SIGINT, signal.SIGINT)
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *small])
    assert stopped.value.code == 130
    assert list(Path().rglob("*.ckpt")) == []


def test_a_signal_during_the_last_checkpoint_stops_before_the_test(
    small: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save, steps = WholeFiles.save_checkpoint, list[int]()

    def signalled(self: WholeFiles, checkpoint: dict[str, Any], path: Path, **more: Any) -> None:
        steps.append(checkpoint["global_step"])
        if steps.count(22) == 1 and steps[-1] == 22:
            os.kill(os.getpid(), signal.SIGTERM)
        save(self, checkpoint, path, **more)

    run = Path("lightning_logs/c/version_0")
    with monkeypatch.context() as patch:
        patch.setattr(WholeFiles, "save_checkpoint", signalled)
        with pytest.raises(SystemExit) as stopped:
            main(["fit", *small])
    assert stopped.value.code == 143
    assert (
        "\nStopped after the last epoch: training has ended, and only the test is missing. "
        "To resume:\n"
    ) in capsys.readouterr().out
    assert not (run / "scores.json").exists()
    main(["fit", *small, "--resume", "auto"])
    assert (run / "scores.json").exists()
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["best.ckpt", "last.ckpt"]


@pytest.mark.parametrize("damage", ["cut", "turned"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(
    damage: str,
    small: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, 14, signal.SIGTERM)
        with pytest.raises(SystemExit):
            main(["fit", *small])
    last = Path("lightning_logs/c/version_0/checkpoints/last.ckpt")
    whole = last.read_bytes()
    middle = len(whole) // 2
    last.write_bytes(
        whole[:middle] + (b"" if damage == "cut" else b"\0\1\2\3" + whole[middle + 4 :])
    )
    main(["fit", *small, "--ckpt_path", "last"])
    said = capsys.readouterr().err
    assert "last.ckpt cannot be read as a checkpoint (" in said
    assert "Trying before.ckpt." in said
    assert checkpoint("last")["global_step"] == 22


def test_checkpoints_within_an_epoch(small: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """By steps and by minutes; within a sum of gradients, or where a validation is due, later."""
    kept: list[int] = []
    save = "bloodcell.train.checkpoints.WholeFiles.save_checkpoint"
    monkeypatch.setattr(
        save, lambda self, checkpoint, path, **_: kept.append(checkpoint["global_step"])
    )
    small += ["--trainer.max_epochs", "1"]
    main(["fit", *small, "--save_every_n_steps", "4"])
    assert sorted(set(kept)) == [4, 8, 11]
    kept.clear()
    main(["fit", *small, "--save_every_minutes", "1e-9", "--trainer.accumulate_grad_batches", "3"])
    assert sorted(set(kept)) == [1, 2, 3, 4]
    kept.clear()
    half = ["--trainer.val_check_interval", "5", "--save_every_n_steps", "5"]
    main(["fit", *small, *half])
    assert sorted(set(kept)) == [6, 11]


def test_a_loss_that_is_no_number_takes_the_run_back(
    small: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step, calls = Classifier.training_step, 0

    def poisoned(self: Classifier, batch: Batch, batch_idx: int) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return step(self, batch, batch_idx) * (float("nan") if calls in (15, 17) else 1)

    monkeypatch.setattr(Classifier, "training_step", poisoned)
    main(["fit", *small, "--model.lr", "1e-3", "--rollbacks", "2"])
    said = capsys.readouterr().out
    assert (
        "the loss is NaN or infinite in step 4 of epoch 2, with model.lr=0.001 (images: TRAIN/"
        in said
    )
    assert "Restored the last checkpoint, with model.lr=0.0005." in said
    assert "Restored the last checkpoint, with model.lr=0.00025." in said
    history = read_history(Path("lightning_logs/c/version_0/metrics.csv"))
    assert [line.lr for line in history] == [1e-3, 2.5e-4]
    assert all(torch.isfinite(value).all() for value in checkpoint("last")["state_dict"].values())


def test_a_validation_loss_alone_takes_the_run_back(
    small: list[str], monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    """In the second of three epochs; its weights are never the best, whatever their accuracy."""
    step = Classifier.validation_step

    def poisoned(self: Classifier, batch: Batch, batch_idx: int) -> None:
        step(self, batch, batch_idx)
        if self.current_epoch == 1:
            self.val_metrics.loss.total += float("nan")
            self.val_metrics.acc.total += 1000

    monkeypatch.setattr(Classifier, "validation_step", poisoned)
    small += ["--model.lr", "1e-3", "--monitor", "val/acc"]
    said = refused("fit", *small)
    assert "the validation loss is NaN or infinite in epoch 2, with model.lr=0.001. Resume" in said
    main(["fit", *small, "--trainer.max_epochs", "3", "--rollbacks", "1"])
    history = read_history(Path("lightning_logs/c/version_1/metrics.csv"))
    assert [line.lr for line in history] == [1e-3, 1e-3, 5e-4]
    assert all(math.isfinite(line.train_loss) for line in history)
    assert checkpoint("best", 1)["epoch"] != 1


def test_a_run_goes_on_with_a_lower_rate(small: list[str], refused: Refused) -> None:
    """It takes effect, whatever the schedule, stands in config.yaml, and may change again."""
    run, fit = Path("lightning_logs/c/version_0"), ["fit", "--ckpt_path", "last", "--name", "c"]
    main(["fit", *small, "--model.lr", "1e-3", "--trainer.max_epochs", "1"])
    main([*fit, "--model.lr", "1e-4", "--trainer.max_epochs", "2"])
    main([*fit, "--trainer.max_epochs", "3"])
    main([*fit, "--model.lr", "1e-5", "--trainer.max_epochs", "4"])
    history = read_history(run / "metrics.csv")
    assert [line.lr for line in history] == pytest.approx([1e-3, 1e-4, 1e-4, 1e-5])
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["lr"] == 1e-5
    said = refused(*fit, "--model.weight_decay", "0.1", "--trainer.max_epochs", "5")
    assert "model.weight_decay=0.1, but the checkpoint was made with 0.0" in said


def test_what_is_told_of_a_loss_that_is_no_number(
    small: list[str], refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, calls, rows = Classifier.training_step, 0, list[int]()

    def poisoned(self: Classifier, batch: Batch, batch_idx: int) -> torch.Tensor:
        nonlocal calls, rows
        calls += 1
        rows = batch["row"].tolist() if calls == 14 else rows
        return step(self, batch, batch_idx) * (float("nan") if calls == 14 else 1)

    monkeypatch.setattr(Classifier, "training_step", poisoned)
    said = refused("fit", *small)
    assert "the loss is NaN or infinite in step 3 of epoch 2" in said
    assert "fit --ckpt_path lightning_logs/c/version_0 --model.lr 5e-06, or with a rate" in said
    assert "fit --ckpt_path lightning_logs/c/version_0 --rollbacks 3" in said
    images = Path(small[1]).rglob("*.jpeg")
    names = sorted(path.relative_to(small[1]).as_posix() for path in images)
    assert all(names[row] in said for row in rows)


def test_numbers_that_cannot_be_used(refused: Refused, small: list[str]) -> None:
    said = refused("fit", *small, "--save_every_n_steps", "0")
    assert "--save_every_n_steps=0 cannot be used: it must be 1 or more, or null." in said
    assert "--save_every_minutes=-1.0 cannot" in refused("fit", *small, "--save_every_minutes=-1")
    assert "--rollbacks=-1 cannot be used" in refused("fit", *small, "--rollbacks=-1")
    assert "--resume=always cannot be used: it must be auto." in refused(
        "fit", "--resume", "always"
    )
    said = refused("fit", "--resume", "auto", "--ckpt_path", "last")
    assert "--resume auto and --ckpt_path (or ckpt_path in a config) both choose the run" in said


def test_a_clock_that_goes_back(small: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """By a day, between two epochs: times are measured, not read off a clock."""
    main(["fit", *small, "--trainer.max_epochs", "1"])
    now = time.time
    monkeypatch.setattr("time.time", lambda: now() - 86_400)
    main(["fit", *small, "--ckpt_path", "last"])
    run = Path("lightning_logs/c/version_0")
    history = read_history(run / "metrics.csv")
    assert [line.epoch for line in history] == [0, 1]
    assert all(0 < line.seconds < 60 for line in history)
    assert 0 < json.loads((run / "scores.json").read_text())["learning_time_seconds"] < 120
    steps = [event.step for event in EventAccumulator(str(run)).Reload().Scalars("train/loss")]
    assert sorted(steps) == [10, 21]


class Falling(Callback):
    """Logs a metric of the user's own."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("val/falling", float(-trainer.current_epoch))


def test_the_best_checkpoint_follows_the_monitor(
    small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A metric that falls: the first epoch is best if high values are, the last if low ones are."""
    monkeypatch.setattr(
        "bloodcell.cli.training.callbacks", lambda *given: [*callbacks(*given), Falling()]
    )
    for version, (monitor, best) in enumerate({"max:val/falling": 0, "min:val/falling": 1}.items()):
        main(["fit", *small, "--monitor", monitor])
        assert checkpoint("best", version)["epoch"] == best
        scores = json.loads(Path(f"lightning_logs/c/version_{version}/scores.json").read_text())
        assert scores["best_epoch"] == best


def test_the_monitor_stays_when_a_run_goes_on(small: list[str], refused: Refused) -> None:
    main(["fit", *small, "--trainer.max_epochs", "1"])
    best = Path("lightning_logs/c/version_0/checkpoints/best.ckpt")
    before = best.read_bytes()
    said = refused("fit", "--ckpt_path", "last", *small, "--monitor", "val/acc")
    assert "--monitor val/acc, but the run chooses its best checkpoint by val/loss" in said
    assert best.read_bytes() == before
    main(["fit", "--ckpt_path", "last", *small, "--monitor", "min:val/loss"])


def test_a_monitor_that_cannot_be_used(small: list[str], refused: Refused) -> None:
    said = refused("fit", *small, "--monitor", "val/kappa")
    assert "--monitor=val/kappa cannot be used: it must be min:val/kappa or max:val/kappa" in said
    said = refused("fit", *small, "--monitor", "max:val/kappa")
    assert "--monitor=val/kappa cannot be used: it must be the name of a logged metric (" in said
    assert "val/acc" in said
    assert "val/loss" in said
    assert list(Path().rglob("metrics.csv")) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "--trainer.callbacks+ EarlyStopping --trainer.callbacks.monitor val_loss",
            "EarlyStopping.monitor=val_loss cannot be used: it must be the name of a logged metric "
            "(val/loss, val/acc, val/auroc, val/balanced_accuracy, val/ece, val/f1, train/loss, "
            "train/acc). Did you mean val/loss?",
        ),
        (
            "--trainer.callbacks+ ModelCheckpoint --trainer.callbacks.monitor val/accuracy",
            "ModelCheckpoint.monitor=val/accuracy cannot be used",
        ),
        (
            "--model.scheduler ReduceLROnPlateau --model.scheduler.monitor valid/loss",
            "model.scheduler.monitor=valid/loss cannot be used",
        ),
    ],
)
def test_names_of_metrics_are_refused_before_training(
    options: str, message: str, small: list[str], refused: Refused
) -> None:
    options = options.replace("ReduceLROn", "lightning.pytorch.cli.ReduceLROn")
    assert message in refused("fit", *small, *options.split())
    assert list(Path("lightning_logs").rglob("version_*")) == []


@pytest.mark.parametrize("name", ["val_loss", "mine"])
def test_a_name_that_a_callback_of_the_user_may_log(
    name: str, small: list[str], refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused early only if it is certainly misspelt."""
    monkeypatch.setattr(
        "bloodcell.cli.training.callbacks", lambda *given: [*callbacks(*given), Falling()]
    )
    early = ["--trainer.callbacks+", "EarlyStopping", "--trainer.callbacks.monitor", name]
    said = refused("fit", *small, "--trainer.max_epochs", "1", *early)
    assert name in said
    assert "must be the name of a logged metric" in said
    assert (list(Path().rglob("metrics.csv")) == []) == (name == "val_loss")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("val/loss", ("val/loss", "min")),
        ("val/ece", ("val/ece", "min")),
        ("val/balanced_accuracy", ("val/balanced_accuracy", "max")),
        ("val/auroc", ("val/auroc", "max")),
        ("max:train/loss", ("train/loss", "max")),
    ],
)
def test_known_names_tell_their_mode(text: str, expected: tuple[str, str]) -> None:
    assert read_monitor(text) == expected
