"""The cost of a large data set, as `scripts/scale.py` measures it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "scale.py"


def measured(tmp_path: Path, count: int) -> dict[str, float]:
    """Returns the numbers of the printed table, in MB and seconds, by the names of its rows."""
    command = [sys.executable, str(SCRIPT), str(count), "--folder", str(tmp_path / "scaled")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [
        line.split("|")[1:3] for line in done.stdout.splitlines() if line.endswith(("MB |", "s |"))
    ]
    return {name.strip(): float(value.split()[0].replace(",", "")) for name, value in lines}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory from /proc")
def test_a_hundred_thousand_images(tmp_path: Path) -> None:
    found = measured(tmp_path, 100_000)
    assert found["best.ckpt"] < 1.2 * (found["network and optimizer in it"] + 30 * 0.1)
    assert found["end of fit, memory"] < 1_000, "the full matrix of distances took 10,000"
    assert found["splits, memory"] < 300
