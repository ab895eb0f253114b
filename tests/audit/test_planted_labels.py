"""The measurement of `audit --labels` with wrong labels, as `scripts/planted_labels.py` does it."""

import csv
import runpy
import sys
from pathlib import Path

import pytest

from bloodcell.data.source import open_source
from bloodcell.data.table import build_table

SCRIPT = Path(__file__).parents[2] / "scripts" / "planted_labels.py"


def called(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words])
    monkeypatch.syspath_prepend(str(SCRIPT.parent))  # as Python does for a script
    runpy.run_path(str(SCRIPT), run_name="__main__")
    return capsys.readouterr().out


def test_wrong_labels_are_planted_and_counted(
    smears: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = called(monkeypatch, capsys, str(smears), "--share", "0.2", "--write", "planted.csv")
    planted = int(said.split()[1])
    with Path("planted.csv").open(newline="") as file:
        labels = {line["file"]: line["class"] for line in csv.DictReader(file)}
    wrong = {name for name, label in labels.items() if f"/{label}/" not in f"/{name}"}
    assert 0 < planted <= len(wrong) < len(labels)
    rows = build_table(open_source(str(smears))).rows
    photos = sorted({row.photo for row in rows if row.path in wrong})
    others = sorted({row.photo for row in rows} - set(photos))
    first = round(0.1 * len(photos + others))
    for order, found in ((photos + others, min(planted, first)), (others + photos, 0)):
        Path("doubts.csv").write_text("\n".join(["photo", *order]))
        said = called(monkeypatch, capsys, str(smears), "--share", "0.2", "--count", "doubts.csv")
        assert said.startswith(f"{found} of {planted} wrong labels")
