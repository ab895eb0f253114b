"""What `bloodcell audit` says on the console."""

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bloodcell.errors import listed
from bloodcell.text import clock

_SHOWN = 3  # of a list; the JSON file has all


def print_audit(found: dict[str, Any]) -> None:
    """Prints what was found.

    Args:
        found: as `bloodcell.audit.audit.describe` has it, with `root` and `seconds`.
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
    for what, says in _notes(found):
        console.print(Text(f"  {what:<12} {says}"), soft_wrap=True)


def _notes(found: dict[str, Any]) -> list[tuple[str, str]]:
    unreadable = [f"{name} ({why})" for name, why in found["unreadable"].items()]
    images = found["images"] - len(unreadable)
    copies = images - found["photographs"]
    equal = sum(len(names) - 1 for names in found["equal_pixels"])
    notes = [
        (
            "unreadable",
            f"{len(unreadable):,}: {listed(unreadable, _SHOWN)}" if unreadable else "none",
        ),
        ("sizes", _counts(found["sizes"])),
        ("colours", _counts(found["modes"])),
        ("equal pixels", f"{equal:,} files repeat another" if equal else "none"),
        (
            "photographs",
            f"{found['photographs']:,}; {copies:,} files are copies of another's photograph "
            f"(found from pixels in {clock(found['seconds'])})",
        ),
        *(
            [("plain", f"{found['without_features']:,} images have too little to be compared by")]
            if found["without_features"]
            else []
        ),
        (
            "scenes",
            f"{found['scenes']:,}: {found['photographs'] - found['scenes']:,} photographs show "
            "what another shows, such as a cell that was photographed twice",
        ),
    ]
    notes += _warn("LABELS", "photographs with two classes", found["label_conflicts"])
    notes += _warn("LABELS", "scenes with two classes", found["scene_label_conflicts"])
    if known := found["photo_table"]:
        notes.append(
            (
                "photo table",
                f"knows {known['photographs']:,} photographs: {known['found_exactly']:,} found "
                f"exactly, {known['recall_of_pairs']:.2%} of its pairs of copies, "
                f"{1 - known['precision_of_pairs']:.2%} wrong ones; "
                f"{known['cells_photographed_more_than_once']} cells photographed more than once",
            )
        )
    leaks = [
        *_warn("LEAK", "photographs in two parts", found["leaks"]),
        *_warn("LEAK", "scenes in two parts", found["scene_leaks"]),
        *_warn("LEAK", "cells of the table in two parts", known["leaks"] if known else []),
    ]
    notes += leaks
    if leaks:
        notes.append(("", "with a table of --write_photos, fit does not train on what is tested"))
    else:
        divided = len(set(found["parts"]) - {"test_simple"}) > 1
        says = "no photograph lies in two parts" if divided else "the images are not divided"
        notes.append(("leak", f"none: {says}"))
    return notes


def _counts(counts: dict[str, int]) -> str:
    names = [f"{name} {count:,}" for name, count in counts.items()]
    return listed(names, _SHOWN)


def _warn(label: str, what: str, groups: list[list[str]]) -> list[tuple[str, str]]:
    """A note of groups of sorted paths, of which the first and the last differ; none of none."""
    if not groups:
        return []
    shown = "; ".join(f"{names[0]} and {names[-1]}" for names in groups[:_SHOWN])
    return [(label, f"{what}: {len(groups):,} ({shown})")]
