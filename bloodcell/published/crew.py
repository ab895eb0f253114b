"""Runs trainings in separate processes, by default one at a time on each device."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import yaml
from filelock import FileLock, Timeout

from bloodcell.datasets.drawn import DRAWN
from bloodcell.errors import TERMINATED, InputError, require_number
from bloodcell.evaluate.runs import CONFIG, by_number
from bloodcell.files import write_whole
from bloodcell.model.find import SCORES

_BEGUN = "--- begun\n"  # separates the attempts in a log
_FIT = (sys.executable, "-m", "bloodcell", "fit")


@contextmanager
def hold(out: Path, verb: str) -> Iterator[list[int]]:
    """Creates a folder of runs, and locks it for this process and those that it starts.

    Args:
        out: the folder.
        verb: the command that uses it.

    Yields:
        The file descriptors of the lock, for `Crew`.

    Raises:
        InputError: if another process, or a run that it has started, holds it.
    """
    out.mkdir(parents=True, exist_ok=True)
    descriptors: list[int] = []
    lock = FileLock(out / ".lock", on_acquired=descriptors.append)
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"--out {out}: another `bloodcell {verb}` is running there, or a run of a killed one "
            "is finishing its epoch. Wait for it, or give --out another folder."
        ) from None
    with held:
        yield descriptors


def keep_options(out: Path, now: list[str]) -> None:
    """Makes sure that all runs of a folder have the same options.

    Args:
        out: the folder.
        now: the options.

    Raises:
        InputError: if the folder contains runs with other options.
    """
    path = out / "options.json"
    begun = any(out.glob(f"lightning_logs/*/*/{CONFIG}"))
    then = json.loads(path.read_text()) if begun and path.is_file() else None
    if begun and then != now:
        given = " ".join(then or ["unknown"]) if then != [] else "none"
        raise InputError(
            f"--out {out} contains runs with other options ({given}). Give the same "
            "options, or give --out another folder."
        )
    with write_whole(path) as file:
        file.write(json.dumps(now, indent=1) + "\n")


def run_folders(out: Path, name: str) -> list[Path]:
    """Returns the folders of a run's versions; `fit` adds `-drawn` to its name for drawn smears."""
    return [out / "lightning_logs" / one for one in (name, f"{name}-{DRAWN}")]


def find_run(out: Path, name: str, seed: int) -> tuple[Path | None, dict[str, Any] | None]:
    """Finds the first finished run or, if there is none, the newest that can continue.

    Args:
        out: the folder of the runs.
        name: name of the run.
        seed: its seed_everything.

    Returns:
        Its folder, and its scores if it is finished.
    """
    found = None
    folders = [one for logs in run_folders(out, name) for one in logs.glob("version_*")]
    for folder in sorted(folders, key=by_number):
        if not (folder / CONFIG).is_file():
            continue
        settings = yaml.load((folder / CONFIG).read_text(encoding="utf-8"), yaml.CSafeLoader)
        if not settings or settings["seed_everything"] != seed:
            continue
        if (folder / SCORES).is_file():
            return folder, json.loads((folder / SCORES).read_text())
        if (folder / "checkpoints" / "last.ckpt").is_file():
            found = folder
    return found, None


def check_options(
    verb: str, words: Sequence[str], own: Collection[str], seeds: int, jobs: int | None
) -> None:
    """Checks the options of a command that starts several runs.

    Args:
        verb: the command.
        words: options of every `fit`.
        own: options that the command sets.
        seeds: number of seeds.
        jobs: number of concurrent runs; None if it is not given.

    Raises:
        InputError: if one of them cannot be used.
    """
    for flag in (word.partition("=")[0] for word in words):
        if flag in own:
            raise InputError(f"{verb} sets {flag} itself. Leave it out.")
    rule = "a whole number, 1 or more, e.g. 3"
    require_number("--seeds", seeds, rule, 1, whole=True)
    require_number("--jobs", 1 if jobs is None else jobs, rule, 1, whole=True)


