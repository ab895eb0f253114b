"""`bloodcell reproduce`: the published experiments again, each beside its honest twin.

A run is a process of its own, so that one that fails takes no other with it. What is finished is
kept, what is not goes on from its last checkpoint: the same command after a kill loses an epoch.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import yaml
from filelock import FileLock, Timeout

from bloodcell.errors import InputError, require
from bloodcell.report.experiments import CONFIG
from bloodcell.report.published import PUBLISHED
from bloodcell.report.scores import SCORES
from bloodcell.report.summary import clock
from bloodcell.report.twins import report_twins
from bloodcell.words import split_off

# as many steps as 40 epochs of batch 32, for a quarter of the time, on a third of the pixels
_FAST = ["--data.image_size", "128", "--data.batch_size", "8", "--trainer.max_epochs", "10"]
_FAST_LR = 49 / 16  # the flattened map has so many times fewer inputs: each step moves it less
_FIT = (sys.executable, "-m", "bloodcell", "fit")
_SPLITS = ("seed", "photo")
_TERMINATED = 143  # exit status, as shells have it for SIGTERM
_BAD_INPUT = 2  # exit status of a run that cannot start: none of the others could
_OWN = (
    *("--config", "-c", "--name", "--ckpt_path", "--seed_everything", "--data.split"),
    *("--data.seed", "--trainer.default_root_dir", "--trainer.devices", "--trainer.fast_dev_run"),
)


class Request(NamedTuple):
    """What is to be reproduced.

    Attributes:
        seeds: how many of them, from 0.
        splits: under which splits.
        jobs: runs at a time; None is one for each GPU, or one.
        fast: small images and few epochs, for CPUs.
        out: the folder of all that comes of it.
        words: options of every `fit`.
    """

    seeds: int
    splits: list[str]
    jobs: int | None
    fast: bool
    out: Path
    words: list[str]


class Task(NamedTuple):
    """One run."""

    config: str
    lr: float
    split: str
    seed: int
    fast: bool

    @property
    def name(self) -> str:
        """The name of its run, the same for all seeds."""
        return f"{self.config}-{self.split}{'-fast' if self.fast else ''}"

    def __str__(self) -> str:
        return f"{self.name}, seed {self.seed}"


def reproduce(words: list[str]) -> None:
    """Runs what is not finished yet, then writes and prints tables and figures.

    Args:
        words: what stands after the verb.

    Raises:
        InputError: if a word cannot be used, or no run can be started.
    """
    request = read_request(words)
    request.out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(request.out / ".lock", timeout=0):
            _keep_options(request)
            failed = _run_all(request)
    except Timeout:
        raise InputError(
            f"--out {request.out}: another reproduce is at work there. Wait for it, or give "
            "--out another folder."
        ) from None
    if failed:
        raise InputError(f"{len(failed)} runs failed: {'; '.join(failed)}. The same command again.")


def read_request(words: list[str]) -> Request:
    """Reads the command line.

    Raises:
        InputError: naming the word that cannot be used.
    """
    rest, seeds = split_off(words, "--seeds")
    rest, splits = split_off(rest, "--splits")
    rest, jobs = split_off(rest, "--jobs")
    rest, out = split_off(rest, "--out")
    fast = "--fast" in rest
    rest = [word for word in rest if word != "--fast"]
    for word in rest:
        flag = word.partition("=")[0]
        if flag in _OWN:
            raise InputError(f"reproduce decides {flag} itself. Leave it out.")
    if rest and not rest[0].startswith("--"):
        raise InputError(f"reproduce takes options only (got: {rest[0]}).")
    chosen = (splits or ",".join(_SPLITS)).split(",")
    rule = f"one of {' and '.join(_SPLITS)}, or both with a comma"
    require(set(chosen) <= set(_SPLITS), "--splits", splits, rule)
    return Request(
        seeds=_positive("--seeds", seeds or "3"),
        splits=list(dict.fromkeys(chosen)),
        jobs=_positive("--jobs", jobs) if jobs else None,
        fast=fast,
        out=Path(out or f"reproduced{'-fast' if fast else ''}"),
        words=rest,
    )


def _positive(flag: str, text: str) -> int:
    require(text.isdigit() and int(text) > 0, flag, text, "a whole number over 0")
    return int(text)


def _keep_options(request: Request) -> None:
    """Makes sure that all runs of a folder have the same options."""
    path, now = request.out / "options.json", {"fast": request.fast, "words": request.words}
    if path.is_file():
        then = json.loads(path.read_text())
        if then != now:
            shown = " ".join([*(["--fast"] if then["fast"] else []), *then["words"]]) or "none"
            raise InputError(
                f"--out {request.out} holds runs with other options ({shown}). Give the same, or "
                "--out another folder."
            )
    elif any(path.parent.glob("lightning_logs/*")):
        raise InputError(f"--out {request.out} holds other runs. Give --out another folder.")
    else:
        path.write_text(json.dumps(now, indent=1) + "\n")


def _run_all(request: Request) -> list[str]:
    """Runs what is not finished, and reports also when it is stopped; returns what failed."""
    tasks = [
        Task(row.name, row.lr, split, seed, request.fast)
        for seed in range(request.seeds)  # so that one of each is there first
        for row in PUBLISHED
        for split in request.splits
    ]
    left = [task for task in tasks if _find_run(request.out, task)[1] is None]
    devices = _devices(request.jobs)
    print(
        f"{len(tasks)} runs in {request.out}: {len(tasks) - len(left)} finished, {len(left)} to "
        f"do, {len(devices)} at a time"
    )
    crew = _Crew(request, devices)
    try:
        crew.run(left)
    finally:
        report_twins(request.out, _title(request))
    return crew.failed


def _title(request: Request) -> str:
    if not request.fast:
        return ""
    words = " ".join(_FAST).replace("--", "")
    return f"FAST, not as published: {words}, learning rates times {_FAST_LR:g}"


def _find_run(out: Path, task: Task) -> tuple[Path | None, dict[str, Any] | None]:
    """The newest run of a task that is finished or can go on, and its scores if it is finished."""
    found = None
    for folder in (out / "lightning_logs" / task.name).glob("version_*"):
        if not (folder / CONFIG).is_file():
            continue
        settings = yaml.load((folder / CONFIG).read_text(), yaml.CSafeLoader)
        if settings["seed_everything"] != task.seed:
            continue
        if (folder / SCORES).is_file():
            return folder, json.loads((folder / SCORES).read_text())
        if (folder / "checkpoints" / "last.ckpt").is_file():
            found = folder
    return found, None


def _devices(jobs: int | None) -> list[dict[str, str]]:
    """For each run at a time, the variables that show it its device."""
    gpus = _visible_gpus()
    if gpus:
        return [
            {"CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]} for place in range(jobs or len(gpus))
        ]
    if not jobs or jobs == 1:
        return [{}]
    return [{"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}] * jobs


def _visible_gpus() -> list[str]:
    """Names or numbers of the GPUs, as CUDA_VISIBLE_DEVICES takes them."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in visible.split(",") if name.strip() not in ("", "-1")]
    if not shutil.which("nvidia-smi"):
        return []
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return re.findall(r"^GPU (\d+):", listing.stdout, re.MULTILINE)


