"""`bloodcell reproduce`: the published experiments again, each beside its honest twin.

A run is a process of its own, so that one that fails takes no other with it. What is finished is
kept, what is not goes on from its last checkpoint: the same command after a kill loses an epoch.
"""

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from filelock import FileLock, Timeout

from bloodcell.cli.words import split_off
from bloodcell.datasets.drawn import DRAWN
from bloodcell.errors import BAD_INPUT, InputError, listed, require
from bloodcell.evaluate.experiments import CONFIG, by_number
from bloodcell.evaluate.published import PUBLISHED
from bloodcell.evaluate.scores import SCORES
from bloodcell.files import write_whole
from bloodcell.published.crew import Crew, Job, list_devices
from bloodcell.published.twins import report_twins
from bloodcell.text import clock

# a third of the pixels, and an end once five epochs have not helped
_FAST = (
    *("--data.image_size", "128", "--trainer.max_epochs", "24"),
    *("--trainer.callbacks+", "EarlyStopping", "--trainer.callbacks.monitor", "val/loss"),
    *("--trainer.callbacks.patience", "5"),
)
# for each published learning rate, one and a batch size that learn as much in so few epochs: 1e-5
# times 49/16, as the flattened map has so many times fewer inputs and a step moves it less; more
# than 1e-4 switches units off for good (RESULTS.md)
_FAST_PACE = {1e-5: (3.0625e-5, 8), 5e-5: (5e-5, 16), 1e-4: (1e-4, 32)}
_FAST_SAYS = (
    "128 pixels; 24 epochs, or 5 without a lower validation loss; learning rates and batch sizes "
    + ", ".join(f"{lr:g} and {batch} for {then:g}" for then, (lr, batch) in _FAST_PACE.items())
)
_SPLITS = ("seed", "photo")
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

    @property
    def options(self) -> list[str]:
        """What decides the results of all runs."""
        return [*([_FAST_SAYS] if self.fast else []), *self.words]

    @property
    def suffix(self) -> str:
        """What names end in, so that they say what they are."""
        drawn = split_off(self.words, "--data.root")[1] == DRAWN
        return f"{'-fast' if self.fast else ''}{f'-{DRAWN}' if drawn else ''}"


class Task(NamedTuple):
    """One run.

    Attributes:
        config: name of a shipped config.
        lr: its learning rate.
        split: as `data.split`.
        seed: as `seed_everything`.
        name: of its run, the same for all seeds.
    """

    config: str
    lr: float
    split: str
    seed: int
    name: str

    def __str__(self) -> str:
        return f"{self.name}, seed {self.seed}"


def reproduce(words: list[str]) -> None:
    """Runs what is not finished yet, then writes and prints tables and figures.

    Args:
        words: what stands after the verb.

    Raises:
        InputError: if a word cannot be used, or a run failed.
    """
    request = read_request(words)
    request.out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(request.out / ".lock")
    try:
        with lock.acquire(timeout=0):
            _keep_options(request)
            failed = _run_all(request, lock)
    except Timeout:
        raise InputError(
            f"--out {request.out}: another reproduce is at work there, or a run of one that was "
            "killed, which ends with its epoch. Wait for it, or give --out another folder."
        ) from None
    if failed:
        said = listed([f"{name} ({why})" for name, why in failed.items()])
        raise InputError(f"failed: {said}. The same command tries them again.")


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
    require(text.isdecimal() and int(text) > 0, flag, text, "a whole number over 0")
    return int(text)


def _keep_options(request: Request) -> None:
    """Makes sure that all runs of a folder have the same options."""
    path, now = request.out / "options.json", request.options
    begun = any(request.out.glob(f"lightning_logs/*/*/{CONFIG}"))
    then = json.loads(path.read_text()) if begun and path.is_file() else None
    if begun and then != now:
        said = " ".join(then or ["not known"]) if then != [] else "none"
        raise InputError(
            f"--out {request.out} holds runs with other options ({said}). Give the same, or --out "
            "another folder."
        )
    with write_whole(path) as file:
        file.write(json.dumps(now, indent=1) + "\n")


