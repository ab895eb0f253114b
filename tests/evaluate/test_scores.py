import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from bloodcell.evaluate.history import Epoch, best, read_history
from bloodcell.evaluate.scores import (
    Predictions,
    read_predictions,
    score,
    write_predictions,
)
from bloodcell.text import clock, command


@pytest.fixture
def said() -> Predictions:
    """Photograph p: wrong on two files of three, right on average. q: wrong. r: right."""
    probability = [[0.9, 0.1], [0.4, 0.6], [0.45, 0.55], [0.8, 0.2], [0.3, 0.7]]
    return Predictions(
        ["test"] * 5,
        ["a/0, 1.png", "a/1.png", 'a/"2".png', "b/3.png", "b/4.png"],
        ["p", "p", "p", "q", "r"],
        np.array([0, 0, 0, 1, 1]),
        np.array(probability, np.float32),
        ["a", "b"],
    )


def test_accuracy_by_file_and_by_photograph(said: Predictions) -> None:
    found = score(said)
    assert found["by_file"]["accuracy"]["value"] == 2 / 5
    assert found["by_photo"]["accuracy"]["value"] == 2 / 3
    assert (found["by_file"]["n"], found["by_photo"]["n"]) == (5, 3)
    assert found["by_photo"]["recall"]["a"]["value"] == 1
    assert found["by_photo"]["recall"]["b"] == {"value": 0.5, "low": 0.0, "high": 1.0}
    independent = found["by_file"]["accuracy_if_files_were_independent"]
    assert 0 < independent["low"] < 2 / 5 < independent["high"] < 1


def test_what_cannot_be_computed_is_null(said: Predictions) -> None:
    """With one class only, as of a test cut short, there is no AUC."""
    only = Predictions(
        said.split[:3],
        said.file[:3],
        said.photo[:3],
        said.true[:3],
        said.probability[:3],
        said.class_names,
    )
    found = score(only)
    assert found["by_file"]["class_auc"]["a"] == {"value": None, "low": None, "high": None}
    json.dumps(found, allow_nan=False)


def test_predictions_survive_the_file(said: Predictions, tmp_path: Path) -> None:
    write_predictions(tmp_path, said)
    back = read_predictions(tmp_path)
    np.testing.assert_array_equal(back.true, said.true)
    np.testing.assert_allclose(back.probability, said.probability, rtol=1e-5)
    assert (back.file, back.photo, back.class_names) == (said.file, said.photo, said.class_names)
    assert [p.name for p in tmp_path.iterdir()] == ["predictions.csv"]


def test_names_in_another_encoding_survive_the_file(said: Predictions, tmp_path: Path) -> None:
    names = [f"{name}\udce9" for name in said.file]
    write_predictions(tmp_path, said._replace(file=names))
    assert read_predictions(tmp_path).file == names


def test_the_best_epoch_is_the_first_of_the_lowest(tmp_path: Path) -> None:
    losses = [math.nan, 3.0, 1.0, math.nan, 2.0, 1.0]
    history = [Epoch(i, 0, 0, loss, 0, 0, 0, 0) for i, loss in enumerate(losses)]
    assert best(history).epoch == 2
    assert read_history(tmp_path / "none.csv") == []


def test_clock() -> None:
    assert [clock(s) for s in (0.4, 61, 3600 * 2 + 59.6)] == ["0:00:00", "0:01:01", "2:01:00"]


def test_what_to_type_works_without_activating(monkeypatch: pytest.MonkeyPatch) -> None:
    beside = Path(sys.executable).with_name("bloodcell")
    monkeypatch.setenv("PATH", "/nowhere")
    assert command("bloodcell", "test", "a b") == f"{beside} test 'a b'"
    monkeypatch.chdir(beside.parents[1])
    assert command("bloodcell", "test") == f"{beside.parent.name}/bloodcell test"
    monkeypatch.setenv("PATH", str(beside.parent))
    assert command("bloodcell", "test") == "bloodcell test"
    assert command("nothing") == "nothing"
