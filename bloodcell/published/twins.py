"""Compares the published results with ours, and with those on unseen photographs."""

import textwrap
from pathlib import Path
from statistics import fmean

from bloodcell.evaluate.experiments import Experiment, pool
from bloodcell.evaluate.figures.comparison import draw_comparison
from bloodcell.evaluate.figures.curves import draw_curves
from bloodcell.evaluate.figures.style import save
from bloodcell.evaluate.history import FILE_NAME, read_history
from bloodcell.evaluate.published import PUBLISHED, Published, find_published
from bloodcell.evaluate.runs import Run, find_runs, read_runs
from bloodcell.evaluate.tables import as_markdown, print_wide
from bloodcell.files import write_whole
from bloodcell.text import clock

_HEADINGS = (
    *("experiment", "dense", "lr", "train, published", "ours", "validation, published", "ours"),
    *("test, published", "ours", "difference", "unseen, by file", "unseen, by photograph"),
    *("time, published", "ours"),
)
_LEGEND = (
    "Accuracies: published, then ours with split seed (files at random, so most test photographs "
    "were also trained on). Unseen: the same network with split photo, tested on photographs that "
    "it has never seen. [95 % intervals over photographs; mean of the seeds.]"
)
_SPLIT_TITLES = {
    "seed": "files at random, as published",
    "photo": "by photograph: validated on unseen ones",
}
COMPARISON = "compared_model_graph.png"  # the name of the published figure
_TITLE = 110  # characters that fit above a figure
Key = tuple[str, str]  # published name, split


def report_twins(out: Path, title: str = "") -> None:
    """Prints the table of the finished runs, and writes `table.md` and the figures.

    Args:
        out: a folder of runs of published experiments, all with the same options.
        title: the options of all runs; empty if they are as published.
    """
    runs: dict[Key, list[Run]] = {}
    for run in read_runs(find_runs([str(out)]))[0]:
        if published := find_published(run.scores["name"]):
            runs.setdefault((published.name, run.scores["split"]), []).append(run)
    if not runs:
        print(f"no finished run in {out} yet")
        return
    experiments = {key: pool(same)[0] for key, same in runs.items()}
    rows = [_row(published, runs, experiments) for published in PUBLISHED]
    print_wide(_HEADINGS, rows, _LEGEND, title)
    with write_whole(out / "table.md") as file:
        file.write(as_markdown(_HEADINGS, rows, _LEGEND, title))
    written = ["table.md"]
    for number, published in enumerate(PUBLISHED, 1):
        if _save_curves(out / f"{number}.png", published, runs, title):
            written.append(f"{number}.png")
    keys = ((published.name, split) for published in PUBLISHED for split in _SPLIT_TITLES)
    # the figure shows the split beside each name
    ordered = [experiments[key]._replace(name=key[0]) for key in keys if key in experiments]
    save(draw_comparison(ordered, _wrap(title)), out / COMPARISON)
    print(f"{out}: {', '.join([*written, COMPARISON, 'lightning_logs'])}")


def _row(
    published: Published, runs: dict[Key, list[Run]], experiments: dict[Key, Experiment]
) -> list[str]:
    leaky, honest = (published.name, "seed"), (published.name, "photo")

    def reproduced(part: str) -> str:
        scores = [run.scores[part]["accuracy"] for run in runs.get(leaky, [])]
        return f"{fmean(scores):.4f}" if scores else ""

    def estimate(key: Key, name: str) -> str:
        return str(getattr(experiments[key], name)) if key in experiments else ""

    one = experiments.get(leaky) or experiments.get(honest)
    same = experiments.get(leaky)
    return [
        published.name,
        ", ".join(map(str, one.hidden if one else published.hidden)),
        f"{one.lr if one else published.lr:.3g}",
        f"{published.train[1]:.4f}",
        reproduced("train"),
        f"{published.val[1]:.4f}",
        reproduced("val"),
        f"{published.test[1]:.4f}",
        estimate(leaky, "accuracy"),
        f"{same.accuracy.value - published.test[1]:+.4f}" if same else "",
        estimate(honest, "accuracy"),
        estimate(honest, "by_photo"),
        clock(published.seconds),
        clock(one.seconds) if one else "",
    ]


def _wrap(title: str) -> str:
    return textwrap.fill(title, _TITLE)


def _save_curves(path: Path, published: Published, runs: dict[Key, list[Run]], title: str) -> bool:
    """Draws the curves of an experiment; returns whether it has finished runs."""
    histories = {
        text: [read_history(run.folder / FILE_NAME) for run in runs[published.name, split]]
        for split, text in _SPLIT_TITLES.items()
        if (published.name, split) in runs
    }
    if not histories:
        return False
    leaky = (published.name, "seed") in runs  # only that split was published
    heading = f"{published.name}\n{_wrap(title)}".rstrip()
    save(draw_curves(heading, histories, published if leaky else None), path)
    return True
