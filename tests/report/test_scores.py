import math
import sys
from pathlib import Path

import numpy as np
import pytest

from bloodcell.report.history import Epoch, best, read_history
from bloodcell.report.scores import (
    Predictions,
    accuracy_by_file,
    accuracy_by_photo,
    read_predictions,
    write_predictions,
)
from bloodcell.report.summary import clock, command


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
    assert accuracy_by_file(said) == 2 / 5
    assert accuracy_by_photo(said) == (2 / 3, 3)


def test_predictions_survive_the_file(said: Predictions, tmp_path: Path) -> None:
    write_predictions(tmp_path, said)
    back = read_predictions(tmp_path)
    np.testing.assert_array_equal(back.true, said.true)
    np.testing.assert_allclose(back.probability, said.probability, rtol=1e-5)
    assert (back.file, back.photo, back.class_names) == (said.file, said.photo, said.class_names)
    assert [p.name for p in tmp_path.iterdir()] == ["predictions.csv"]


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
