"""`bloodcell labs`: holds out each data set in turn, trains on the others and tests on it."""

import csv
import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from bloodcell.cli.configs import read_config, read_request
from bloodcell.cli.settings import pairs
from bloodcell.errors import InputError, listed
from bloodcell.files import at_home, write_whole
from bloodcell.model.find import list_finished

if TYPE_CHECKING:
    from bloodcell.evaluate.unseen import HeldOut

_OWN = (
    *("--name", "--ckpt_path", "--resume", "--seed_everything", "--data.split", "--data.test_on"),
    *("--trainer.default_root_dir", "--trainer.devices", "--trainer.fast_dev_run"),
    "--model.teachers",
)
_HEADINGS = (
    *("tested on", "seed", "photographs", "classes", "balanced, by file"),
    *("balanced, by photograph", "own classes only", "shared classes", "called unlike"),
    *("learning time",),
)
_LEGEND = (
    "Balanced accuracy over the classes of a data set that was neither trained nor validated on, "
    "with its 95 % interval over photographs. Own classes only: by photograph, if the model could "
    "choose only among the classes of that data set. Shared classes: by photograph, over {shared}. "
    "Called unlike: share of the images that the model calls unlike all training images."
)


class Task(NamedTuple):
    """One run.

    Attributes:
        name: its name.
        test_on: as `data.test_on`.
        seed: as `seed_everything`.
        teachers: their run folders; empty without teachers.
    """

    name: str
    test_on: str
    seed: int
    teachers: list[str]


def labs(
    words: list[str],
    seeds: int = 1,
    jobs: int | None = None,
    teachers: str | None = None,
    out: str = "labs",
) -> None:
    """Trains without one data set at a time, tests on it, and prints a table.

    Any other option of fit applies to all runs:
    --config any_lab.yaml --data.root "[kaggle, pbc]", for example.
    Finished runs are kept; after an interruption the same command continues.

    Args:
        words: options of every `fit`; data.root has at least two data sets.
        seeds: number of seeds; 3 means the seeds 0, 1 and 2.
        jobs: number of concurrent runs (default: one per GPU, or one without a GPU).
        teachers: folder of a finished `labs`; its runs without a data set teach those that are
            tested on that data set, as model.teachers (default: none).
        out: folder of the runs, of the tables labs.md and labs.csv, and of labs.json for export.

    Raises:
        InputError: if an option cannot be used, or a run failed.
    """
    from bloodcell.data.source import open_source
    from bloodcell.published.crew import check_options, hold, keep_options

    check_options("labs", words, _OWN, seeds, jobs)
    request, place = read_request("fit", words), at_home(out)
    sets = list(open_source(_roots(request.words)).sets)
    if not sets:
        raise InputError(
            "labs needs at least two data sets: give data.root a list, e.g. --data.root "
            '"[kaggle, pbc, chula]".'
        )
    prefix = f"{request.config_name}-"
    taught = _find_teachers(teachers, prefix, sets)
    tasks = [
        Task(prefix + name, name, seed, taught[name]) for seed in range(seeds) for name in sets
    ]
    with hold(place, "labs") as descriptors:
        keep_options(place, [*request.words, *chain(*map(_as_option, taught.values()))])
        failed = _run_all(place, tasks, words, jobs, descriptors)
    if failed:
        raise InputError(f"failed: {listed(failed)}. Repeat the command to try them again.")


def _run_all(
    place: Path, tasks: list[Task], words: list[str], jobs: int | None, descriptors: list[int]
) -> list[str]:
    """Makes the runs that are not finished, and reports; returns those that failed."""
    from bloodcell.published.crew import Crew, Job, find_run, make_job
    from bloodcell.published.devices import list_devices

    waiting = []
    for task in tasks:
        held_out = ("--data.split", "labs", "--data.test_on", task.test_on)
        if find_run(place, task.name, task.seed)[1] is None:
            options = [*words, *held_out, *_as_option(task.teachers)]
            waiting.append(make_job(place, task.name, task.seed, options))
    print(f"{len(tasks)} runs in {place}: {len(waiting)} to do", flush=True)
    failed = list[str]()

    def end(job: Job, status: int) -> None:
        if status:
            failed.append(f"{job.name} ({job.complaint()})")
            print(f"{job.name}: exit status {status}, see {job.log}", flush=True)

    try:
        accelerator = dict(pairs(words)).get("--trainer.accelerator")
        Crew(list_devices(jobs, accelerator), descriptors).run(waiting, end)
    finally:  # even if it is stopped
        _report(place, tasks)
    return failed


