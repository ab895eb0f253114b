"""A run that is killed and started again equals one that never was, bit for bit."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

KILLS = 50
_TIMES = ("seconds", "images_per_second")


class Server:
    """Starts runs within a fraction of a second each.

    Args:
        cache: folder of the decoded images.
        figures: whether runs draw them.
    """

    def __init__(self, cache: Path, figures: bool) -> None:
        # one thread: a forked process has no others
        self._process = subprocess.Popen(
            [
                *(sys.executable, str(Path(__file__).with_name("server.py"))),
                *([] if figures else ["--without-figures"]),
            ],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(cache)},
        )  # fmt: skip
        assert self._said() == "ready"

    def run(
        self,
        folder: Path,
        words: list[str],
        after: float | None = None,
        trap: tuple[str, str, int, bool] | None = None,
        number: signal.Signals = signal.SIGKILL,
    ) -> tuple[int, float]:
        """Runs a command; returns its exit status (minus the signal that ended it) and seconds.

        Args:
            folder: where.
            words: after `bloodcell`.
            after: seconds until it is sent a signal.
            trap: where it kills itself: module, name, which call, and whether half was written.
            number: the signal.
        """
        folder.mkdir(exist_ok=True)
        order = {"folder": str(folder), "words": words, "log": str(folder / "log"), "trap": trap}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        start, child = time.monotonic(), int(self._said())
        if after is not None:
            time.sleep(after)
            os.kill(child, number)
        return int(self._said()), time.monotonic() - start

    def close(self) -> None:
        """Ends it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _said(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


class Scene(NamedTuple):
    """What all kills share: a command, and what comes of it."""

    server: Server
    words: list[str]
    whole: Path
    seconds: float

    def assert_same(self, folder: Path) -> None:
        """The same command again, and nothing is different."""
        status, _ = self.server.run(folder, self.words)
        assert status == 0, (folder / "log").read_text()
        assert differences(result(newest(self.whole)), result(newest(folder))) == []
        assert list(newest(folder).rglob("*partial*")) == []


@pytest.fixture(scope="module", params=[False], ids=[""])
def scene(
    request: pytest.FixtureRequest, smears: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("chaos")
    words = (
        f"fit --name c --data.root {smears}/images --data.photos {smears}/photos.csv "
        "--data.image_size 32 --data.batch_size 4 --data.augment full --model.backbone "
        "test_efficientnet --model.weights none --model.lr 1e-3 --trainer.accelerator cpu "
        "--trainer.max_epochs 3 --trainer.callbacks+ EarlyStopping "
        "--trainer.callbacks.monitor val/loss --trainer.callbacks.patience 1 "
        "--trainer.enable_progress_bar false --resume auto --save_every_n_steps 3"
    ).split()
    server = Server(folder / "cache", figures=request.param)
    status, seconds = server.run(folder / "whole", words)
    assert status == 0, (folder / "whole" / "log").read_text()
    yield Scene(server, words, folder / "whole", seconds)
    server.close()


def newest(folder: Path) -> Path:
    """The newest run."""
    runs = folder.glob("lightning_logs/*/version_*")
    return max(runs, key=lambda run: int(run.name[8:]))


def result(run: Path) -> dict[str, Any]:
    """All that a run leaves behind, less what depends on the clock, in a form to compare."""
    found: dict[str, Any] = {"files": sorted(p.name for p in run.rglob("*") if _counts(p))}
    for name in ("last", "best"):
        checkpoint = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
        for key in ("state_dict", "optimizer_states", "epoch", "global_step", "trained_on"):
            found[f"{name}/{key}"] = _plain(checkpoint[key])
    with (run / "metrics.csv").open(newline="") as file:
        found["metrics"] = [
            {key: value for key, value in row.items() if key not in _TIMES}
            for row in csv.DictReader(file)
        ]
    found["predictions"] = (run / "predictions.csv").read_text()
    scores = json.loads((run / "scores.json").read_text())
    found["scores"] = {k: v for k, v in scores.items() if k != "learning_time_seconds"}
    events = EventAccumulator(str(run)).Reload()
    for tag in events.Tags()["scalars"]:
        if tag not in _TIMES:
            found[f"logged/{tag}"] = [(e.step, e.value) for e in events.Scalars(tag)]
    return found


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """What is not equal, by name."""
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))


def _counts(path: Path) -> bool:
    return path.is_file() and not path.name.startswith("events.")


def _plain(value: Any) -> Any:
    """Tensors as bytes: equal means equal bit for bit."""
    if isinstance(value, torch.Tensor):
        return value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value


@pytest.mark.parametrize(
    ("module", "name", "nth", "half"),
    [
        ("bloodcell.train.classifier", "Classifier.training_step", 6, False),
        ("bloodcell.train.classifier", "Classifier.validation_step", 5, False),
        ("torch", "save", 7, True),
        ("bloodcell.report.whole", "_settle", 9, False),
        ("bloodcell.train.finish", "score", 1, False),
    ],
)
def test_killed_there(
    module: str, name: str, nth: int, half: bool, scene: Scene, tmp_path: Path
) -> None:
    """In a step, in a validation, with half a checkpoint written, before a rename, in a test."""
    status, _ = scene.server.run(tmp_path / "run", scene.words, trap=(module, name, nth, half))
    assert status == -signal.SIGKILL, (tmp_path / "run" / "log").read_text()
    scene.assert_same(tmp_path / "run")


@pytest.mark.parametrize("scene", [True], indirect=True, ids=["figures"])
@pytest.mark.slow
def test_killed_at_random(scene: Scene, tmp_path: Path) -> None:
    """At any moment, figures included; every third run twice."""
    draw = random.Random(0)
    killed = 0
    for number in range(KILLS):
        folder = tmp_path / str(number)
        for _ in range(2 if number % 3 == 0 else 1):
            after = draw.uniform(0, scene.seconds)
            killed += scene.server.run(folder, scene.words, after)[0] == -signal.SIGKILL
        scene.assert_same(folder)
    print(f"{killed} kills of {KILLS} runs, all equal to the whole run")
    assert killed >= KILLS
