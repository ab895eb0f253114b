"""Wrong arguments and inputs of the scripts: each ends with a sentence."""

import runpy
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("roofline.py 0", "0 must be a whole number, 1 or more"),
        ("benchmark_peers.py --seconds nan", "nan must be a number over 0"),
        ("benchmark_peers.py --seconds soon", "soon must be a number over 0"),
        ("benchmark_peers.py --out none/x.json", "none/x.json must be a file in a folder that"),
        ("alive_units.py images none", "none: no such file or folder"),
        ("alive_units.py images .", "--model .: no checkpoint there"),
        ("record.py seeds .", "predictions.csv cannot be used"),
        ("record.py seeds none.zip", "none.zip: no such file or folder"),
        ("count_drawn_slide.py --count other.csv", "other.csv has no column unlike"),
        ("count_drawn_slide.py --count picture.csv", "picture.csv is not a .csv file"),
        ("planted_labels.py none --write x.csv", "data.root='none' does not exist"),
    ],
)
def test_what_a_script_cannot_use(
    words: str,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("other.csv").write_text("file,class\na.png,monocyte\n")
    Path("picture.csv").write_bytes(b"\x89PNG")
    name, *rest = words.split()
    monkeypatch.setattr(sys, "argv", [name, *rest])
    monkeypatch.syspath_prepend(str(SCRIPTS))  # as Python does for a script
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(SCRIPTS / name), run_name="__main__")
    said = f"{stopped.value.code} {capsys.readouterr().err}"  # argparse prints, others raise it
    assert sentence in said
