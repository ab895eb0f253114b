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


def is_right(lines: list[str]) -> bool:
    """Returns whether every row is right, with a speed."""
    return all(re.fullmatch(r"[\w, -]{23} right +[1-9][\d,]* +0\.00 +\d+", one) for one in lines)


def test_a_stopped_run_equals_another() -> None:
    status, (_, *lines, wrong, left, _) = first_hour("--only", "stopped")
    assert (status, wrong, left) == (0, "wrong: none", "not run, or too slow: none")
    assert len(lines) == 2
    assert is_right(lines)
    assert "stopping after this step" in Path("log").read_text()


@pytest.mark.slow
def test_a_dry_run_is_right() -> None:
    status, (_, *lines, wrong, left, _) = first_hour()
    assert (status, wrong, left) == (0, "wrong: none", "not run, or too slow: none")
    assert len(lines) == 11
    assert is_right(lines)


def test_the_error_of_a_row_is_told_in_its_line() -> None:
    status, (_, *lines, wrong, _, end) = first_hour("--only", "32", "--model.backbone", "nonsense")
    assert status == 1
    assert [" WRONG " in line for line in lines] == [True]
    assert "exit status 2: bloodcell: model.backbone='nonsense' is not a timm model" in lines[0]
    assert (wrong, end) == ("wrong: 32-true", "log: log")
