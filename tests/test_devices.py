"""Several devices: processes on the CPU stand in for GPUs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from bloodcell.report.history import read_history
from bloodcell.report.scores import read_predictions


def run(*command: str) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_ddp_trains_and_counts_every_image_once(words: list[str]) -> None:
    """Two processes by Lightning's own launcher, then the test by torchrun with three."""
    ddp = ["--trainer.strategy", "ddp", "--trainer.max_epochs", "2"]
    said = run("-m", "bloodcell", "fit", *words, "--trainer.devices", "2", *ddp)
    assert said.count("learning time") == 1, "each process printed the table"
    folder = Path("lightning_logs/custom/version_0")
    assert [path.name for path in folder.parent.iterdir()] == ["version_0"]
    predictions = read_predictions(folder)
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["devices"] == 2
    assert len(predictions.file) == len(set(predictions.file)) == scores["files"]["test"] == 40
    assert len(read_history(folder / "metrics.csv")) == 2
    assert np.allclose(predictions.probability.sum(1), 1, atol=1e-4)

    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "3", "-m"]
    test = ["bloodcell", "test", "--ckpt_path", str(folder), "--trainer.accelerator", "cpu"]
    said = run(*torchrun, *test, "--trainer.devices", "3", "--trainer.strategy", "ddp")
    line = next(line for line in said.splitlines() if re.match(r" *test +\d", line))
    shown = [scores["test"][key] for key in ("loss", "accuracy", "accuracy_by_photo")]
    assert line.split()[1:] == [f"{value:.4f}" for value in shown]
