"""Wrong arguments and inputs of the scripts: each ends with a sentence."""

import ast
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
        (
            "show_composed.py x.png --pbc picture.csv",
            "An archive cannot be read (File",
        ),
        ("soak.py none", "none: no such file or folder"),
        ("soak.py images --minutes 0", "0 must be a number over 0"),
        ("scale.py many", "many must be a whole number, 1 or more"),
        ("fuzz.py --cases -1", "-1 must be a whole number, 1 or more"),
        ("first_hour.py --limit -1", "-1 must be a number over 0"),
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


@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("*.py")), ids=lambda path: path.name)
def test_each_argument_has_a_help_text(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    added = [one for one in calls if getattr(one.func, "attr", "") == "add_argument"]
    without = [ast.unparse(one) for one in added if "help" not in {k.arg for k in one.keywords}]
    assert not without
