"""What all tests share: an empty folder each, small drawn pictures, and hardware as a marker."""

import contextlib
import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

# before rich and sklearn: typing keeps one of Union[int, float] and Union[float, int] for both, and
# with theirs first, Trainer would read `limit_test_batches 1` as the share 1.0
import lightning.pytorch  # noqa: F401
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from bloodcell.cli.main import main
from bloodcell.datasets.drawn.smears import write_smears
from bloodcell.evaluate.history import Epoch
from bloodcell.evaluate.scores import Predictions, write_predictions

TINY = "test_efficientnet"  # timm's own, made for tests
REAL = "BLOODCELL_REAL_DATA"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
        if item.get_closest_marker("real") and REAL not in os.environ:
            item.add_marker(pytest.mark.skip(reason=f"needs {REAL}, the path of the Kaggle zip"))
        if item.get_closest_marker("slow") and "BLOODCELL_SLOW" not in os.environ:
            item.add_marker(pytest.mark.skip(reason="slow: set BLOODCELL_SLOW=1 to run it"))


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # a second for each run: the run of the fixture `finished` and the runs of processes have them
    monkeypatch.setattr("bloodcell.train.finish.draw_figures", lambda *_: None)
    monkeypatch.setattr("bloodcell.train.calibrate.STRANGERS", 36)


class Ended(NamedTuple):
    """How the processes of a command ended: their statuses, or minus a signal; after how long."""

    statuses: list[int]
    seconds: float


class Server:
    """Starts runs, on as many devices as asked, within a fraction of a second each.

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
        assert self._process.stdin
        assert self._process.stdout
        self._to, self._from = self._process.stdin, self._process.stdout
        assert self._from.readline() == "ready\n"

    def run(
        self,
        folder: Path,
        words: list[str],
        after: float | None = None,
        trap: tuple[str, str, int, bool, int] | None = None,
        number: int = signal.SIGKILL,
        devices: int = 1,
    ) -> Ended:
        """Runs a command.

        Args:
            folder: where; all that is said comes into its file `log`.
            words: after `bloodcell`.
            after: seconds until the first process is sent a signal.
            trap: where one sends itself the signal: module, name, which call, half written, which
                process.
            number: the signal.
            devices: processes, started as torchrun does.
        """
        folder.mkdir(exist_ok=True)
        ranks = [as_torchrun(rank, devices) for rank in range(devices)] if devices > 1 else [{}]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            for variables in ranks if devices > 1 else []:
                variables["MASTER_PORT"] = str(free.getsockname()[1])
        order: dict[str, Any] = {
            "folder": str(folder),
            "words": words,
            "log": str(folder / "log"),
            "trap": trap,
        }
        order |= {"number": int(number)}
        self._to.write(json.dumps(order | {"ranks": ranks}) + "\n")
        self._to.flush()
        start, children = time.monotonic(), json.loads(self._from.readline())
        if after is not None:
            time.sleep(after)
            with contextlib.suppress(ProcessLookupError):  # it was done before
                os.kill(children[0], number)
        return Ended(json.loads(self._from.readline()), time.monotonic() - start)

    def close(self) -> None:
        """Ends it."""
        self._to.close()
        self._process.wait()
        self._from.close()


def as_torchrun(rank: int, world: int) -> dict[str, str]:
    """The variables that torchrun gives a process."""
    facts = {
        "RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": world,
        "LOCAL_WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip
    return {name: str(fact) for name, fact in facts.items()}


@pytest.fixture(scope="session")
def make_server() -> Iterator[Callable[[Path, bool], Server]]:
    servers: list[Server] = []

    def make(cache: Path, figures: bool) -> Server:
        servers.append(Server(cache, figures))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


@pytest.fixture(scope="session")
def server(make_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Starts runs without figures."""
    return make_server(tmp_path_factory.mktemp("served") / "cache", False)