def _find_teachers(folder: str | None, prefix: str, sets: Sequence[str]) -> dict[str, list[str]]:
    """Returns the finished runs of another `labs` without each data set."""
    if not folder:
        return {name: [] for name in sets}
    from bloodcell.published.crew import run_folders

    found = {
        name: [
            str(run)
            for logs in run_folders(Path(folder), prefix + name)
            for run in list_finished(logs)
        ]
        for name in sets
    }
    counts = {name: len(runs) for name, runs in found.items()}
    if len(set(counts.values())) > 1 or not all(counts.values()):
        listing = listed([f"{n} of {prefix}{name}" for name, n in counts.items()], len(counts))
        raise InputError(
            f"--teachers {folder} needs equally many finished runs without each data set, and has "
            f"{listing}. Finish them first: bloodcell labs --out {folder}, with the same config "
            "and data.root."
        )
    return found


def _as_option(teachers: list[str]) -> list[str]:
    return ["--model.teachers", json.dumps(teachers)] if teachers else []


def _roots(words: Sequence[str]) -> Any:
    """Returns the last value of data.root in the configs and the options, or its default."""
    root: Any = "kaggle"
    for flag, value in pairs(words):
        if flag == "--config" and value:
            root = (read_config(Path(value)).get("data") or {}).get("root", root)
        elif flag == "--data.root" and value:
            root = yaml.safe_load(value) if value.startswith("[") else value
        elif flag == "--data.root+" and value:
            root = [*([root] if isinstance(root, str) else root), value]
    return root


def _report(place: Path, tasks: list[Task]) -> None:
    """Prints the table of the finished runs, and writes it as Markdown, CSV and JSON."""
    from bloodcell.evaluate.scores import read_predictions
    from bloodcell.evaluate.tables import as_markdown, print_wide
    from bloodcell.evaluate.unseen import FILE_NAME, HeldOut, summarise, write_unseen
    from bloodcell.published.crew import find_run

    found = [(task, *find_run(place, task.name, task.seed)) for task in tasks]
    runs = [
        HeldOut(task.test_on, task.seed, scores, read_predictions(folder))
        for task, folder, scores in found
        if folder and scores
    ]
    if not runs:
        print(f"no finished run in {place} yet")
        return
    shared = set.intersection(*(run.class_names() for run in runs))
    rows, summaries = [], {}
    for name in dict.fromkeys(task.test_on for task in tasks):
        same = [run for run in runs if run.dataset == name]
        several = len(same) > 1
        if several:
            rows += [_row(str(run.seed), [run], summarise([run]), shared) for run in same]
        if same:
            summaries[name] = summarise(same)
            seed = f"mean of {len(same)}" if several else str(same[0].seed)
            rows.append(_row(seed, same, summaries[name], shared))
    legend = _LEGEND.format(shared=", ".join(sorted(shared)))
    print_wide(_HEADINGS, rows, legend, words=("tested on",))
    with write_whole(place / "labs.md") as file:
        file.write(as_markdown(_HEADINGS, rows, legend))
    with write_whole(place / "labs.csv") as file:
        csv.writer(file).writerows([_HEADINGS, *rows])
    written = ["labs.md", "labs.csv", "lightning_logs"]
    if summaries.keys() == {task.test_on for task in tasks}:
        write_unseen(place / FILE_NAME, runs, summaries)
        written.append(f"{FILE_NAME} (for export --labs)")
    print(f"{place}: {', '.join(written)}")


def _row(
    seed: str, runs: "Sequence[HeldOut]", found: dict[str, Any], shared: set[str]
) -> list[str]:
    """Returns the row of runs that were tested on the same data set, from their summary."""
    from bloodcell.evaluate.metrics import Estimate
    from bloodcell.evaluate.unseen import score_classes
    from bloodcell.text import clock

    seconds = sum(run.scores["learning_time_seconds"] for run in runs) / len(runs)
    return [
        *(runs[0].dataset, seed, f"{found['photographs']:,}", str(found["classes"])),
        *(str(Estimate(**found[key])) for key in ("by_file", "by_photo", "own_classes")),
        *(str(score_classes(runs, shared) or "-"), f"{found['unlike']:.1%}", clock(seconds)),
    ]
