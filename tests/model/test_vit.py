"""A transformer without a feature map: trained, used, and refused where a map is needed."""

from collections.abc import Callable
from pathlib import Path

from bloodcell.cli.main import main
from bloodcell.infer.loaded import load


def test_a_transformer_is_trained_and_used(
    smears: Path, words: list[str], refused: Callable[..., str]
) -> None:
    words[words.index("--model.backbone") + 1] = "test_vit"
    words[words.index("--data.image_size") + 1] = "160"
    command = ["fit", "--name", "vit", *words, "--model.pool", "avg", "--model.hidden", "[]"]
    main([*command, "--trainer.max_epochs", "1", "--trainer.precision", "32-true"])
    run = "lightning_logs/vit/version_0"
    picture = str(next(smears.rglob("*.jpeg")))
    (answer,) = load(run, "cpu").predict(picture)
    assert answer.probability is not None
    assert len(answer.probability) == 4
    said = refused("explain", picture, "--model", run)
    assert (
        "--model=test_vit cannot be used: it must be a model whose trunk outputs a feature map"
        in said
    )
