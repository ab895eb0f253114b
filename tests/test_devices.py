"""Several devices: processes on the CPU stand in for GPUs."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bloodcell.cli.main import main
from bloodcell.datasets.drawn.smears import write_smears
from bloodcell.evaluate.history import read_history
from bloodcell.evaluate.scores import read_predictions

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
        print(devices, "devices:", np.abs(said[devices].probability - said[1].probability).max())
        np.testing.assert_allclose(
            said[devices].probability, said[1].probability, rtol=0, atol=2e-5
        )


def test_two_devices_train_as_one_with_twice_the_batch(
    words: list[str], server: Any, tmp_path: Path
) -> None:
    """With BatchNorm over all devices, and without dropout, which each draws for itself.

    No step waits for a broadcast: the first one would kill a process.
    """
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
            trap=("torch.distributed", "broadcast", 1, False, 0),
        )
        assert ended.statuses == [0] * devices, (folder / "log").read_text()
        last = folder / "lightning_logs/c/version_0/checkpoints/last.ckpt"
        state = torch.load(last, weights_only=True)["state_dict"]
        weights.append({key: value for key, value in state.items() if value.is_floating_point()})
    whole, synced, apart = weights
    assert whole.keys() == synced.keys()

    def furthest(other: dict[str, torch.Tensor]) -> float:
        return max(float((other[key] - whole[key]).abs().max()) for key in whole)

    print("2 x 16 and 1 x 32:", furthest(synced), "without synchronisation:", furthest(apart))
    assert furthest(synced) < 5e-4  # Adam takes steps of 1e-4 whatever the gradient
    assert furthest(apart) > 1e-2, "what is tested makes no difference"


def test_two_devices_that_are_stopped_go_on_within_the_epoch(
    words: list[str], server: Any, tmp_path: Path
) -> None:
    """One of the two gets SIGTERM in its 27th step, in the second epoch of 24 steps.

    Both stop after the 40th, because they agree every 16 steps of an epoch.
    """
    smears = tmp_path / "many"
    write_smears(smears, train_photos=16, test_photos=2, copies=2, workers=1)
    more = ["--data.root", f"{smears}/images", "--data.photos", f"{smears}/photos.csv"]
    more += ["--data.batch_size", "2", "--data.augment", "flips", "--trainer.precision", "32-true"]
    fit = ["fit", *words, *more, "--name", "c", "--trainer.max_epochs", "2", *DDP, "2"]
    assert server.run(tmp_path / "whole", fit, devices=2).statuses == [0, 0]
    parts = tmp_path / "parts"
    trap = ("bloodcell.train.task", "Classifier.training_step", 27, False, 1)
    ended = server.run(parts, fit, trap=trap, number=signal.SIGTERM, devices=2)
    assert ended.statuses == [143, 143], (parts / "log").read_text()

    def last(folder: Path) -> dict[str, Any]:
        path = folder / "lightning_logs/c/version_0/checkpoints/last.ckpt"
        found: dict[str, Any] = torch.load(path, weights_only=True)
        return found

    assert last(parts)["global_step"] == 40
    ended = server.run(parts, [*fit, "--resume", "auto"], devices=2)
    assert ended.statuses == [0, 0], (parts / "log").read_text()
    one, other = last(tmp_path / "whole"), last(parts)
    assert one["global_step"] == other["global_step"] == 48
    for key, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][key]), key
    runs = [folder / "lightning_logs/c/version_0" for folder in (tmp_path / "whole", parts)]
    whole, resumed = (
        [line._replace(seconds=0, images_per_second=0) for line in read_history(run)]
        for run in (run / "metrics.csv" for run in runs)
    )
    assert whole == resumed
    assert len(list(runs[1].parent.iterdir())) == 1


@pytest.mark.parametrize("victim", [0, 1])
def test_when_a_process_is_killed_the_others_end(
    victim: int, words: list[str], server: Any, tmp_path: Path
) -> None:
    trap = ("bloodcell.train.task", "Classifier.training_step", 12, False, victim)
    fit = ["fit", *words, "--name", "c", "--data.batch_size", "4", *DDP, "2"]
    ended = server.run(tmp_path / "run", fit, trap=trap, devices=2)
    assert ended.statuses[victim] == -signal.SIGKILL
    assert ended.statuses[1 - victim] == 2
    said = (tmp_path / "run" / "log").read_text()
    assert "bloodcell: another of the 2 processes has ended" in said
    assert "Traceback" not in said
    if victim:
        assert re.search(r"To resume:\n  \S*bloodcell fit --ckpt_path lightning_logs/c/v", said)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 is this machine on Linux only")
def test_two_nodes_by_torchrun(words: list[str]) -> None:
    """The recipe of the README, on two addresses of one machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.2", 0))
        port = str(free.getsockname()[1])
    recipe = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
    recipe += ["--master_addr", "127.0.0.2", "--master_port", port]
    fit = ["-m", "bloodcell", "fit", *words, "--name", "c", "--trainer.max_epochs", "1"]
    fit += ["--trainer.num_nodes", "2", *DDP, "1"]
    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(lambda n: run(*recipe, "--node_rank", str(n), *fit), range(2)))
    assert ["learning time" in one for one in said] == [True, False]
    scores = json.loads(Path("lightning_logs/c/version_0/scores.json").read_text())
    assert (scores["devices"], scores["files"]["test"]) == (2, 40)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="bash")
def test_two_nodes_by_slurm(words: list[str], tmp_path: Path) -> None:
    """The script as sbatch would start it; SLURM's own `srun` is played by a loop."""
    (tmp_path / "bin").mkdir()
    srun = tmp_path / "bin" / "srun"
    srun.write_text(
        "#!/usr/bin/env bash\n"
        "for rank in 0 1; do\n"
        "  SLURM_PROCID=$rank SLURM_NODEID=$rank SLURM_LOCALID=0 SLURM_NTASKS=2 "
        'SLURM_NODELIST=127.0.0.1 "$@" &\n'
        "done\nwait\n"
    )
    srun.chmod(0o755)
    activate = tmp_path / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.write_text(f'export PATH="{tmp_path}/bin:{Path(sys.executable).parent}:$PATH"\n')
    job = {"SUBMIT_DIR": tmp_path, "JOB_NAME": "cells", "JOB_ID": 29871, "JOB_NUM_NODES": 2}
    job |= {"NTASKS_PER_NODE": 1, "NNODES": 2, "CPUS_PER_TASK": 1}
    environment = os.environ | {f"SLURM_{name}": str(value) for name, value in job.items()}
    script = Path(__file__).parents[1] / "scripts" / "slurm.sh"
    command = ["bash", str(script), *words, "--trainer.max_epochs", "1"]
    for again in (False, True):
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        assert ("is finished: nothing is left to do" in done.stdout) == again
    runs = list(Path("lightning_logs/cells-29871").iterdir())
    assert [path.name for path in runs] == ["version_0"]
    assert json.loads((runs[0] / "scores.json").read_text())["devices"] == 2