def _run_all(request: Request, lock: FileLock) -> dict[str, str]:
    """Runs what is not finished, and reports also when it is stopped; returns what failed."""
    tasks = [
        Task(row.name, row.lr, split, seed, f"{row.name}-{split}{request.suffix}")
        for seed in range(request.seeds)  # so that one of each is there first
        for row in PUBLISHED
        for split in request.splits
    ]
    left = [task for task in tasks if _find_run(request.out, task)[1] is None]
    devices = list_devices(request.jobs, split_off(request.words, "--trainer.accelerator")[1])
    print(
        f"{len(tasks)} runs in {request.out}: {len(tasks) - len(left)} finished, {len(left)} to "
        f"do, {len(devices)} at a time"
    )
    failed: dict[str, str] = {}
    start, ended = time.perf_counter(), 0

    def judge(job: Job, status: int) -> None:
        nonlocal ended
        ended += 1
        folder, scores = _find_run(request.out, named[job.name])
        if scores:
            test = scores["test"]
            said = f"test {test['accuracy']:.4f}, by photograph {test['accuracy_by_photo']:.4f}"
            said += f", {clock(scores['learning_time_seconds'])}"
        elif status == BAD_INPUT and folder is None:  # no other run can be started
            raise InputError(f"{job.name}: {job.complaint()}")
        else:
            failed[job.name] = said = f"exit status {status} and no scores, see {job.log}"
        rest = (time.perf_counter() - start) / ended * (len(left) - ended)
        print(f"{job.name}: {said} ({ended} of {len(left)}, about {clock(rest)} left)", flush=True)

    named = {str(task): task for task in left}
    try:
        Crew(devices, lock).run([_job(request, task) for task in left], judge)
    except (KeyboardInterrupt, SystemExit):
        print("stopped: the same command keeps what is finished and goes on", flush=True)
        raise
    finally:
        report_twins(request.out, _title(request))
    return failed


def _job(request: Request, task: Task) -> Job:
    folder = _find_run(request.out, task)[0]
    new = [
        *("--config", f"{task.config}.yaml", "--name", task.name),
        *(_pace(task.lr) if request.fast else ()),
        *request.words,
        *("--seed_everything", str(task.seed), "--data.split", task.split),
        *("--trainer.default_root_dir", str(request.out), "--trainer.devices", "1"),
    ]
    words = ["--ckpt_path", str(folder)] if folder else new
    return Job(str(task), words, request.out / "logs" / f"{task.name}-{task.seed}.txt")


def _pace(lr: float) -> tuple[str, ...]:
    """Options of a fast run that was published with this learning rate."""
    ours, batch = _FAST_PACE[lr]
    return (*_FAST, "--model.lr", f"{ours:g}", "--data.batch_size", str(batch))


def _title(request: Request) -> str:
    """What must be known of all runs."""
    fast = "FAST, not as published: " if request.fast else "with " if request.words else ""
    words = [Path(word).name.removeprefix("--") for word in request.options]
    return fast + " ".join(words)


def _find_run(out: Path, task: Task) -> tuple[Path | None, dict[str, Any] | None]:
    """The newest run of a task that is finished or can go on, and its scores if it is finished."""
    found = None
    for folder in sorted((out / "lightning_logs" / task.name).glob("version_*"), key=by_number):
        if not (folder / CONFIG).is_file():
            continue
        settings = yaml.load((folder / CONFIG).read_text(), yaml.CSafeLoader)
        if not settings or settings["seed_everything"] != task.seed:
            continue
        if (folder / SCORES).is_file():
            return folder, json.loads((folder / SCORES).read_text())
        if (folder / "checkpoints" / "last.ckpt").is_file():
            found = folder
    return found, None
