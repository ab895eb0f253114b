"""Measures how time, memory and files grow with the number of images; prints a Markdown table.

    python scripts/scale.py 10000 100000 --folder scaled
    python scripts/scale.py 100000 --stages predict audit compare --folder scaled

Each image is its own photograph: 32 x 32 pixels of noise around the colour of one of ten classes,
in one uncompressed archive. `fit` trains on 20 batches. Each stage runs in its own process. Times
are elapsed, and of the CPU over all threads, which other programs hardly change. Memory is the peak
resident size, without file pages such as the mapped images, minus that of Python with the imported
packages. Existing archives and runs in the folder are reused.
"""

import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from argparse import SUPPRESS
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from arguments import count as whole
from arguments import make_parser
from PIL import Image

CLASSES, SIDE, BATCHES = 10, 32, 20
STAGES = ("fit", "predict", "audit", "compare")
Found = dict[str, tuple[float, str]]  # by name of a row, its value and its unit


def write_archive(path: Path, count: int) -> None:
    """Writes an archive of drawn images."""
    file = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE)).save(file, "BMP")
    header = file.getvalue()[: -3 * SIDE * SIDE]
    draw = np.random.default_rng(0)
    colours = draw.integers(60, 196, (CLASSES, 3))
    partial = path.with_suffix(".partial")
    with zipfile.ZipFile(partial, "w") as archive:
        for number in range(count):
            noise = draw.integers(-60, 60, (SIDE * SIDE, 3)) + colours[number % CLASSES]
            pixels = noise.astype(np.uint8).tobytes()
            archive.writestr(f"class{number % CLASSES}/{number:07d}.bmp", header + pixels)
    partial.rename(path)


class Meter:
    """Measures the time and the peak memory of this process while a block runs."""

    def __init__(self) -> None:
        self.found: Found = {}
        self._most = 0.0
        self._base = _memory()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self._most = max(self._most, _memory())
            time.sleep(0.01)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start, busy, self._most = time.perf_counter(), time.process_time(), _memory()
        yield
        self.found[name] = (time.perf_counter() - start, "s")
        self.found[f"{name}, CPU"] = (time.process_time() - busy, "s")
        self.found[f"{name}, memory"] = (max(self._most, _memory()) - self._base, "MB")


def _memory() -> float:
    """Returns the resident MB of this process without file pages."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def measure(stage: str, images: Path, run: Path) -> Found:
    """Runs one stage in this process."""
    from bloodcell.cli import training
    from bloodcell.cli.main import main
    from bloodcell.data.datamodule import BloodCells
    from bloodcell.train.task import Classifier

    meter = Meter()
    if stage == "fit":
        data = BloodCells(str(images), image_size=SIDE)
        for name, step in {
            "table": lambda: data.table,
            "splits": lambda: data.parts,
            "cache": data.prepare_data,
        }.items():
            with meter.stage(name):
                step()
        del data
        _measure_fit(meter, main, training, Classifier, images, run)
        best = run / "checkpoints" / "best.ckpt"
        meter.found["best.ckpt"] = (best.stat().st_size / 1e6, "MB")
        plain = _bytes_of(best, ("state_dict", "optimizer_states")) / 1e6
        meter.found["network and optimizer in it"] = (plain, "MB")
        return meter.found
    words = [str(images)]
    if stage == "predict":
        words += ["--model", str(run), "--out", "answers.csv"]
    if stage == "compare":
        other = run.parent.with_name(f"{run.parent.name}-again") / run.name
        shutil.copytree(run, other, dirs_exist_ok=True)
        scores = json.loads((run / "scores.json").read_text()) | {"name": other.parent.name}
        (other / "scores.json").write_text(json.dumps(scores))
        words = [str(run), str(other)]
    with meter.stage(stage):
        main([stage, *words])
    return meter.found


def _measure_fit(
    meter: Meter, main: Callable[..., Any], training: Any, classifier: Any, images: Path, run: Path
) -> None:
    train, finish = classifier.training_step, training.finish_fit
    start, busy = time.perf_counter(), time.process_time()

    def training_step(*given: Any) -> Any:
        loss = train(*given)
        meter.found.setdefault("first step after", (time.perf_counter() - start, "s"))
        meter.found.setdefault("first step after, CPU", (time.process_time() - busy, "s"))
        return loss

    def finish_fit(*given: Any) -> None:
        with meter.stage("end of fit"):
            finish(*given)

    classifier.training_step, training.finish_fit = training_step, finish_fit
    with meter.stage("fit in all"):
        main(
            [
                *("fit", "--name", run.parent.name, "--data.root", str(images)),
                *("--data.image_size", str(SIDE), "--model.weights", "none"),
                *("--trainer.max_epochs", "1", "--trainer.limit_train_batches", str(BATCHES)),
                *("--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"),
            ]
        )
    # the peak over all stages, because each stage resets it
    most = max(v for k, (v, _) in meter.found.items() if k.endswith("memory"))
    meter.found["fit in all, memory"] = (most, "MB")


def _bytes_of(path: Path, keys: tuple[str, ...]) -> int:
    import torch

    checkpoint = torch.load(path, weights_only=True)
    buffer = io.BytesIO()
    torch.save({key: checkpoint[key] for key in keys}, buffer)
    return buffer.tell()


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("counts", type=whole, nargs="+", help="numbers of images")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=["fit"], help="default: fit")
    parser.add_argument(
        "--folder", default="scaled", help="folder for archives, runs and the cache"
    )
    parser.add_argument("--here", help=SUPPRESS)  # in the process of a stage
    given = parser.parse_args()
    folder = Path(given.folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    table: dict[str, dict[int, str]] = {}
    for count in given.counts:
        images = folder / f"{count}.zip"
        run = folder / "lightning_logs" / f"of{count}" / "version_0"
        if not images.is_file():
            write_archive(images, count)
        for stage in given.stages:
            if given.here:
                os.chdir(folder)
                found = measure(stage, images, run)
                Path(given.here).write_text(json.dumps(found))
                continue
            if stage == "fit":
                shutil.rmtree(run.parent, ignore_errors=True)
            result = folder / "found.json"
            words = [str(count), "--stages", stage, "--folder", str(folder), "--here", str(result)]
            environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
            done = subprocess.run([sys.executable, __file__, *words], env=environment, check=False)
            if done.returncode:
                sys.exit(f"{stage} of {count:,} images ended with status {done.returncode}")
            for name, (value, unit) in json.loads(result.read_text()).items():
                table.setdefault(name, {})[count] = f"{value:,.1f} {unit}"
    if table:
        print(f"| | {' | '.join(f'{count:,}' for count in given.counts)} |")
        print(f"|---{'|---' * len(given.counts)}|")
        for name, values in table.items():
            print(f"| {name} | {' | '.join(values.get(n, '') for n in given.counts)} |")


if __name__ == "__main__":
    main()
