"""Comparison of run folders that are written here, with known truth."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from bloodcell.__main__ import main
from bloodcell.report.scores import Predictions, write_predictions

Refused = Callable[..., str]
CLASSES = ["a", "b", "c", "d"]


def write_run(
    folder: Path, right: float, seed: int = 0, hidden: tuple[int, ...] = (8,), photos: int = 80
) -> Path:
    """A run that is right about this share of the photographs, three files of each."""
    folder.mkdir(parents=True)
    photo = np.repeat(np.arange(photos), 3)
    true = photo % 4
    wrong = np.random.default_rng(seed).permutation(photos)[: round((1 - right) * photos)]
    said = np.where(np.isin(photo, wrong), (true + 1) % 4, true)
    n = len(photo)
    write_predictions(
        folder,
        Predictions(
            ["test"] * n,
            [f"{i}.png" for i in range(n)],
            [f"p{i}" for i in photo],
            true,
            np.eye(4, dtype=np.float32)[said] * 0.9 + 0.025,
            CLASSES,
        ),
    )
    scores = {
        "name": folder.parent.name,
        "split": "photo",
        "parameters": 1234567,
        "learning_time_seconds": 61.0,
        "data_fingerprint": "f",
        "test": {"accuracy": float((said == true).mean())},
    }
    (folder / "scores.json").write_text(json.dumps(scores))
    settings = {"seed_everything": seed, "model": {"hidden": list(hidden), "lr": 1e-5}, "data": {}}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_seeds_are_pooled_and_the_best_comes_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
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
    assert rows[0]["test accuracy"] == "0.9000"
    assert rows[0]["balanced, by photograph"].startswith("0.9000 [0.8")
    assert (rows[0]["parameters"], rows[0]["learning time"]) == ("1,234,567", "0:01:01")
    assert "good" in capsys.readouterr().out


def test_other_photographs_are_not_compared(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one" / "version_0", 0.9)
    other = write_run(tmp_path / "other" / "version_0", 0.3, photos=60)
    main(["compare", str(one), str(other), "--out=two.csv"])
    assert [row["best"] for row in table(Path("two.csv"))] == ["a", "-"]


def test_markdown(tmp_path: Path) -> None:
    main(["compare", str(write_run(tmp_path / "one" / "version_0", 0.9)), "--out", "table.md"])
    lines = Path("table.md").read_text().splitlines()
    assert lines[0].count("|") == lines[1].count("|") == lines[2].count("|") == 12
    assert lines[2].startswith("| one | photo | 1 | 8 | 1e-05 |")


def test_unfinished_and_foreign_folders_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = tmp_path / "lightning_logs"
    write_run(logs / "good" / "version_0", 0.9)
    (write_run(logs / "good" / "version_1", 0.9) / "scores.json").unlink()
    (write_run(logs / "good" / "version_2", 0.9) / "scores.json").write_text('{"name": 1}')
    (write_run(logs / "good" / "version_3", 0.9) / "predictions.csv").write_text("a,b\n1\n")
    (logs / "good" / "version_4").mkdir()
    (logs / "good" / "version_4" / "config.yaml").write_text("a: [")
    main(["compare"])
    said = capsys.readouterr().out
    assert "version_1, unfinished: it has no scores.json" in said
    assert "version_2, not as bloodcell writes it" in said
    assert "version_3, not as bloodcell writes it" in said
    assert "version_4, unfinished" in said


def test_nothing_to_compare(refused: Refused, tmp_path: Path) -> None:
    assert "lightning_logs is no folder" in refused("compare")
    (tmp_path / "empty").mkdir()
    assert "no finished run" in refused("compare", "empty")
    assert "must end in .csv or .md" in refused("compare", "empty", "--out", "table.txt")
    assert "compare takes --out (got: --best)" in refused("compare", "--best")


_COMPARE = """
import sys
from bloodcell.__main__ import main
main(["compare"])
print("torch" in sys.modules)
"""


def test_torch_is_not_needed(tmp_path: Path) -> None:
    write_run(tmp_path / "lightning_logs" / "one" / "version_0", 0.9)
    command = [sys.executable, "-c", _COMPARE]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "False"
