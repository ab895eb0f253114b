"""Prints the report of `bloodcell audit`."""

from collections import Counter
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bloodcell.audit.findings import sure_word
from bloodcell.data.decode import summarise
from bloodcell.data.image_files import LeftOut
from bloodcell.data.table import PARTS
from bloodcell.errors import listed
from bloodcell.text import clock

_SHOWN = 3  # items per list; the JSON file lists all
_OUTSIDE = "{:,} images outside of the class or split folders, or without a line in the label table"
_SEVERAL = "more than one of train, val and test"


def print_audit(found: dict[str, Any]) -> None:
    """Prints the findings.

    Args:
        found: result of `bloodcell.audit.findings.describe`, plus `root`, `left_out`, `outside`
            and `seconds`.
    """
    console = Console()
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("", "files", "photographs"):
        table.add_column(heading, justify="right" if heading else "left")
    for key in ("classes", "parts"):
        for name, counts in found[key].items():
            table.add_row(Text(name), f"{counts['files']:,}", f"{counts['photographs']:,}")
        table.add_section()
    console.print(Text(f"{found['root']}: {found['images']:,} images"), soft_wrap=True)
    console.print(table)
    for label, text in _notes(found):
        console.print(Text(f"  {label:<12} {text}"), soft_wrap=True)


def _notes(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns labels and texts on files, photographs, wrong labels, the photo table and leaks."""
    notes = [*_file_notes(found), *_photo_notes(found)]
    likeness = found["likeness"]
    for what, key in (("photographs", "label_conflicts"), ("scenes", "scene_label_conflicts")):
        notes += _warn("LABELS", f"{what} with two classes", found[key], likeness[key])
    compared = found["photo_table"]
    if compared:
        text = (
            f"{compared['photographs']:,} photographs, {compared['found_exactly']:,} of them found "
            f"exactly; {compared['recall_of_pairs']:.2%} of its pairs of copies were found, "
            f"{1 - compared['precision_of_pairs']:.2%} of the found pairs are wrong; "
            f"{compared['cells_photographed_more_than_once']} cells photographed more than once"
        )
        notes.append(("photo table", text))
    leaks = [
        *_warn("LEAK", f"photographs in {_SEVERAL}", found["leaks"], likeness["leaks"]),
        *_warn(
            "LEAK", f"scenes or fields in {_SEVERAL}", found["scene_leaks"], likeness["scene_leaks"]
        ),
        *_warn("LEAK", f"cells of the table in {_SEVERAL}", compared["leaks"] if compared else []),
    ]
    if leaks:
        way_out = "to separate the parts, give fit the table that --write_photos writes"
        if not (found["leaks"] or found["scene_leaks"]):  # a written table lacks the given cells
            way_out = "to separate the parts, give fit this photo table with --data.photos"
        return [*notes, *leaks, ("", way_out)]
    divided = len(set(found["parts"]) & {*PARTS}) > 1
    whole = "the images are not divided into train, val and test"
    return [*notes, ("leak", f"none: {f'no photograph is in {_SEVERAL}' if divided else whole}")]


def _file_notes(found: dict[str, Any]) -> list[tuple[str, str]]:
    unreadable = [f"{name} ({why})" for name, why in found["unreadable"].items()]
    equal = sum(len(names) - 1 for names in found["equal_pixels"])
    shown = f"{len(unreadable):,}: {listed(unreadable, _SHOWN)}" if unreadable else "none"
    return [
        ("unreadable", shown),
        ("sizes", _counts(found["sizes"])),
        ("colours", _counts(found["modes"])),
        ("equal pixels", f"files that repeat another: {equal:,}" if equal else "none"),
        *(("note", line) for line in summarise(found["notes"])),
        *([("left out", str(LeftOut(found["left_out"])))] if found["left_out"] else []),
        *([("left out", _OUTSIDE.format(found["outside"]))] if found["outside"] else []),
    ]


def _photo_notes(found: dict[str, Any]) -> list[tuple[str, str]]:
    photos, scenes, fields = found["photographs"], found["scenes"], found["fields"]
    copies = found["images"] - len(found["unreadable"]) - photos
    notes = [
        (
            "photographs",
            f"{photos:,}; further files that are copies of them: {copies:,} "
            f"(found from pixels in {clock(found['seconds'])})",
        ),
        *_sure_notes(found["copies"], found["likeness"]["copies"]),
        (
            "scenes",
            f"{scenes:,}; {photos - scenes:,} photographs repeat the scene of another, such as a "
            "cell that was photographed twice",
        ),
    ]
    if fields < scenes:
        text = f"{fields:,}; {scenes - fields:,} scenes overlap another: two cells of one field"
        notes.append(("fields", text))
    if found["without_features"]:
        text = f"{found['without_features']:,} images have too few features to be compared"
        notes.insert(1, ("plain", text))
    return notes


def _sure_notes(groups: list[list[str]], likeness: list[float]) -> list[tuple[str, str]]:
    """Returns how sure the groups of copies are, with the least sure ones."""
    if not groups:
        return []
    counts = Counter(map(sure_word, likeness))
    words = listed([f"{word} {count:,}" for word, count in counts.most_common()], len(counts))
    least = sorted(zip(likeness, groups, strict=True))
    unsure = [(one, names) for one, names in least if sure_word(one) == "likely"]
    shown = _pairs([names for _, names in unsure], [one for one, _ in unsure])
    return [("how sure", f"{words}{f' ({shown})' if unsure else ''}")]


def _counts(counts: dict[str, int]) -> str:
    names = [f"{name} {count:,}" for name, count in counts.items()]
    return listed(names, _SHOWN)


def _warn(
    label: str, what: str, groups: list[list[str]], likeness: list[float] | None = None
) -> list[tuple[str, str]]:
    """Returns a note with the first and last path of some groups; empty without groups."""
    if not groups:
        return []
    return [(label, f"{what}: {len(groups):,} ({_pairs(groups, likeness)})")]


def _pairs(groups: list[list[str]], likeness: list[float] | None) -> str:
    shown = [f"{names[0]} and {names[-1]}" for names in groups[:_SHOWN]]
    if likeness:
        words = map(sure_word, likeness)
        shown = [f"{names}: {word}" for names, word in zip(shown, words, strict=False)]
    return "; ".join(shown)
