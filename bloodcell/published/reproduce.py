"""`bloodcell reproduce`: the published experiments with a random split and one by photograph.

Each run is a separate process, so a failure does not end the others. Finished runs are kept, and
the others continue from their last checkpoints: after a kill, at most one epoch is repeated.
"""

import argparse
import math
import os
import re
import threading
import time
from pathlib import Path
from typing import NamedTuple

from bloodcell.errors import BAD_INPUT, InputError, listed, require
from bloodcell.evaluate.published import PUBLISHED
from bloodcell.files import at_home
from bloodcell.published.crew import (
    Crew,
    Job,
    check_options,
    find_run,
    hold,
    keep_options,
    make_job,
    print_progress,
)
from bloodcell.published.devices import list_devices
from bloodcell.published.twins import report_twins
from bloodcell.text import clock

_FAST = ("--data.image_size", "128", "--trainer.max_epochs", "24")  # a third of the pixels
# By published learning rate: the learning rate and batch size that learn as much in fewer epochs.
# 1e-5 is multiplied by 49/16: the flattened map is smaller by that factor, so a step changes the
# output less. Above 1e-4, ReLU units die (RESULTS.md).
_FAST_PACE = {1e-5: (3.0625e-5, 8), 5e-5: (5e-5, 16), 1e-4: (1e-4, 32)}
_FAST_TEXT = (
    "128 pixels; 24 epochs, or 5 without a lower validation loss; learning rates and batch sizes "
    + ", ".join(f"{lr:g} and {batch} for {then:g}" for then, (lr, batch) in _FAST_PACE.items())
)
_SPLITS = ("seed", "photo")
_ABOUT = re.compile(r"about (\d+):(\d\d):(\d\d) left")  # printed by each run near its start
_OWN = (
    *("--config", "-c", "--name", "--ckpt_path", "--resume", "--seed_everything"),
    *("--data.split", "--data.seed", "--trainer.default_root_dir", "--trainer.devices"),
    "--trainer.fast_dev_run",
)