@pytest.fixture(scope="session")
def smears(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn smears: 8 train and 5 test photographs a class, two copies each. Not to be changed."""
    root = tmp_path_factory.mktemp("smears") / "smears"
    write_smears(root, train_photos=8, test_photos=5, copies=2, workers=1)
    return root


@pytest.fixture(scope="session")
def run(smears: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs on drawn smears."""
    root = tmp_path_factory.mktemp("asked")
    words = (
        f"fit --name asked --data.root {smears}/images --data.photos {smears}/photos.csv "
        "--data.image_size 32 --model.backbone test_efficientnet --model.weights none "
        "--model.lr 1e-3 --trainer.accelerator cpu --trainer.max_epochs 2 "
        "--trainer.precision 32-true --trainer.enable_progress_bar false"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        patch.setattr("bloodcell.train.finish.draw_figures", lambda *_: None)
        patch.setattr("bloodcell.train.calibrate.STRANGERS", 36)
        main(words.split())
    return root / "lightning_logs" / "asked" / "version_0"


@pytest.fixture
def smears_copy(smears: Path, tmp_path: Path) -> Path:
    """Drawn smears that a test may change."""
    return Path(shutil.copytree(smears, tmp_path / "smears"))


@pytest.fixture(scope="session")
def real_zip() -> Path:
    return Path(os.environ[REAL])


@pytest.fixture
def words(smears: Path) -> list[str]:
    """Options that make any run small: a tiny trunk on small drawn pictures."""
    return [
        "--data.root", str(smears / "images"),
        "--data.photos", str(smears / "photos.csv"),
        "--data.image_size", "32",
        "--model.backbone", TINY,
        "--model.weights", "none",
        "--trainer.accelerator", "cpu",
    ]  # fmt: skip


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must be refused, and returns what it says."""

    def run(*words: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 2
        return capsys.readouterr().err

    return run


def write_picture(path: Path, colour: tuple[int, int, int], size: int = 40, seed: int = 0) -> None:
    """Writes a noisy picture of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-20, 20, (size, size, 3))
    Image.fromarray(np.clip(noise + colour, 0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def make_folders(tmp_path: Path) -> Callable[..., Path]:
    """Makes class folders of small pictures: `make_folders({"train/a": 3, "train/b": 3})`."""

    def make(counts: dict[str, int], root: str = "pictures") -> Path:
        for place, (folder, count) in enumerate(counts.items()):
            for number in range(count):
                colour = (40 + 60 * (place % 4), 120, 200 - 60 * (place % 4))
                write_picture(tmp_path / root / folder / f"{number}.png", colour, seed=number)
        return tmp_path / root

    return make


@pytest.fixture(scope="session")
def write_run() -> Callable[..., Path]:
    """Writes a run: `write_run(folder, 0.9)` is right about nine photographs of ten."""
    return _write_run


def _write_run(
    folder: Path,
    right: float,
    seed: int = 0,
    hidden: tuple[int, ...] = (8,),
    photos: int = 80,
    split: str = "photo",
    first: int = 0,
) -> Path:
    """A run that is right about this share of the photographs, three files of each."""
    folder.mkdir(parents=True)
    photo = np.repeat(np.arange(photos), 3)
    true = photo % 4
    wrong = np.random.default_rng(seed).permutation(photos)[: round((1 - right) * photos)]
    said = np.where(np.isin(photo, wrong), (true + 1) % 4, true)
    n = len(photo)
    write_predictions(
        folder,
        Predictions(
            ["test"] * n,
            [f"{i}.png" for i in range(n)],
            [f"p{first + i}" for i in photo],
            true,
            np.eye(4, dtype=np.float32)[said] * 0.9 + 0.025,
            list("abcd"),
        ),
    )
    scores = {
        "name": folder.parent.name,
        "split": split,
        "parameters": 1234567,
        "learning_time_seconds": 61.0,
        "data_fingerprint": "f",
        "test_photos_also_in_training": photos if split == "seed" else 0,
        "photos": {"test": photos},
        "train": {"loss": 0.1, "accuracy": 0.95},
        "val": {"loss": 0.2, "accuracy": 0.94},
        "test": {"accuracy": float((said == true).mean()), "accuracy_by_photo": right},
    }
    (folder / "scores.json").write_text(json.dumps(scores))
    settings = {"seed_everything": seed, "model": {"hidden": list(hidden), "lr": 1e-5}, "data": {}}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    epochs = [Epoch(n, 1 / (n + 1), 0.5 + n / 10, 1, 0.5, 1e-5, 100.0, 1.0) for n in range(3)]
    with (folder / "metrics.csv").open("w", newline="") as file:
        csv.writer(file).writerows([Epoch._fields, *epochs])
    return folder
