"""Several devices: processes on the CPU stand in for GPUs."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bloodcell.__main__ import main
from bloodcell.report.history import read_history
from bloodcell.report.scores import read_predictions

DDP = ["--trainer.strategy", "ddp", "--trainer.devices"]


def run(*command: str) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_ddp_trains_and_counts_every_image_once(words: list[str]) -> None:
    """Two processes by Lightning's own launcher."""
    said = run("-m", "bloodcell", "fit", *words, *DDP, "2", "--trainer.max_epochs", "2")
    assert said.count("learning time") == 1, "each process printed the table"
    folder = Path("lightning_logs/custom/version_0")
    assert [path.name for path in folder.parent.iterdir()] == ["version_0"]
    predictions = read_predictions(folder)
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["devices"] == 2
    assert len(predictions.file) == len(set(predictions.file)) == scores["files"]["test"] == 40
    assert len(read_history(folder / "metrics.csv")) == 2
    assert np.allclose(predictions.probability.sum(1), 1, atol=1e-4)


def test_every_number_of_devices_predicts_the_same(
    words: list[str], server: Any, tmp_path: Path
) -> None:
    """A run that was stopped before its test, on one, two and three processes."""
    main(["fit", *words, "--trainer.max_epochs", "1", "--name", "c"])
    one = Path("lightning_logs/c/version_0")
    (one / "scores.json").unlink()
    said = {1: read_predictions(one)}
    for devices in (2, 3):
        folder = tmp_path / str(devices)
        shutil.copytree("lightning_logs", folder / "lightning_logs")
        again = ["fit", "--ckpt_path", "last", "--name", "c", *words, *DDP, str(devices)]
        again += ["--trainer.max_epochs", "1"]
        ended = server.run(folder, again, devices=devices)
        assert ended.statuses == [0] * devices, (folder / "log").read_text()
        said[devices] = read_predictions(folder / "lightning_logs/c/version_0")
        assert said[devices].file == said[1].file
        np.testing.assert_allclose(
            said[devices].probability, said[1].probability, rtol=0, atol=2e-5
        )


def test_two_devices_train_as_one_with_twice_the_batch(
    words: list[str], server: Any, tmp_path: Path
) -> None:
    """With BatchNorm over all devices, and without dropout, which each draws for itself."""
    fit = ["fit", *words, "--name", "c", "--trainer.max_epochs", "2", "--model.dropout", "0"]
    fit += ["--model.lr", "1e-4", "--data.augment", "flips", "--trainer.precision", "32-true"]
    sync = ["--trainer.sync_batchnorm", "true"]
    weights = []
    for devices, batch, more in ((1, 32, []), (2, 16, sync), (2, 16, [])):
        folder = tmp_path / f"{devices}{len(more)}"
        ended = server.run(
            folder,
            [*fit, *DDP, str(devices), "--data.batch_size", str(batch), *more],
            devices=devices,
        )
        assert ended.statuses == [0] * devices, (folder / "log").read_text()
        last = folder / "lightning_logs/c/version_0/checkpoints/last.ckpt"
        state = torch.load(last, weights_only=True)["state_dict"]
        weights.append({key: value for key, value in state.items() if value.is_floating_point()})
    whole, synced, apart = weights
    assert whole.keys() == synced.keys()

    def furthest(other: dict[str, torch.Tensor]) -> float:
        return max(float((other[key] - whole[key]).abs().max()) for key in whole)

    assert furthest(synced) < 1e-4
    assert furthest(apart) > 1e-2, "what is tested makes no difference"


@pytest.mark.parametrize("victim", [0, 1])
def test_when_a_process_is_killed_the_others_end(
    victim: int, words: list[str], server: Any, tmp_path: Path
) -> None:
    trap = ("bloodcell.train.classifier", "Classifier.training_step", 12, False, victim)
    fit = ["fit", *words, "--name", "c", "--data.batch_size", "4", *DDP, "2"]
    ended = server.run(tmp_path / "run", fit, trap=trap, devices=2)
    assert ended.statuses[victim] == -signal.SIGKILL
    assert ended.statuses[1 - victim] == 2
    said = (tmp_path / "run" / "log").read_text()
    assert "bloodcell: another of the 2 processes has ended" in said
    assert "Traceback" not in said
    if victim:
        assert "To go on:\n  bloodcell fit --ckpt_path lightning_logs/c/version_0" in said