class Request(NamedTuple):
    """The runs to make.

    Attributes:
        seeds: number of seeds; 3 means the seeds 0, 1 and 2.
        splits: as `data.split`.
        jobs: number of concurrent runs; None means one per GPU, or one without a GPU.
        fast: small images and few epochs, for CPUs.
        out: the folder of the runs, tables and figures.
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
        """The options that decide the results of all runs."""
        return [*([_FAST_TEXT] if self.fast else []), *self.words]

    def value(self, flag: str) -> str | None:
        """Returns the last value of a flag in the options; None if it is absent."""
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        parser.add_argument(flag, dest="value", nargs="?")
        value: str | None = parser.parse_known_args(self.words)[0].value
        return value


class Task(NamedTuple):
    """One run.

    Attributes:
        config: name of a shipped config.
        lr: the config's learning rate.
        split: as `data.split`.
        seed: as `seed_everything`.
        name: the run's name, which is the same for all seeds.
    """

    config: str
    lr: float
    split: str
    seed: int
    name: str

    def __str__(self) -> str:
        return f"{self.name}, seed {self.seed}"


def reproduce(
    words: list[str],
    seeds: int = 3,
    splits: str = ",".join(_SPLITS),
    jobs: int | None = None,
    fast: bool = False,
    out: str | None = None,
) -> None:
    """Trains the seven published experiments with a random split and with a split by photograph.

    Any other option of fit applies to all runs, e.g. --data.root blood-cells.zip.
    Finished runs are kept; after an interruption the same command continues.

    Args:
        words: options of every `fit`.
        seeds: number of seeds; 3 means the seeds 0, 1 and 2.
        splits: seed (as published), photo (by photograph), or both, separated by a comma.
        jobs: number of concurrent runs (default: one per GPU, or one without a GPU).
        fast: for CPUs: 128 pixels, at most 24 epochs, and suitable batch sizes and learning rates;
            all results are marked as fast.
        out: folder of the runs, tables and figures (default: reproduced, or reproduced-fast).

    Raises:
        InputError: if an option cannot be used, or a run failed.
    """
    check_options("reproduce", words, _OWN, seeds, jobs)
    if words and not words[0].startswith("--"):
        raise InputError(f"reproduce takes options only (got: {words[0]}).")
    chosen = list(dict.fromkeys(splits.split(",")))
    rule = f"{', '.join(_SPLITS)} or {','.join(_SPLITS)}"
    require(set(chosen) <= set(_SPLITS), "--splits", splits, rule)
    place = at_home(out or f"reproduced{'-fast' if fast else ''}")
    request = Request(seeds, chosen, jobs, fast, place, words)
    with hold(place, "reproduce") as descriptors:
        keep_options(request.out, request.options)
        failed = _run_all(request, descriptors)
    if failed:
        names = listed([f"{name} ({why})" for name, why in failed.items()])
        raise InputError(f"failed: {names}. Repeat the command to try them again.")


def _run_all(request: Request, descriptors: list[int]) -> dict[str, str]:
    """Makes the runs that are not finished, and reports even if it is stopped.

    Args:
        request: the runs to make.
        descriptors: file descriptors of the folder's lock.

    Returns:
        The reasons of failed runs, by their names.
    """
    fast = "-fast" if request.fast else ""
    tasks = [
        Task(row.name, row.lr, split, seed, f"{row.name}-{split}{fast}")
        for seed in range(request.seeds)  # all experiments with one seed, then the next seed
        for row in PUBLISHED
        for split in request.splits
    ]
    left = {
        str(task): task for task in tasks if find_run(request.out, task.name, task.seed)[1] is None
    }
    devices = list_devices(request.jobs, request.value("--trainer.accelerator"))
    print(
        f"{len(tasks)} runs in {request.out}: {len(tasks) - len(left)} finished, {len(left)} to "
        f"do, {len(devices)} at a time"
    )
    progress = _Progress(request.out, left, len(devices))
    try:
        jobs = [_job(request, task) for task in left.values()]
        Crew(devices, descriptors).run(jobs, progress.end_run, progress.hear)
    except (KeyboardInterrupt, SystemExit):
        print("stopped: repeat the command to continue; finished runs are kept", flush=True)
        raise
    finally:
        report_twins(request.out, _title(request))
    return progress.failed


class _Progress:
    """Prints the total time as soon as it can be estimated, and the result of each run that ends.

    Args:
        out: the folder of the runs.
        left: the runs to do, by their names.
        jobs: number of concurrent runs.

    Attributes:
        failed: the reasons of failed runs, by their names.
    """

    def __init__(self, out: Path, left: dict[str, Task], jobs: int) -> None:
        self.failed: dict[str, str] = {}
        self._out, self._left, self._jobs = out, left, jobs
        self._start, self._ended = time.perf_counter(), 0
        self._first = threading.Lock()  # taken by the first run that estimates its time

    def hear(self, job: Job, line: str) -> None:
        """Prints the progress of a run; after its first estimate, that of all runs."""
        print_progress(job, line)
        about = _ABOUT.match(line)
        begins = job.words[0] != "--ckpt_path"  # a run that continues has fewer epochs left
        if about and begins and self._first.acquire(blocking=False):
            hours, minutes, seconds = map(int, about.groups())
            rounds = math.ceil(len(self._left) / self._jobs)
            total = clock(rounds * (3600 * hours + 60 * minutes + seconds))
            print(f"all {len(self._left)} runs: at most {total}, if each takes as long", flush=True)

    def end_run(self, job: Job, status: int) -> None:
        """Prints the result of a run, which failed if it wrote no scores."""
        self._ended += 1
        task = self._left[job.name]
        folder, scores = find_run(self._out, task.name, task.seed)
        if scores:
            test = scores["test"]
            result = f"test {test['accuracy']:.4f}, by photograph {test['accuracy_by_photo']:.4f}"
            result += f", {clock(scores['learning_time_seconds'])}"
        elif status == BAD_INPUT and folder is None:  # no other run can be started
            raise InputError(f"{job.name}: {job.complaint()}")
        else:
            result = f"exit status {status} and no scores, see {job.log}"
            self.failed[job.name] = result
        n = len(self._left)
        rest = (time.perf_counter() - self._start) / self._ended * (n - self._ended)
        progress = f"{self._ended} of {n}, about {clock(rest)} left"
        print(f"{job.name}: {result} ({progress})", flush=True)


def _job(request: Request, task: Task) -> Job:
    pace = _pace(task.lr) if request.fast else ()
    words = ["--config", f"{task.config}.yaml", *pace, *request.words, "--data.split", task.split]
    return make_job(request.out, task.name, task.seed, words)


def _pace(published: float) -> tuple[str, ...]:
    """Returns the options of the fast run for a published learning rate."""
    lr, batch = _FAST_PACE[published]
    return (*_FAST, "--model.lr", f"{lr:g}", "--data.batch_size", str(batch))


def _title(request: Request) -> str:
    """Returns the options of all runs, for tables and figures."""
    fast = "FAST, not as published: " if request.fast else "with " if request.words else ""
    return fast + " ".join(map(_short, request.options))


def _short(word: str) -> str:
    """Returns an option or its value, without the folder of an existing file."""
    name, equals, value = word.removeprefix("--").rpartition("=")
    there = os.path.exists(value)  # noqa: PTH110  no error for a long list
    return f"{name}{equals}{Path(value).name if there else value}"
