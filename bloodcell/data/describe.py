"""Checks the settings of the data, and describes the data."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bloodcell.data.crop import AUTO, check_field
from bloodcell.data.decode import check_image_size
from bloodcell.data.source import Source
from bloodcell.data.splits import count_photos, shared_photos
from bloodcell.data.table import Table, count_outside
from bloodcell.errors import listed, require, require_number

_MOST_CLASSES = 20  # that are named in the description


def describe(table: Table, source: Source, split: str, parts: dict[str, list[int]]) -> str:
    """Returns a description of the data and its split, with a warning if the split leaks."""
    counts = " | ".join(
        f"{part} {len(rows):,} files of {count_photos(table, rows):,} photographs"
        for part, rows in parts.items()
    )
    lines = [f"data.root={source.root}, data.split={split}: {counts}"]
    lines += _describe_sets(table, parts) if source.sets else [_describe_classes(table, parts)]
    if table.unmapped:
        lines.append(
            f"{table.unmapped:,} of {len(table.rows):,} files are in no photo table: each "
            "counts as its own photograph. If some are copies of one photograph, list them with "
            "data.photos, or the scores will be too high."
        )
    if table.unlabelled:
        lines.append(f"data.labels has no line for {table.unlabelled:,} images: they are left out.")
    if outside := count_outside(table, source):
        places = "outside of the class or split folders"
        lines.append(f"{outside:,} images are {places}: they are left out.")
    if source.left_out:
        lines.append(str(source.left_out))
    shared = shared_photos(table, parts)
    if shared:
        tested = count_photos(table, parts["test"])
        lines.append(
            f"this split LEAKS: {shared} of {tested} test photographs are also in train. Its "
            "scores measure memorisation; data.split=photo measures generalisation."
        )
    return "\n".join(lines)


def _describe_classes(table: Table, parts: Mapping[str, list[int]]) -> str:
    """Returns a line with each class and its files; a folder without images is missing in it."""
    files = Counter(table.rows[row].class_name for rows in parts.values() for row in rows)
    shown = [f"{name} {files[name]:,}" for name in table.class_names]
    return f"{len(shown)} classes: {listed(shown, _MOST_CLASSES)}"


def _describe_sets(table: Table, parts: dict[str, list[int]]) -> Iterator[str]:
    """Yields a line for each of several data sets, and one on classes that are left out."""
    untrained = [i for i, label in enumerate(table.labels) if label < 0]
    for name in table.datasets:
        rows = {part: [i for i in parts[part] if table.rows[i].dataset == name] for part in parts}
        counts = ", ".join(f"{part} {len(some):,}" for part, some in rows.items() if some)
        classes = {table.rows[i].class_name for some in rows.values() for i in some}
        yield f"  {name}: {counts}; {listed(sorted(classes), _MOST_CLASSES)}"
    if untrained:
        left = sorted({table.rows[i].class_name for i in untrained})
        yield (
            f"{len(untrained):,} images of {', '.join(left)} are left out: no data set "
            "that is trained on has these classes."
        )


def check_settings(hp: Any) -> None:
    """Checks the settings of the data.

    Raises:
        InputError: if a setting is out of range.
    """
    check_image_size("data.image_size", hp["image_size"])
    size = 1 if hp["batch_size"] == AUTO else hp["batch_size"]
    require_number("data.batch_size", size, "1 or more, e.g. 32, or auto", 1, whole=True)
    check_field("data.field", hp["field"])
    rule = "1, or used with data.crop=cell"
    require(hp["crop"] == "cell" or hp["field"] == 1.0, "data.field", hp["field"], rule)
    rule = "a number from 0 to 0.5, e.g. 0.125, and 0 without data.crop=cell"
    require_number("data.margin", hp["margin"], rule, 0, 0.5)
    require(hp["crop"] == "cell" or not hp["margin"], "data.margin", hp["margin"], rule)
    for name in ("val_share", "cache_gib"):
        require_number(f"data.{name}", hp[name], "a number, e.g. 0.2")
    rule, share = "1/n with a whole number n from 2 to 20, e.g. 0.2 or 0.25", hp["val_share"]
    whole = abs(share * round(1 / max(share, 0.01)) - 1) < 0.02
    require(0.05 <= share <= 0.5 and whole, "data.val_share", share, rule)
    rule = "1 or more, and data.balance not none: without it, each image is drawn once"
    drawn = hp["draws"] is None or (hp["draws"] >= 1 and hp["balance"] != "none")
    require(drawn, "data.draws", hp["draws"], rule)
    if hp["split_seed"] is not None:
        rule = "a whole number from 0, e.g. 0, or null for the seed of the run"
        require_number("data.split_seed", hp["split_seed"], rule, 0, 2**32 - 1, whole=True)
    require(hp["cache_gib"] >= 0, "data.cache_gib", hp["cache_gib"], "0 or more, e.g. 20")


def check_model(model: Mapping[str, Any], class_names: Sequence[str], image_size: int) -> None:
    """Checks that a model is made for the classes and the size of the images.

    Args:
        model: the hyperparameters of a LightningModule; names that it lacks are not checked.
        class_names: the classes of the data, in the order of the labels.
        image_size: side of the images in pixels.

    Raises:
        InputError: if classes, their order or the size differ.
    """
    given = model.get("class_names", class_names)
    rule = f"{list(class_names)}, the classes of the data in their order: give the model the data "
    rule += "module's class_names"
    require(list(given) == list(class_names), "class_names", list(given), rule)
    size = model.get("image_size", image_size)
    rule = f"{image_size}, like data.image_size. Give both the same value"
    require(size == image_size, "model.image_size", size, rule)
