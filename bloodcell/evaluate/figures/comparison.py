"""Experiments side by side, with intervals and the published values."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bloodcell.datasets.kaggle import KAGGLE
from bloodcell.evaluate.experiments import Experiment
from bloodcell.evaluate.figures.style import BLUE, GREY, RED, styled
from bloodcell.evaluate.published import find_published


@styled
def draw_comparison(experiments: Sequence[Experiment], title: str = "") -> Figure:
    """Draws the accuracy of each experiment with its interval, and the published value if any.

    Args:
        experiments: one line each, the first at the top. A dashed line separates those that were
            tested on different photographs.
        title: a text that applies to all of them.
    """
    figure = Figure(figsize=(10, 1.5 + 0.5 * len(experiments)), layout="constrained")
    ax = figure.subplots()
    for line, one in enumerate(experiments):
        for of, shift, marker, colour, face, label in (
            (one.accuracy, -0.12, "o", RED, "white", "test accuracy by file"),
            (one.balanced, 0.12, "s", BLUE, BLUE, "balanced accuracy by photograph"),
        ):
            ax.plot([of.low, of.high], [line + shift] * 2, color=colour, linewidth=1.6)
            ax.plot(
                of.value,
                line + shift,
                linestyle="none",
                marker=marker,
                color=colour,
                markerfacecolor=face,
                markersize=7,
                label=label if line == 0 else None,
            )
        published = find_published(one.name)
        as_published = one.split == "seed" and one.datasets == [KAGGLE]
        if published and as_published and tuple(one.hidden) == published.hidden:
            marked = "published" in ax.get_legend_handles_labels()[1]
            ax.plot(
                published.test[1],
                line,
                linestyle="none",
                marker="x",
                color="black",
                markersize=9,
                markeredgewidth=2,
                label=None if marked else "published",
            )
    _separate(ax, [one.group for one in experiments])
    ax.set_yticks(range(len(experiments)), _labels(experiments))
    ax.set(xlim=(-0.01, 1.01), ylim=(len(experiments) - 0.4, -0.6))
    ax.set_xlabel("accuracy on the test part, and its 95 % interval over photographs")
    figure.suptitle(title, fontsize=10)
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def _separate(ax: Axes, letters: Sequence[str]) -> None:
    """Draws a line above each group of experiments but the first."""
    starts = sorted({letters.index(letter) for letter in letters if letter})
    for line in starts[1:]:
        label = "below: tested on other photographs" if line == starts[1] else None
        ax.axhline(line - 0.5, color=GREY, linestyle="--", linewidth=1, label=label)


def _labels(experiments: Sequence[Experiment]) -> list[str]:
    """Returns a label for each; those that would be equal also have the head, rate and a number."""
    short = [f"{one.name}, split {one.split}" + _seeds(one.seeds) for one in experiments]
    long = [
        label if short.count(label) == 1 else f"{label}, dense {one.hidden}, lr {one.lr:g}"
        for label, one in zip(short, experiments, strict=True)
    ]
    return [
        label if long.count(label) == 1 else f"{label} ({long[:place].count(label) + 1})"
        for place, label in enumerate(long)
    ]


def _seeds(count: int) -> str:
    return f", {count} seeds" if count > 1 else ""
