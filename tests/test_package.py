"""The wheel: what a user gets without the repository."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bloodcell.cli import configs
from bloodcell.model.bundled import FILE_NAME

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*build, str(PROJECT)], check=True, capture_output=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def test_the_wheel_brings_configs_and_photo_table_and_no_more(wheel: Path) -> None:
    shipped = {path.name for path in (wheel / "bloodcell" / "configs").iterdir()}
    assert shipped == {path.name for path in configs.SHIPPED.iterdir()}
    assert (wheel / "bloodcell" / "datasets" / "kaggle_photos.csv.xz").is_file()
    assert (wheel / "bloodcell" / "bundled" / FILE_NAME).is_file()
    assert {path.name.partition("-")[0] for path in wheel.iterdir()} == {"bloodcell"}


def test_the_wheel_runs_a_published_config_offline(wheel: Path, smears: Path) -> None:
    """Nothing but the installed files, without the hub's weights."""
    command = f"fit --config d8.yaml --data.root {smears}/images --trainer.fast_dev_run true"
    environment = os.environ | {"PYTHONPATH": str(wheel), "HF_ENDPOINT": "http://127.0.0.1:1"}
    done = subprocess.run(
        [sys.executable, "-m", "bloodcell", *command.split(), "--trainer.accelerator", "cpu"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "'mobilenetv1_100' could not be downloaded" in done.stdout
    assert "fast_dev_run continues with random weights." in done.stdout
    assert "fast_dev_run: train and validation ran; nothing was written." in done.stdout
