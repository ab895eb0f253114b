import json
from pathlib import Path

import pytest
import torch

from bloodcell.cli.main import main
from bloodcell.train.calibrate import balance


def test_of_too_many_photographs_each_class_gives_as_many() -> None:
    labels = torch.tensor([0] * 2_500 + [1] * 400 + [2] * 100)
    chosen = balance(labels, 1_800)
    assert labels[chosen].bincount().tolist() == [1_300, 400, 100]
    assert chosen[labels[chosen] == 0].tolist() == list(range(1_300)), "the first ones"
    assert balance(labels, 9_000).sort().values.tolist() == list(range(3_000))


def test_gallery_and_baseline_of_a_large_set_are_samples(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The limits are lowered, and what they leave out is said wherever a number is shown."""
    monkeypatch.setattr("bloodcell.train.calibrate.MOST", 9)
    monkeypatch.setattr("bloodcell.train.finish.MOST", 11)
    main(["fit", *words, "--trainer.max_epochs", "1", "--name", "large"])
    said = capsys.readouterr().out
    run = Path("lightning_logs/large/version_0")
    scores = json.loads((run / "scores.json").read_text())
    photographs, files = scores["photos"]["train"], scores["files"]["train"]
    assert f"9 of the {photographs} training photographs, balanced over the classes" in said
    assert f"compared with 11 of the {files} training images" in said
    assert scores["gallery"]["photographs"] == 9
    card = (run / "MODEL_CARD.md").read_text()
    assert "1-nearest-neighbour baseline on colour histograms (11 training images)" in card
    assert f"9 of the {photographs} training photographs are stored" in card
    gallery = torch.load(run / "checkpoints/best.ckpt", weights_only=True)["gallery"]
    assert sorted(gallery["labels"].bincount().tolist()) == [2, 2, 2, 3]
    assert len(set(gallery["files"])) == len(gallery["features"]) == 9
    assert gallery["files"] == sorted(gallery["files"])
