"""A run that is killed and started again equals one that never was, bit for bit."""

import csv
import json
import random
import shutil
import signal
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

KILLS = 50
_TIMES = ("seconds", "images_per_second")


class Scene(NamedTuple):
    """What all kills share: a command, and what comes of it."""

    server: Any
    words: list[str]
    whole: Path
    seconds: float

    def assert_same(self, folder: Path) -> None:
        """The same command again, and nothing is different."""
        ended = self.server.run(folder, self.words)
        assert ended.statuses == [0], (folder / "log").read_text()
        assert differences(result(newest(self.whole)), result(newest(folder))) == []
        assert list(newest(folder).rglob("*partial*")) == []


@pytest.fixture(scope="session")
def scene(server: Any, smears: Path, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(server, smears, tmp_path_factory.mktemp("chaos"))


def make_scene(server: Any, smears: Path, folder: Path) -> Scene:
    words = (
        f"fit --name c --data.root {smears}/images --data.photos {smears}/photos.csv "
        "--data.image_size 32 --data.batch_size 4 --data.augment full --model.backbone "
        "test_efficientnet --model.weights none --model.lr 1e-3 --trainer.accelerator cpu "
        "--trainer.max_epochs 3 --trainer.callbacks+ EarlyStopping "
        "--trainer.callbacks.monitor val/loss --trainer.callbacks.patience 1 "
        "--trainer.enable_progress_bar false --resume auto --save_every_n_steps 3"
    ).split()
    ended = server.run(folder / "whole", words)
    assert ended.statuses == [0], (folder / "whole" / "log").read_text()
    return Scene(server, words, folder / "whole", ended.seconds)


def newest(folder: Path) -> Path:
    """The newest run."""
    runs = folder.glob("lightning_logs/*/version_*")
    return max(runs, key=lambda run: int(run.name[8:]))


def result(run: Path) -> dict[str, Any]:
    """All that a run leaves behind, less what depends on the clock, in a form to compare."""
    found: dict[str, Any] = {"files": sorted(p.name for p in run.rglob("*") if _counts(p))}
    for name in ("last", "best"):
        checkpoint = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
        for key in ("state_dict", "optimizer_states", "epoch", "global_step", "BloodCells"):
            found[f"{name}/{key}"] = _plain(checkpoint[key])
    with (run / "metrics.csv").open(newline="") as file:
        found["metrics"] = [
            {key: value for key, value in row.items() if key not in _TIMES}
            for row in csv.DictReader(file)
        ]
    found["predictions"] = (run / "predictions.csv").read_text()
    scores = json.loads((run / "scores.json").read_text())
    scores.pop("learning_time_seconds")
    scores["machine"].pop("git_commit")  # files may be changed while this runs
    found["scores"] = scores
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
        ("bloodcell.train.task", "Classifier.training_step", 6, False),
        ("bloodcell.train.task", "Classifier.validation_step", 5, False),
        ("torch", "save", 7, True),
        ("bloodcell.files", "_settle", 9, False),
        ("bloodcell.train.finish", "score", 1, False),
    ],
)
def test_killed_there(
    module: str, name: str, nth: int, half: bool, scene: Scene, tmp_path: Path
) -> None:
    """In a step, in a validation, with half a checkpoint written, before a rename, in a test."""
    trap = (module, name, nth, half, 0)
    ended = scene.server.run(tmp_path / "run", scene.words, trap=trap)
    assert ended.statuses == [-signal.SIGKILL], (tmp_path / "run" / "log").read_text()
    scene.assert_same(tmp_path / "run")


@pytest.mark.parametrize("every", [1, 2])
def test_killed_where_more_happens_within_an_epoch(
    every: int, scene: Scene, tmp_path: Path
) -> None:
    """Gradients of three batches added up, a validation within an epoch, saved after or before."""
    more = ["--trainer.accumulate_grad_batches", "3", "--trainer.val_check_interval", "7"]
    more += ["--save_every_n_steps", str(every), "--trainer.max_epochs", "2"]
    whole = tmp_path / "whole"
    assert scene.server.run(whole, [*scene.words, *more]).statuses == [0]
    other = Scene(scene.server, [*scene.words, *more], whole, 0)
    trap = ("bloodcell.train.task", "Classifier.training_step", 11, False, 0)
    ended = scene.server.run(tmp_path / "run", other.words, trap=trap)
    assert ended.statuses == [-signal.SIGKILL]
    other.assert_same(tmp_path / "run")


@pytest.mark.slow
def test_killed_at_random(make_server: Any, smears: Path, tmp_path: Path) -> None:
    """At any moment, figures and the decoding included; every third run twice."""
    server = make_server(tmp_path / "cache", True)
    scene = make_scene(server, smears, tmp_path)
    draw = random.Random(0)
    killed = number = 0
    while killed < KILLS:
        folder = tmp_path / str(number)
        if number % 5 == 0:
            shutil.rmtree(tmp_path / "cache")
        for _ in range(2 if number % 3 == 0 else 1):
            ended = server.run(folder, scene.words, draw.uniform(0, scene.seconds))
            killed += ended.statuses == [-signal.SIGKILL]
        scene.assert_same(folder)
        number += 1
    print(f"{killed} kills in {number} runs, all equal to the whole run")
