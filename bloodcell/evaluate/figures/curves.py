"""Accuracy and loss by epoch, as in the published graphs."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bloodcell.evaluate.figures.style import BLUE, GREY, RED, styled
from bloodcell.evaluate.history import Epoch
from bloodcell.evaluate.published import Published

_MARKERS = 40  # per line; more would overlap


@styled
def draw_curves(
    title: str, histories: Mapping[str, Sequence[Sequence[Epoch]]], published: Published | None
) -> Figure:
    """Draws accuracy and loss by epoch, as in the published graphs.

    Args:
        title: what was trained.
        histories: runs that differ only in their seed, by the title of their row in the figure.
        published: published results, drawn as lines across the first row; None draws none.
    """
    rows = len(histories)
    figure = Figure(figsize=(10, 0.6 + 3.6 * rows), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(rows, 2, squeeze=False)
    for row, (name, runs) in enumerate(histories.items()):
        for ax, what in zip(axes[row], ("accuracy", "loss"), strict=True):
            for number, run in enumerate(runs):
                _draw_run(ax, run, "acc" if what == "accuracy" else "loss", number == 0)
            if published and row == 0:
                at = 1 if what == "accuracy" else 0
                for value, part, line in (
                    (published.train[at], "training", (0, (1, 3))),
                    (published.val[at], "validation", (0, (5, 2, 1, 2))),
                ):
                    label = f"{part}, published"
                    ax.axhline(value, color=GREY, linestyle=line, linewidth=1.2, label=label)
            ax.set(xlabel="epoch", ylabel=f"{what} by file", title=name)
            ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
            if what == "accuracy":
                ax.set_ylim(0, 1.02)
            else:
                ax.set_ylim(0, 1.1 * ax.get_ylim()[1])
            ax.legend(loc="best")
    return figure


def _draw_run(ax: Axes, run: Sequence[Epoch], field: str, first: bool) -> None:
    epochs = [line.epoch + 1 for line in run]
    every = math.ceil(len(run) / _MARKERS) or 1
    for part, title, colour, line, marker in (
        ("train", "training", RED, "--", "o"),
        ("val", "validation", BLUE, "-", "s"),
    ):
        ax.plot(
            epochs,
            [getattr(one, f"{part}_{field}") for one in run],
            color=colour,
            linestyle=line,
            marker=marker,
            markersize=4,
            markerfacecolor="white" if part == "train" else colour,
            markevery=every,
            linewidth=1.5,
            label=title if first else None,
        )