class _Crew:
    """Runs tasks, as many at a time as there are devices."""

    def __init__(self, request: Request, devices: Sequence[dict[str, str]]) -> None:
        self.failed: list[str] = []
        self._request = request
        self._free: SimpleQueue[dict[str, str]] = SimpleQueue()
        for device in devices:
            self._free.put(device)
        self._pool = ThreadPoolExecutor(len(devices))
        self._children: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, tasks: Sequence[Task]) -> None:
        """Runs all; stops all when it is stopped, and if one cannot be started."""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
        start, waiting = time.perf_counter(), {self._pool.submit(self._fit, t): t for t in tasks}
        try:
            for done, future in enumerate(as_completed(waiting), 1):
                future.result()
                rest = (time.perf_counter() - start) / done * (len(tasks) - done)
                self._say(waiting[future], f"{done} of {len(tasks)}, about {clock(rest)} left")
        except BaseException:
            self._stop()
            raise
        finally:
            self._pool.shutdown(cancel_futures=True)

    def _say(self, task: Task, progress: str) -> None:
        scores = _find_run(self._request.out, task)[1]
        if scores:
            test = scores["test"]
            said = f"test {test['accuracy']:.4f}, by photograph {test['accuracy_by_photo']:.4f}"
            said += f", {clock(scores['learning_time_seconds'])}"
            print(f"{task}: {said} ({progress})", flush=True)

    def _stop(self) -> None:
        with self._lock:
            self._stopped = True
            for child in self._children:
                child.send_signal(signal.SIGTERM)

    def _fit(self, task: Task) -> None:
        out, name = self._request.out, str(task)
        folder = _find_run(out, task)[0]
        words = ["--ckpt_path", str(folder)] if folder else self._new(task)
        log = out / "logs" / f"{task.name}-{task.seed}.txt"
        log.parent.mkdir(exist_ok=True)
        device = self._free.get()
        try:
            status = self._follow(name, words, device, log)
        finally:
            self._free.put(device)
        if not status or self._stopped:
            return
        last = log.read_text(encoding="utf-8").strip().splitlines()[-1:]
        if status == _BAD_INPUT:
            raise InputError(f"{name}: {''.join(last).removeprefix('bloodcell: ')}")
        print(f"{name} FAILED ({status}): see {log}", flush=True)
        self.failed.append(f"{name} ({log})")

    def _follow(self, name: str, words: list[str], device: dict[str, str], log: Path) -> int:
        """Runs a process to its end, keeps what it says and shows its epochs."""
        with self._lock:
            if self._stopped:
                return 0
            child = subprocess.Popen(
                [*_FIT, *words],
                env=os.environ | device,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
            self._children.add(child)
        with child, log.open("a", encoding="utf-8") as file:
            assert child.stdout is not None
            for line in child.stdout:
                file.write(line)
                file.flush()
                if line.startswith("epoch "):
                    print(f"{name}: {line.rstrip()}", flush=True)
        self._children.discard(child)
        return child.returncode

    def _new(self, task: Task) -> list[str]:
        return [
            *("--config", f"{task.config}.yaml", "--name", task.name),
            *(_FAST if task.fast else []),
            *(("--model.lr", f"{task.lr * _FAST_LR:g}") if task.fast else ()),
            *self._request.words,
            *("--seed_everything", str(task.seed), "--data.split", task.split),
            *("--trainer.default_root_dir", str(self._request.out), "--trainer.devices", "1"),
        ]