class Job(NamedTuple):
    """One training.

    Attributes:
        name: its name on the console.
        words: the words after `fit`.
        log: a file for its output.
    """

    name: str
    words: list[str]
    log: Path

    def complaint(self) -> str:
        """Returns the last error message of the last attempt in the log."""
        text = self.log.read_text(encoding="utf-8", errors="replace").rpartition(_BEGUN)[2]
        messages = re.findall(r"^bloodcell: (.*)", text, re.MULTILINE) or text.splitlines()[-1:]
        return messages[-1] if messages else "it ended without a message"


def make_job(out: Path, name: str, seed: int, words: Sequence[str]) -> Job:
    """Returns the job that begins a run or, if it has begun, continues it.

    Args:
        out: the folder of the runs.
        name: name of the run.
        seed: its seed_everything.
        words: its other options.
    """
    folder, _ = find_run(out, name, seed)
    new = [
        *(*words, "--name", name, "--seed_everything", str(seed)),
        *("--trainer.default_root_dir", str(out), "--trainer.devices", "1"),
    ]
    log = out / "logs" / f"{name}-{seed}.txt"
    return Job(f"{name}, seed {seed}", ["--ckpt_path", str(folder)] if folder else new, log)


def print_progress(job: Job, line: str) -> None:
    """Prints a line of a job's output if it is about an epoch or the remaining time."""
    if line.startswith(("epoch ", "about ")):
        print(f"{job.name}: {line.rstrip()}", flush=True)


class Crew:
    """Runs jobs, several at a time.

    Args:
        devices: environment variables of each concurrent run.
        held: file descriptors of a lock that the processes inherit: if the caller is killed, the
            lock stays taken until they end.
    """

    def __init__(self, devices: Sequence[dict[str, str]], held: Sequence[int]) -> None:
        self._free: SimpleQueue[dict[str, str]] = SimpleQueue()
        for device in devices:
            self._free.put(device)
        self._n = len(devices)
        self._pool = ThreadPoolExecutor(self._n)
        self._held = held if os.name == "posix" else []
        self._children: set[subprocess.Popen[str]] = set()
        self._changing = threading.Lock()
        self._stopped = False

    def run(
        self,
        jobs: Sequence[Job],
        ended: Callable[[Job, int], None],
        heard: Callable[[Job, str], None] = print_progress,
    ) -> None:
        """Runs all jobs; stops all on Ctrl-C, SIGTERM or an exception in `ended`.

        Args:
            jobs: the jobs, in the order in which they start.
            ended: called with each job that has ended and its exit status.
            heard: called with each job and each line of its output.
        """
        self._heard = heard
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
        coming, running = iter(jobs), dict[Future[int], Job]()

        def start_next() -> None:
            if job := next(coming, None):
                running[self._pool.submit(self._follow, job)] = job

        try:
            for _ in range(self._n):
                start_next()
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    ended(running.pop(future), future.result())
                    start_next()  # only now: an exception in `ended` stops all
        except BaseException:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # already stopping
            self._stop()
            raise
        finally:
            self._pool.shutdown(cancel_futures=True)
            signal.signal(signal.SIGTERM, before)

    def _stop(self) -> None:
        with self._changing:
            self._stopped = True
            for child in self._children:
                child.send_signal(signal.SIGTERM)

    def _follow(self, job: Job) -> int:
        """Runs a process to its end, and writes its output to the log."""
        device = self._free.get()
        try:
            child = self._start(job, device)
            if child is None:
                return 0
            job.log.parent.mkdir(exist_ok=True)
            with child, job.log.open("a", encoding="utf-8") as file:
                assert child.stdout is not None
                file.write(_BEGUN)
                for line in child.stdout:
                    file.write(line)
                    file.flush()
                    self._heard(job, line)
            with self._changing:
                self._children.discard(child)
            return child.returncode
        finally:
            self._free.put(device)

    def _start(self, job: Job, device: dict[str, str]) -> subprocess.Popen[str] | None:
        with self._changing:
            if self._stopped:
                return None
            child = subprocess.Popen(
                [*_FIT, *job.words],
                env=os.environ | {"PYTHONUNBUFFERED": "1"} | device,  # keeps the log current
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                pass_fds=self._held,
            )
            self._children.add(child)
        return child
