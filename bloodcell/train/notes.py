"""Notes that the table of scores shows below the numbers, as pairs of a title and a text."""

from typing import Any

from bloodcell.data.datamodule import BloodCells
from bloodcell.data.splits import count_photos, shared_photos
from bloodcell.datasets.drawn import is_drawn

Note = tuple[str, str]
LIMITED = "limited_training"  # entry of `scores.json` if an epoch uses only some training files


def on_run(data: BloodCells, scores: dict[str, Any]) -> list[Note]:
    """Returns the notes of a finished run, from its `scores.json`."""
    return [
        *scored_on(data, "test", scores["test"]),
        *intervals(scores["test"]),
        *by_dataset(scores["test"]),
        *baseline(scores),
        *calibration(scores["calibration"]),
        *gallery(scores),
        *limited_training(scores),
        *on_data(data),
    ]


def limited_training(scores: dict[str, Any]) -> list[Note]:
    """Returns a warning if each epoch trained on a part of the training files only."""
    if not (limited := scores.get(LIMITED)):
        return []
    share = f"{limited['used']:,} of {limited['files']:,} training files"
    return [("PARTIAL", f"each epoch trained on {share} ({limited['setting']})")]


def scored_on(data: BloodCells, part: str, found: dict[str, Any]) -> list[Note]:
    """Returns the number of scored images, and a warning if images of the part are missing."""
    files, photos = found["by_file"]["n"], found["by_photo"]["n"]
    notes = [("on", f"{files:,} files of {photos:,} photographs")]
    if missing := len(data.parts[part]) - files:
        notes.append(("PARTIAL", f"{missing:,} images of the part were not scored"))
    return notes


def intervals(found: dict[str, Any]) -> list[Note]:
    """Returns accuracy and balanced accuracy with 95 % intervals over photographs."""

    def line(of: dict[str, Any]) -> str:
        names = {"accuracy": "accuracy", "balanced_accuracy": "balanced"}
        return ", ".join(
            f"{name} {of[key]['value']:.3f} [{of[key]['low']:.3f}, {of[key]['high']:.3f}]"
            for key, name in names.items()
        )

    independent = found["by_file"]["accuracy_if_files_were_independent"]
    naive = f"[{independent['low']:.3f}, {independent['high']:.3f}]"
    return [
        ("by file", f"{line(found['by_file'])}; if copies were independent: {naive}"),
        ("by photograph", line(found["by_photo"])),
    ]


def by_dataset(found: dict[str, Any]) -> list[Note]:
    """Returns a note on each of several data sets: balanced accuracy over its own classes."""

    def balanced(of: dict[str, Any]) -> str:
        one = of["balanced_accuracy"]
        return f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"

    notes = []
    for name, of in found.get("by_dataset", {}).items():
        text = f"balanced {balanced(of['by_file'])} by file, "
        text += f"{balanced(of['by_photo'])} by photograph, of {of['by_photo']['n']:,}"
        if own := of.get("own_classes"):
            text += f"; {balanced(own['by_photo'])} if only its classes could be chosen"
        notes.append((name, text))
    return notes


def baseline(scores: dict[str, Any]) -> list[Note]:
    """Returns the scores of the colour baseline, and a warning if the model is not above them."""
    files, photos = (scores["baseline"][by]["accuracy"]["value"] for by in ("by_file", "by_photo"))
    text = f"{files:.3f} by file, {photos:.3f} by photograph, from colours alone without training"
    used, trained = scores["baseline_training_images"], scores["files"]["train"]
    if used < trained:
        text += f", compared with {used:,} of the {trained:,} training images"
    notes = [("baseline", text)]
    if scores["test"]["by_file"]["accuracy"]["low"] <= files:
        notes.append(("NO SKILL SHOWN", "the interval by file is not entirely above the baseline"))
    return notes


def calibration(found: dict[str, Any]) -> list[Note]:
    """Returns the temperature, and the scores of the test part before and after scaling by it."""
    before, after = found["test"]["before"], found["test"]["after"]
    text = ", ".join(
        f"{name} {before[key]:.3f} -> {after[key]:.3f}"
        for key, name in {"log_loss": "log loss", "ece": "ECE"}.items()
    )
    return [("calibrated", f"temperature {found['temperature']:.2f}: test {text}")]


def gallery(scores: dict[str, Any]) -> list[Note]:
    """Returns the number of photographs in the gallery if some are left out."""
    size, trained = scores["gallery"]["photographs"], scores["photos"]["train"]
    text = f"{size:,} of the {trained:,} training photographs, balanced over the classes"
    return [("gallery", text)] if size < trained else []


def on_data(data: BloodCells) -> list[Note]:
    """Returns the split, and a warning if test photographs were trained on."""
    notes = [("data", f"split {data.split}{drawn(data)}")]
    shared = shared_photos(data.table, data.parts)
    if shared:
        tested = count_photos(data.table, data.parts["test"])
        notes.append(("LEAK", f"{shared:,} of {tested:,} test photographs were trained on"))
    return notes


def drawn(data: BloodCells) -> str:
    """Returns a suffix that marks results on drawn smears; empty for photographs."""
    return ", DRAWN smears" if is_drawn(data.hparams["root"]) else ""
