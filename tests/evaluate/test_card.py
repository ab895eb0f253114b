import hashlib
import json
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from bloodcell.evaluate.card import make_card, write_card
from bloodcell.model.checkpoint import read_checkpoint
from bloodcell.model.description import Description


def test_the_card_gives_the_figures_of_the_run_folder(run: Path) -> None:
    card = (run / "MODEL_CARD.md").read_text()
    scores = json.loads((run / "scores.json").read_text())
    assert card.startswith("# Model card: asked\n")
    accuracy = scores["test"]["by_photo"]["balanced_accuracy"]
    cell = f"{accuracy['value']:.4f} [{accuracy['low']:.3f}, {accuracy['high']:.3f}] |\n| macro F1"
    assert cell in card
    auc = scores["test"]["by_file"]["class_auc"]["MONOCYTE"]
    assert f"| {auc['value']:.4f} [{auc['low']:.3f}, {auc['high']:.3f}] |\n| NEUTROPHIL" in card
    for part, name in (("train", "train"), ("val", "validation"), ("test", "test")):
        assert f"| {name} | {scores['files'][part]} | {scores['photos'][part]} |" in card
    assert "diagnosis, or any decision about a patient" in card
    assert f"fingerprint: {scores['data_fingerprint']}" in card
    assert f"torch {scores['machine']['versions']['torch']}" in card
    assert "model.lr 0.001" in card
    digest = hashlib.sha256((run / "checkpoints" / "best.ckpt").read_bytes()).hexdigest()
    assert card.endswith(f"SHA-256 of `best.ckpt`: {digest}\n")
    assert "\n\n\n" not in card


def test_memory_and_drawings_are_named(run: Path) -> None:
    scores = json.loads((run / "scores.json").read_text())
    model = run / "checkpoints" / "best.ckpt"
    checkpoint = read_checkpoint("", model)

    def card(**changed: object) -> str:
        return str(make_card(Description.from_checkpoint(checkpoint, "m", scores | changed), model))

    assert "its scores measure memorisation" not in card()
    for key in ("calibration", "gallery", "baseline", "parameters", "photos"):
        said = card(drawn=True, **{key: {}})
        assert "there was no complete `scores.json`" in said, "of another version"
        assert "DRAWN smears only" in said
    assert "its scores measure memorisation" in card(test_photos_also_in_training=20)
    assert "DRAWN smears only" in card(drawn=True)
    several = scores["test"] | {"by_dataset": {"drawn": scores["test"]}}
    assert "one of its data sets is DRAWN smears" in card(drawn=True, test=several)
    assert "PARTIAL: 7 test files were not scored" in card(test_files_not_scored=7)
    limited = {"used": 640, "files": 7881, "setting": "trainer.overfit_batches"}
    said = "PARTIAL: each epoch trained on 640 of 7,881 training files (trainer.overfit_batches)"
    assert f"\n- {said}\n" in card(limited_training=limited)
    assert "PARTIAL" not in card()
    assert "\n- pbc: A. Acevedo et al." in card(datasets=["my_cells", "pbc"])
    assert "my_cells" not in card(datasets=["my_cells", "pbc"])
    assert "unreadable files left out: 3" in card(unreadable_files_left_out=3)


def test_without_scores_the_card_names_the_missing_file(run: Path) -> None:
    model = run / "checkpoints" / "best.ckpt"
    bare = Description.from_checkpoint(read_checkpoint("", model), "m", {})
    card = make_card(bare, model)
    assert "Unknown: there was no complete `scores.json` beside the model." in card.text
    assert "diagnosis" in card.text
    write_card(Path("card.md"), bare, model)
    assert Path("card.md").read_text() == f"{card.text}\n"


def test_the_hub_reads_the_metadata(run: Path) -> None:
    model = run / "checkpoints" / "best.ckpt"
    bare = Description.from_checkpoint(read_checkpoint("", model), "m", {})
    card = ModelCard(str(make_card(bare, model, usage="load it so")))
    metadata: Any = card.data
    assert metadata.to_dict() == {
        "license": "apache-2.0",
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "timm", "transformers", "blood-cells"],
    }
    assert "## How to use it\n\nload it so\n\n## Not for" in card.text
