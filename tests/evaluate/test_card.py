import hashlib
import json
from pathlib import Path

from bloodcell.evaluate.card import make_card
from bloodcell.model.checkpoint import read_checkpoint
from bloodcell.model.description import Description


def test_the_card_says_what_the_run_folder_says(run: Path) -> None:
    card = (run / "MODEL_CARD.md").read_text()
    scores = json.loads((run / "scores.json").read_text())
    assert card.startswith("# Model card: asked\n")
    accuracy = scores["test"]["by_photo"]["balanced_accuracy"]
    said = f"{accuracy['value']:.4f} [{accuracy['low']:.3f}, {accuracy['high']:.3f}] |\n| macro F1"
    assert said in card
    auc = scores["test"]["by_file"]["class_auc"]["MONOCYTE"]
    assert f"| {auc['value']:.4f} [{auc['low']:.3f}, {auc['high']:.3f}] |\n| NEUTROPHIL" in card
    for part, name in (("train", "train"), ("val", "validation"), ("test", "test")):
        assert f"| {name} | {scores['files'][part]} | {scores['photos'][part]} |" in card
    assert "diagnosis, or any decision about a patient" in card
    assert f"fingerprint: {scores['data_fingerprint']}" in card
    assert f"torch {scores['machine']['versions']['torch']}" in card
    assert "model.lr 0.001" in card
    digest = hashlib.sha256((run / "checkpoints" / "best.ckpt").read_bytes()).hexdigest()
    assert f"SHA-256 of `best.ckpt`: {digest}" in card


def test_memory_and_drawings_are_named(run: Path) -> None:
    scores = json.loads((run / "scores.json").read_text())
    checkpoint = read_checkpoint("", run / "checkpoints" / "best.ckpt")

    def card(**changed: object) -> str:
        return make_card(
            Description.from_checkpoint(checkpoint, "m", scores | changed), "m.ckpt", "0"
        )

    assert "its scores measure memory" not in card()
    assert "its scores measure memory" in card(test_photos_also_in_training=20)
    assert "DRAWN smears only" in card(drawn=True)
    assert "PARTIAL: 7 test files were not scored" in card(test_files_not_scored=7)
    assert "unreadable files left out: 3" in card(unreadable_files_left_out=3)


def test_without_scores_it_says_so(run: Path) -> None:
    checkpoint = read_checkpoint("", run / "checkpoints" / "best.ckpt")
    bare = Description.from_checkpoint(checkpoint, "m", {})
    card = make_card(bare, "m.ckpt", "0")
    assert "Not known: no `scores.json` lay beside the model." in card
    assert "diagnosis" in card
