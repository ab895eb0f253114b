"""The model card: description, scores and limits of a model.

After Mitchell et al., "Model cards for model reporting" (FAT* 2019). Every figure comes from
`scores.json` or from the checkpoint; `card.md.jinja` contains the text.
"""

import hashlib
from functools import partial
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData
from jinja2 import UndefinedError

from bloodcell.datasets.named import named_datasets
from bloodcell.evaluate.metrics import CLASSWISE, Estimate
from bloodcell.files import write_whole
from bloodcell.model.description import Description
from bloodcell.text import clock

CARD = "MODEL_CARD.md"
_TEMPLATE = Path(__file__).with_name("card.md.jinja")
_METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "auc": "mean AUC",
    "log_loss": "log loss",
    "brier": "Brier score",
    "ece": "expected calibration error",
}
_SHOWN = {"none": "resized to", "cell": "cropped to a square around the white cell and resized to"}
_BALANCED = ", with their clear slide balanced to light grey"
_POOLS = {"avg": "average pooling", "flatten": "flattened feature map"}
_WARNINGS = ("drawn", "test_photos_also_in_training")
_UNITS = {"by_file": "by file", "by_photo": "by photograph"}


def write_card(path: Path, description: Description, model: Path, remark: str = "") -> None:
    """Writes a model card without the metadata of the Hugging Face Hub.

    Args:
        path: the card's file, which is replaced if it exists.
        description: the model, with its scores.
        model: the model's file; the card gives its digest.
        remark: how this file differs from the model that was scored.
    """
    card = make_card(description, model, remark)
    with write_whole(path) as file:
        file.write(f"{card.text}\n")


def make_card(
    description: Description, model: Path, remark: str = "", usage: str = ""
) -> ModelCard:
    """Fills the template.

    Args:
        description: the model, with its scores.
        model: the model's file; the card gives its digest.
        remark: how this file differs from the model that was scored.
        usage: Markdown that shows how to load this file.

    Returns:
        The card: `text` is Markdown, `str(card)` begins with the metadata that the Hugging Face Hub
        reads.
    """
    metadata = ModelCardData(
        license="apache-2.0",
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["image-classification", "timm", "transformers", "blood-cells"],
    )
    fill = partial(
        ModelCard.from_template,
        metadata,
        template_path=str(_TEMPLATE),
        model=description,
        shown=_SHOWN[description.crop],
        balanced=_BALANCED if description.recipe.get("white_balance") else "",
        pool=_POOLS[description.pool],
        remark=remark,
        usage=usage,
        file_name=model.name,
        digest=hashlib.sha256(model.read_bytes()).hexdigest(),
        metrics=_METRICS,
        classwise=CLASSWISE,
        units=_UNITS,
        estimate=_estimate,
        clock=clock,
        credits={name: one.credit for name, one in named_datasets().items()},
    )
    try:
        card: ModelCard = fill(scores=description.scores, complete=bool(description.scores))
    except (UndefinedError, LookupError, TypeError, ValueError):  # of another version, or edited
        warnings = {key: description.scores.get(key) for key in _WARNINGS}
        card = fill(scores=warnings, complete=False)
    return card


def _estimate(found: dict[str, float | None]) -> str:
    value, low, high = (found[key] for key in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return "-"
    return str(Estimate(value, low, high))
