"""What `bloodcell compare` says: a table of experiments, on the console, as Markdown and as CSV."""

import csv
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from bloodcell.errors import InputError, listed
from bloodcell.report.experiments import Experiment, find_runs, pool, read_runs
from bloodcell.report.summary import clock
from bloodcell.report.whole import write_whole

_HEADINGS = (
    *("experiment", "split", "hidden layers", "dense", "lr", "seeds", "test accuracy"),
    *("balanced, by photograph", "parameters", "learning time", "best"),
)
_KINDS = (".csv", ".md", ".png")
_LEGEND = (
    "Sorted by balanced accuracy by photograph, with its 95 % interval. `a`: the best, and those "
    "that a paired bootstrap over photographs cannot tell from it (Holm, 5 %); `-`: tested on "
    "other photographs."
)


def compare(folders: Sequence[str], out: str | None = None) -> None:
    """Prints the table of all finished runs, and writes it.

    Args:
        folders: run folders or folders that hold some; none means all below lightning_logs.
        out: a .csv, .md or .png file; None writes none.

    Raises:
        InputError: if there is no finished run, or the file is of another kind.
    """
    if out and (Path(out).suffix not in _KINDS or not Path(out).absolute().parent.is_dir()):
        raise InputError(
            f"--out {out} must end in .csv, .md or .png and lie in a folder that exists."
        )
    runs, left_out = read_runs(find_runs(folders))
    if not runs:
        names = [f"{folder} ({reason})" for folder, reason in left_out.items()]
        raise InputError(
            f"compare: no finished run (left out: {listed(names, 3)}). "
            "Train one: bloodcell fit --config demo.yaml."
        )
    experiments = pool(runs)
    rows = [_row(experiment) for experiment in experiments]
    _print(rows)
    for folder, reason in left_out.items():
        print(f"left out: {folder}, {reason}")
    if out and Path(out).suffix == ".png":
        from bloodcell.report.figures.comparison import draw_comparison  # takes its time
        from bloodcell.report.figures.style import save

        save(draw_comparison(experiments), Path(out))
    elif out:
        _write(Path(out), rows)
    if out:
        print(out)


def _row(of: Experiment) -> list[str]:
    return [
        of.name,
        of.split,
        str(len(of.hidden)),
        ", ".join(map(str, of.hidden)),
        f"{of.lr:g}",
        str(of.seeds),
        str(of.accuracy),
        str(of.balanced),
        f"{of.parameters:,}",
        clock(of.seconds),
        of.group,
    ]


def _print(rows: list[list[str]]) -> None:
    table = Table(box=box.SIMPLE_HEAD)
    words = ("experiment", "split", "best")
    for heading in _HEADINGS:
        table.add_column(heading, justify="left" if heading in words else "right")
    for row in rows:
        table.add_row(*row)
    console = Console()
    wide = Console(width=max(console.width, 170)) if not console.is_terminal else console
    wide.print(table)
    wide.print(_LEGEND, highlight=False)


def _write(path: Path, rows: list[list[str]]) -> None:
    with write_whole(path) as file:
        if path.suffix == ".csv":
            csv.writer(file).writerows([_HEADINGS, *rows])
        else:
            lines = [_HEADINGS, ["---"] * len(_HEADINGS), *rows]
            file.writelines(f"| {' | '.join(line)} |\n" for line in lines)
            file.write(f"\n{_LEGEND}\n")
