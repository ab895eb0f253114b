"""`bloodcell audit --labels`: lists the photographs whose labels trained models doubt most."""

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from bloodcell.audit.opinions import Opinion, Photographs, ask, find_models
from bloodcell.data.decode import open_rgb
from bloodcell.data.image_files import READ_ERRORS
from bloodcell.data.source import Source
from bloodcell.data.table import Table
from bloodcell.datasets.classes import find_class
from bloodcell.errors import InputError, listed
from bloodcell.evaluate.doubts import Doubt, Votes, average, rank
from bloodcell.files import write_whole
from bloodcell.text import near

_SHOWN = 15  # photographs on the console; the table has all
_DIGITS = 4  # of probabilities in the table


def examine_labels(
    source: Source, table: Table, models: list[str], out: str | None, sheet: str | None
) -> None:
    """Ranks the labels by the answers of models that were not trained on the photographs.

    Args:
        source: the images.
        table: their classes, photographs and cells.
        models: run folders, folders of run folders, and model files.
        out: a .csv file for the list; None: only the first ones are printed.
        sheet: a .png file for pictures of the first ones.

    Raises:
        InputError: if a model cannot be loaded, or no model has an answer that counts.
    """
    photographs = Photographs(source, table)
    opinions = [ask(path, photographs) for path in find_models(models)]
    doubts = _rank(photographs, opinions)
    if not doubts:
        reasons = [f"{one.model} ({one.note})" for one in opinions]
        raise InputError(
            f"--labels: no model can judge these labels: {listed(reasons, 5)}. Train on folds, so "
            "that each photograph is tested once: bloodcell fit --config best_folds.yaml "
            "--data.fold 0, then 1 to 4."
        )
    _print(photographs, opinions, doubts)
    if out:
        _write(Path(out), doubts)
        print(out)
    if sheet:
        _draw(Path(sheet), source, doubts)
        print(sheet)


def _rank(photographs: Photographs, opinions: Sequence[Opinion]) -> list[Doubt]:
    """Ranks the labels; classes of different spelling are the same, as in `find_class`."""
    table = photographs.table
    names = list(table.class_names)
    for name in (name for one in opinions for name in one.class_names):
        if find_class(name, names) is None:
            names.append(name)
    votes = [_as_votes(one, names) for one in opinions if len(one.photo)]
    first = [table.rows[i] for i in photographs.first.tolist()]
    return rank(
        photographs.name,
        [row.path for row in first],
        [row.cell for row in first],
        photographs.label,
        names,
        average(votes, photographs.label, len(names)),
    )


def _as_votes(opinion: Opinion, names: Sequence[str]) -> Votes:
    """Returns the answers of a model in the order of the names; classes of one name are added."""
    places = [find_class(name, names) for name in opinion.class_names]
    classes, column = np.unique(np.array(places, np.int64), return_inverse=True)
    return Votes(opinion.photo, opinion.probability @ np.eye(len(classes))[column], classes)


def _print(photographs: Photographs, opinions: Sequence[Opinion], doubts: Sequence[Doubt]) -> None:
    console = Console()
    n = len(photographs.name)
    console.print(Text(f"{photographs.source.root}: {n:,} photographs"), soft_wrap=True)
    for one in opinions:
        text = f"{len(one.photo):,} photographs ({one.note})"
        if one.trained_on and len(one.photo):
            text += f"; not the {one.trained_on:,} that it was trained on"
        if not len(one.photo):
            text = f"LEFT OUT: {one.note}"
        console.print(Text(f"  {near(one.model)}: {text}"), soft_wrap=True)
    grid = Grid(box=box.SIMPLE_HEAD)
    for heading in ("", "photograph", "label", "models say", "doubt", "against", ""):
        grid.add_column(heading, justify="right" if heading in ("doubt", "against") else "left")
    for place, doubt in enumerate(doubts[:_SHOWN], 1):
        against = f"{doubt.against} of {doubt.models}"
        says = f"{doubt.suggested} {doubt.p_suggested:.2f}"
        mark = "likely wrong" if doubt.likely else ""
        words = (str(place), doubt.photo, doubt.label, says, f"{doubt.doubt:.2f}", against, mark)
        grid.add_row(*map(Text, words))
    console.print(grid)
    for label, text in _notes(n, doubts):
        console.print(Text(f"  {label:<12} {text}"), soft_wrap=True)


def _notes(n: int, doubts: Sequence[Doubt]) -> list[tuple[str, str]]:
    pairs = Counter(f"{one.label} as {one.suggested}" for one in doubts if one.likely)
    kinds = [f"{pair} {count:,}" for pair, count in pairs.most_common()]
    likely = f"{pairs.total():,} labels ({listed(kinds, 5)})" if pairs else "none"
    notes = [
        ("likely wrong", likely),
        ("doubt", "1 - the mean probability of the label; look at the picture before changing it"),
        ("pixels", "not examined; audit without --labels does that"),
    ]
    if n > len(doubts):
        notes.insert(1, ("no answer", f"{n - len(doubts):,} photographs that no model can judge"))
    return notes


def _write(path: Path, doubts: Sequence[Doubt]) -> None:
    with write_whole(path) as file:
        lines = csv.writer(file)
        lines.writerow(Doubt._fields)
        for one in doubts:
            values = one._asdict() | {"likely": "yes" if one.likely else "no"}
            lines.writerow(
                [round(v, _DIGITS) if isinstance(v, float) else v for v in values.values()]
            )


def _draw(path: Path, source: Source, doubts: Sequence[Doubt]) -> None:
    from bloodcell.evaluate.figures.doubts import MOST, draw_doubts  # slow
    from bloodcell.evaluate.figures.style import save

    pictures: list[Image.Image | None] = []
    with source.reader() as read:
        for one in doubts[:MOST]:
            try:
                pictures.append(open_rgb(read(one.file)))
            except READ_ERRORS:
                pictures.append(None)
    save(draw_doubts(source.root.name, doubts[:MOST], pictures), path)
