"""The model card: what a model is, what it scored and what it is not for, as the run folder says.

After Mitchell et al., "Model cards for model reporting" (FAT* 2019). Nothing in it is judged anew:
each line is a figure of `scores.json` or of the checkpoint.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bloodcell.evaluate.metrics import CLASSWISE, Estimate
from bloodcell.files import write_whole
from bloodcell.model.description import Description
from bloodcell.text import clock

CARD = "MODEL_CARD.md"
_METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "auc": "mean AUC",
    "log_loss": "log loss",
    "brier": "Brier score",
    "ece": "expected calibration error",
}
_SHOWN = {"none": "squeezed to", "cell": "cut around the white cell and shown in"}
_BY = {"by_file": "by file", "by_photo": "by photograph"}


def write_card(path: Path, description: Description, model: Path, remark: str = "") -> None:
    """Writes a model card.

    Args:
        path: where it will lie; what lies there is replaced.
        description: what the model is, with its scores.
        model: its file, whose digest the card gives.
        remark: what sets this file apart from the model that was scored.
    """
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    with write_whole(path) as file:
        file.write(make_card(description, model.name, digest, remark))


def make_card(description: Description, file_name: str, digest: str, remark: str = "") -> str:
    """The text of a model card, in Markdown.

    Args:
        description: what the model is, with its scores.
        file_name: of the model.
        digest: SHA-256 of that file.
        remark: what sets this file apart from the model that was scored.
    """
    scores = description.scores
    sections = [_head(description), _not_for(description)]
    if scores:
        sections += [_data(scores), _scores(scores, remark), *_by_class(description)]
    else:
        sections.append(["## Scores", "", "Not known: no `scores.json` lay beside the model."])
    sections.append(_made(description, file_name, digest))
    return "\n\n".join("\n".join(lines) for lines in sections) + "\n"


def _head(of: Description) -> list[str]:
    parameters = f", {of.scores['parameters']:,} parameters" if of.scores else ""
    head = f"dense {of.hidden}" if of.hidden else "a linear head"
    calibrated = f", calibrated with temperature {of.temperature:.3g}" if of.temperature else ""
    return [
        f"# Model card: {of.name}",
        "",
        f"Tells {', '.join(of.class_names)} apart in photographs {_SHOWN[of.crop]} "
        f"{of.image_size} x {of.image_size} pixels.",
        "",
        f"- network: {of.backbone} (weights at the start: {of.recipe['source']}), {of.pool}, "
        f"{head}{parameters}",
        f"- answers: a probability for each class{calibrated}",
        "- licence: Apache-2.0",
    ]


def _not_for(of: Description) -> list[str]:
    lines = [
        "## Not for",
        "",
        "- diagnosis, or any decision about a patient",
        f"- images of other things: each is given one of its {len(of.class_names)} classes",
        "- images of other microscopes, cameras or stains than those of its data: not tested",
    ]
    if of.scores.get("drawn"):
        lines.append("- photographs of any kind: it was trained and tested on DRAWN smears only")
    if of.scores.get("test_photos_also_in_training"):
        lines.append("- a comparison of skill: its scores measure memory (see Data)")
    return lines


def _data(scores: dict[str, Any]) -> list[str]:
    shared, tested = scores["test_photos_also_in_training"], scores["photos"]["test"]
    lines = ["## Data", "", "| part | files | photographs |", "| --- | --- | --- |"]
    for part, name in {"train": "train", "val": "validation", "test": "test"}.items():
        lines.append(f"| {name} | {scores['files'][part]:,} | {scores['photos'][part]:,} |")
    lines += [
        "",
        f"- split: {scores['split']}; test photographs that were also trained on: {shared:,} of "
        f"{tested:,}",
        f"- fingerprint: {scores['data_fingerprint']}",
    ]
    if left_out := scores["unreadable_files_left_out"]:
        lines.append(f"- unreadable files left out: {left_out:,}")
    if missing := scores["test_files_not_scored"]:
        lines.append(f"- PARTIAL: {missing:,} test files were not scored")
    return lines


def _scores(scores: dict[str, Any], remark: str) -> list[str]:
    test, baseline = scores["test"], scores["baseline"]
    lines = [
        "## Scores on the test part",
        "",
        *([remark, ""] if remark else []),
        "95 % intervals from a bootstrap over photographs, stratified by class. By photograph: "
        "the probabilities of its files averaged.",
        "",
        f"| | {' | '.join(_BY.values())} |",
        "| --- | --- | --- |",
    ]
    for key, name in _METRICS.items():
        lines.append(f"| {name} | {' | '.join(_estimate(test[by][key]) for by in _BY)} |")
    colours = " | ".join(_estimate(baseline[by]["accuracy"]) for by in _BY)
    lines.append(f"| accuracy of the nearest training image by colours | {colours} |")
    calibration, familiar = scores["calibration"]["test"], scores["gallery"]
    before, after = calibration["before"], calibration["after"]
    lines += [
        "",
        "The table is without the temperature. With it: log loss by file "
        f"{before['log_loss']:.4f} -> {after['log_loss']:.4f}, expected calibration error "
        f"{before['ece']:.4f} -> {after['ece']:.4f}.",
        "",
        f"Of the test files {familiar['unfamiliar']['test']:.1%} are called unlike anything in "
        f"training (of the validation files {familiar['unfamiliar']['val']:.1%}, by choice of the "
        "threshold).",
    ]
    return lines


def _by_class(of: Description) -> Iterator[list[str]]:
    for by, title in _BY.items():
        found = of.scores["test"][by]
        lines = [
            f"### Of each class, {title}",
            "",
            "| | precision | recall | F1 | AUC |",
            "| --- | --- | --- | --- | --- |",
        ]
        for name in of.class_names:
            cells = " | ".join(_estimate(found[metric][name]) for metric in CLASSWISE)
            lines.append(f"| {name} | {cells} |")
        yield lines


def _made(of: Description, file_name: str, digest: str) -> list[str]:
    lines = ["## How it was made", ""]
    if of.training:
        said = ", ".join(f"{key} {value}" for key, value in of.training.items())
        lines.append(f"- settings: {said}")
    if of.scores:
        made = of.scores["machine"]
        versions = ", ".join(f"{name} {v}" for name, v in made["versions"].items() if v)
        lines += [
            f"- epochs: {of.scores['epochs']}, of which the best, {of.scores['best_epoch'] + 1}, "
            f"was kept; {clock(of.scores['learning_time_seconds'])} on {of.scores['devices']} x "
            f"{made['device']}, {of.scores['precision']}",
            f"- versions: Python {made['python']}, {versions}",
            f"- commit: {made['git_commit'] or 'not known'}",
        ]
    lines.append(f"- SHA-256 of `{file_name}`: {digest}")
    return lines


def _estimate(found: dict[str, float | None]) -> str:
    value, low, high = (found[key] for key in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return "-"
    return str(Estimate(value, low, high))
