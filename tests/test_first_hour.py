"""The script for a new GPU, on a CPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "first_hour.py"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks")


def first_hour(*words: str) -> tuple[int, list[str]]:
    """Returns the exit status and the lines of the table."""
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--quick", "--out", "log", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def test_a_dry_run_is_right() -> None:
    status, (_, *lines, wrong, left, _) = first_hour()
    assert (status, wrong, left) == (0, "wrong: none", "not run, or too slow: none")
    assert len(lines) == 11
    for line in lines:
        assert re.fullmatch(r"[\w, -]{23} right +[1-9][\d,]* +0\.00 +\d+", line), line
    assert "stopping after this step" in Path("log").read_text()


def test_the_error_of_a_row_is_told_in_its_line() -> None:
    status, (_, *lines, wrong, _, end) = first_hour("--only", "16", "--model.backbone", "nonsense")
    assert status == 1
    assert [" WRONG " in line for line in lines] == [True, True, True]
    assert "exit status 2: bloodcell: model.backbone='nonsense' is not a timm model" in lines[0]
    assert (wrong, end) == ("wrong: 32-true, 16-mixed, bf16-mixed", "log: log")
