"""The table of `bloodcell compare`: on the console, as Markdown and as CSV."""

import csv
from pathlib import Path

from bloodcell.errors import InputError, listed
from bloodcell.evaluate.experiments import Experiment, pool
from bloodcell.evaluate.runs import find_runs, read_runs
from bloodcell.evaluate.tables import as_markdown, print_wide
from bloodcell.files import check_place, write_whole
from bloodcell.text import clock

_HEADINGS = (
    *("experiment", "split", "hidden layers", "dense", "lr", "seeds", "trained on"),
    *("test accuracy", "balanced, by photograph", "parameters", "learning time", "best"),
)
_KINDS = (".csv", ".md", ".png")
_LEGEND = (
    "Sorted by balanced accuracy by photograph, with its 95 % interval; experiments that were "
    "tested on the same photographs are listed together. `a`, `b` ...: the best of those tested on "
    "the same photographs, and those that are not significantly worse (paired bootstrap over "
    "photographs, Holm, 5 %). Trained on: the share of the test photographs that were also "
    "trained on; their score measures memorisation. Parameters: with `pool: flatten`, larger "
    "images need more."
)


def compare(runs: list[str], out: str | None = None) -> None:
    """Prints a table of finished runs, with intervals over photographs.

    Args:
        runs: run folders, or folders that contain some (default: lightning_logs).
        out: a .csv or .md file for the table, or a .png file for a figure of it (default: none).

    Raises:
        InputError: if there is no finished run, or the file has another suffix.
    """
    check_place("--out", out, *_KINDS)
    finished, left_out = read_runs(find_runs(runs))
    if not finished:
        names = [f"{folder} ({reason})" for folder, reason in left_out.items()]
        raise InputError(
            f"compare: no finished run (left out: {listed(names, 3)}). "
            "Train one: bloodcell fit --config demo.yaml."
        )
    experiments = pool(finished)
    rows = [_row(experiment) for experiment in experiments]
    print_wide(_HEADINGS, rows, _LEGEND, words=("experiment", "split", "best"))
    for folder, reason in left_out.items():
        print(f"left out: {folder}, {reason}")
    if out and Path(out).suffix == ".png":
        from bloodcell.evaluate.figures.comparison import draw_comparison  # slow
        from bloodcell.evaluate.figures.style import save

        save(draw_comparison(experiments), Path(out))
    elif out:
        _write(Path(out), rows)
    if out:
        print(out)


def _row(one: Experiment) -> list[str]:
    return [
        one.name,
        one.split,
        str(len(one.hidden)),
        ", ".join(map(str, one.hidden)),
        f"{one.lr:g}",
        str(one.seeds),
        f"{one.seen:.1%}".replace(".0%", "%"),
        str(one.accuracy),
        str(one.balanced),
        f"{one.parameters:,}",
        clock(one.seconds),
        one.group,
    ]


def _write(path: Path, rows: list[list[str]]) -> None:
    with write_whole(path) as file:
        if path.suffix == ".csv":
            csv.writer(file).writerows([_HEADINGS, *rows])
        else:
            file.write(as_markdown(_HEADINGS, rows, _LEGEND))
