"""Comparison of run folders that are written here, with known truth."""

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from bloodcell.cli.main import main
from bloodcell.evaluate.experiments import pool
from bloodcell.evaluate.figures.comparison import draw_comparison
from bloodcell.evaluate.runs import find_runs, read_runs
from bloodcell.evaluate.tables import as_markdown, print_wide

Refused = Callable[..., str]
WriteRun = Callable[..., Path]


def width(path: Path | str) -> int:
    with Image.open(path) as image:
        return image.width


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_seeds_are_pooled_and_the_best_comes_first(
    write_run: WriteRun,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs = tmp_path / "lightning_logs"
    for seed in range(3):
        write_run(logs / "poor" / f"version_{seed}", 0.3, seed, hidden=(8, 8))
        write_run(logs / "good" / f"version_{seed}", 0.9, seed)
    write_run(logs / "near" / "version_0", 0.875, 7, hidden=())
    main(["compare", "--out", "all.csv"])
    rows = table(Path("all.csv"))
    assert [row["experiment"] for row in rows] == ["good", "near", "poor"]
    assert [row["seeds"] for row in rows] == ["3", "1", "3"]
    assert [row["best"] for row in rows] == ["a", "a", ""]
    assert [row["hidden layers"] for row in rows] == ["1", "0", "2"]
    assert rows[0]["test accuracy"].startswith("0.9000 [0.8")
    assert rows[0]["balanced, by photograph"].startswith("0.9000 [0.8")
    assert (rows[0]["parameters"], rows[0]["learning time"]) == ("1,234,567", "0:01:01")
    assert "good" in capsys.readouterr().out


def test_each_set_of_test_photographs_has_its_best(write_run: WriteRun, tmp_path: Path) -> None:
    for name, right, photos in (
        ("drawn", 0.95, 60), ("drawn-poor", 0.4, 60),
        ("real-poor", 0.3, 80), ("real", 0.9, 80), ("real-near", 0.875, 80),
        ("alone", 0.2, 40),
    ):  # fmt: skip
        write_run(tmp_path / "runs" / name / "version_0", right, photos=photos)
    main(["compare", "runs", "--out=runs.csv"])
    assert [(row["experiment"], row["best"]) for row in table(Path("runs.csv"))] == [
        *[("drawn", "a"), ("drawn-poor", "")],
        *[("real", "b"), ("real-near", "b"), ("real-poor", "")],
        ("alone", "c"),
    ]
    main(["compare", "runs", "--out=runs.md"])
    assert "the best of those tested on the same photographs" in Path("runs.md").read_text()
    figure = draw_comparison(pool(read_runs(find_runs(["runs"]))[0]))
    lines = [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    assert [line.get_ydata()[0] for line in lines] == [1.5, 4.5]  # type: ignore[index]
    (legend,) = figure.legends
    assert legend.get_texts()[-1].get_text() == "below: tested on other photographs"


def test_further_groups_cannot_change_a_group(write_run: WriteRun, tmp_path: Path) -> None:
    for name, right in (("good", 0.9), ("near", 0.8), ("poor", 0.6)):
        write_run(tmp_path / "one" / name / "version_0", right)
    one = pool(read_runs(find_runs(["one"]))[0])
    for n in range(30):
        write_run(tmp_path / "many" / f"x{n}" / "version_0", 0.95, photos=8, first=100 * (n + 1))
    both = pool(read_runs(find_runs(["one", "many"]))[0])
    assert [len(both), both[26].group, both[29].group] == [33, "aa", "ad"]
    assert both[30:] == [x._replace(group="ae" if x.group else "") for x in one]


def test_seeds_that_share_no_photograph_are_averaged(write_run: WriteRun, tmp_path: Path) -> None:
    for seed, right in enumerate((0.9, 0.6)):
        write_run(tmp_path / "one" / f"version_{seed}", right, seed, first=100 * seed)
    main(["compare", "one", "--out", "one.csv"])
    (row,) = table(Path("one.csv"))
    assert row["seeds"] == "2"
    for key in ("test accuracy", "balanced, by photograph"):
        assert row[key].startswith("0.7500 [0.6")


def test_memory_and_partial_scores_are_told_from_others(
    write_run: WriteRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "leaky" / "version_0", 0.9, split="seed")
    write_run(tmp_path / "honest" / "version_0", 0.6)
    partial = write_run(tmp_path / "partial" / "version_0", 0.9)
    scores = json.loads((partial / "scores.json").read_text()) | {"test_files_not_scored": 2393}
    (partial / "scores.json").write_text(json.dumps(scores))
    main(["compare", "leaky", "honest", "partial", "--out", "all.csv"])
    rows = {row["experiment"]: row["trained on"] for row in table(Path("all.csv"))}
    assert rows == {"leaky": "100%", "honest": "0%"}
    assert (
        "version_0, partial: 2,393 test images were not scored (trainer.limit_test"
        in capsys.readouterr().out
    )


def test_markdown(write_run: WriteRun, tmp_path: Path) -> None:
    main(["compare", str(write_run(tmp_path / "one" / "version_0", 0.9)), "--out", "table.md"])
    lines = Path("table.md").read_text().splitlines()
    assert lines[0].count("|") == lines[1].count("|") == lines[2].count("|") == 13
    assert lines[2].startswith("| one | photo | 1 | 8 | 1e-05 |")


def test_the_figure_marks_what_was_published(write_run: WriteRun, tmp_path: Path) -> None:
    logs = tmp_path / "lightning_logs"
    write_run(logs / "d8-seed" / "version_0", 0.9, split="seed")
    write_run(logs / "d8_d8" / "version_0", 0.6, split="photo")
    main(["compare", "--out", "runs.png"])
    assert width("runs.png") == 1200
    figure = draw_comparison(pool(read_runs(find_runs([]))[0]))
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert np.array_equal(lines["published"].get_xdata(), [0.992])
    assert sum(line.get_marker() == "x" for line in figure.axes[0].lines) == 1
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["d8-seed, split seed", "d8_d8, split photo"]


@pytest.mark.parametrize(
    ("changed", "hidden"), [({"datasets": ["my_cells"]}, (8,)), ({"datasets": ["kaggle"]}, (16,))]
)
def test_other_data_and_other_networks_were_not_published(
    write_run: WriteRun, changed: dict[str, list[str]], hidden: tuple[int, ...]
) -> None:
    run = write_run(Path("d8-seed/version_0"), 0.9, split="seed", hidden=hidden)
    scores = json.loads((run / "scores.json").read_text()) | changed
    (run / "scores.json").write_text(json.dumps(scores))
    figure = draw_comparison(pool(read_runs([run])[0]))
    assert not any(line.get_marker() == "x" for line in figure.axes[0].lines)


def test_the_figure_tells_experiments_of_one_name_apart(write_run: WriteRun) -> None:
    runs = [write_run(Path(f"of{n}", "d8", "version_0"), 0.9, hidden=(n,)) for n in (8, 16)]
    for run in runs:
        scores = json.loads((run / "scores.json").read_text()) | {"name": "d8"}
        (run / "scores.json").write_text(json.dumps(scores))
    figure = draw_comparison(pool(read_runs(runs)[0]))
    labels = {label.get_text() for label in figure.axes[0].get_yticklabels()}
    assert labels == {f"d8, split photo, dense [{n}], lr 1e-05" for n in (8, 16)}
    same = draw_comparison([pool(read_runs(runs[:1])[0])[0]] * 2)
    labels = {label.get_text() for label in same.axes[0].get_yticklabels()}
    assert labels == {f"d8, split photo, dense [8], lr 1e-05 ({n})" for n in (1, 2)}


def test_unfinished_and_foreign_folders_are_listed(
    write_run: WriteRun,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs = tmp_path / "lightning_logs"
    write_run(logs / "good" / "version_0", 0.9)
    (write_run(logs / "good" / "version_1", 0.9) / "scores.json").unlink()
    (write_run(logs / "good" / "version_2", 0.9) / "scores.json").write_text('{"name": 1}')
    (write_run(logs / "good" / "version_3", 0.9) / "predictions.csv").write_text("a,b\n1\n")
    (logs / "good" / "version_4").mkdir()
    for version in ("version_1", "version_2"):
        (logs / "good" / version / "checkpoints").mkdir(exist_ok=True)
        (logs / "good" / version / "checkpoints" / "last.ckpt").touch()
    (logs / "good" / "version_4" / "config.yaml").write_text("a: [")
    main(["compare"])
    said = capsys.readouterr().out
    assert "version_1, unfinished: it has no scores.json" in said
    assert "version_2, not in bloodcell's format" in said
    assert "version_3, not in bloodcell's format" in said
    assert "version_4, unfinished" in said
    assert "bloodcell fit --ckpt_path lightning_logs/good/version_1\n" in said
    assert said.count("continue it: ") == 1


def test_nothing_to_compare(refused: Refused, tmp_path: Path) -> None:
    assert "lightning_logs is not a folder" in refused("compare")
    (tmp_path / "empty").mkdir()
    assert "no finished run" in refused("compare", "empty")
    assert "--out=table.txt cannot be used: it must be a file ending in .csv, .md, .png" in refused(
        "compare", "empty", "--out", "table.txt"
    )
    assert "compare takes --out (got: --best)" in refused("compare", "--best")


_COMPARE = """
import sys
from bloodcell.cli.main import main
from bloodcell.evaluate.experiments import pool
from bloodcell.evaluate.runs import find_runs, read_runs
from bloodcell.evaluate.figures.comparison import draw_comparison
main(["compare"])
print("torch" in sys.modules)
"""


def test_torch_is_not_needed(write_run: WriteRun, tmp_path: Path) -> None:
    write_run(tmp_path / "lightning_logs" / "one" / "version_0", 0.9)
    command = [sys.executable, "-c", _COMPARE]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "False"


def test_what_does_not_change_the_training_does_not_divide_an_experiment(
    write_run: WriteRun, tmp_path: Path
) -> None:
    for seed, trainer in enumerate(({"default_root_dir": "."}, {"default_root_dir": "/runs"}, {})):
        folder = write_run(tmp_path / "one" / f"version_{seed}", 0.9, seed)
        settings = yaml.safe_load((folder / "config.yaml").read_text())
        (folder / "config.yaml").write_text(yaml.safe_dump(settings | {"trainer": trainer}))
    (found,) = pool(read_runs(find_runs(["one"]))[0])
    assert found.seeds == 3


def test_runs_chosen_by_other_metrics_are_other_experiments(
    write_run: WriteRun, tmp_path: Path
) -> None:
    for seed, monitor in enumerate(("val/loss", "val/f1", None)):
        folder = write_run(tmp_path / "one" / f"version_{seed}", 0.9, seed)
        scores = json.loads((folder / "scores.json").read_text())
        (folder / "scores.json").write_text(json.dumps(scores | {"monitor": monitor}))
        if monitor is None:  # as the first runs
            (folder / "scores.json").write_text(json.dumps(scores))
    assert sorted(one.seeds for one in pool(read_runs(find_runs(["one"]))[0])) == [1, 2]


def test_linked_runs_are_found_once(write_run: WriteRun, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "elsewhere" / "d8" / "version_0", 0.9)
    (tmp_path / "lightning_logs").mkdir()
    (tmp_path / "lightning_logs" / "d8").symlink_to(folder.parent)
    assert find_runs([]) == [Path("lightning_logs/d8/version_0")]
    assert find_runs(["lightning_logs", str(folder)]) == [Path("lightning_logs/d8/version_0")]


def test_a_run_without_a_needed_value_is_left_out(write_run: WriteRun, tmp_path: Path) -> None:
    for name, key in (("old", "test_photos_also_in_training"), ("odd", "photos")):
        folder = write_run(tmp_path / "runs" / name / "version_0", 0.9)
        scores = json.loads((folder / "scores.json").read_text())
        del scores[key]
        (folder / "scores.json").write_text(json.dumps(scores))
    empty = write_run(tmp_path / "runs" / "empty" / "version_0", 0.9) / "predictions.csv"
    empty.write_text(empty.read_text().splitlines()[0] + "\n")
    runs, left_out = read_runs(find_runs(["runs"]))
    assert runs == []
    assert sorted(why.partition("(")[2] for why in left_out.values()) == [
        "KeyError: 'photos')",
        "KeyError: 'test_photos_also_in_training')",
        "ValueError: predictions.csv is empty)",
    ]


@pytest.mark.parametrize("width", [70, 200])
def test_no_number_is_cut_on_a_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(width))
    headings = ["experiment", *"abcdefgh"]
    print_wide(headings, [["d8[lr=1e-4]", *["0.9827"] * 8]], "with [bold] words", "table [x]")
    said = re.sub("\x1b[^m]*m", "", capsys.readouterr().out)
    assert said.count("0.9827") == 8
    for text in ("d8[lr=1e-4]", "with [bold] words", "table [x]"):
        assert text in said
    assert max(map(len, said.splitlines())) <= width


def test_a_bar_in_a_name_stays_in_its_cell() -> None:
    lines = as_markdown(["name"], [["blast|atypical"]], "").splitlines()
    assert lines[2] == "| blast\\|atypical |"
