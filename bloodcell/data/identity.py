"""Identifies the files of a data set, to detect changed files and training images."""

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from bloodcell.data.layout import part_of
from bloodcell.data.source import Source
from bloodcell.data.table import Row, Table, fact
from bloodcell.errors import InputError, listed

_MOST_FACTS = 2**30  # bytes, enough for millions of files


def pack_facts(table: Table, source: Source) -> Tensor:
    """Returns the facts of a table for a checkpoint, 16 bytes per file.

    Returns:
        (n, 2) int64, hashes of the name and of the properties of each file, from `fact`.
    """
    return torch.tensor([[_hash(one) for one in fact(row, source)] for row in table.rows])


def data_identity(table: Table, source: Source, trained: Iterable[int]) -> dict[str, Any]:
    """Returns the identity of the data for a checkpoint.

    Args:
        table: the table.
        source: the files.
        trained: rows of the training images.

    Returns:
        `fingerprint` of the table, `facts` (from `pack_facts`) and `trained_on` (the keys of the
        training images, from `image_keys`).
    """
    facts, keys = pack_facts(table, source), image_keys(table, source, trained)
    return {"fingerprint": table.fingerprint, "facts": facts, "trained_on": keys}


def changed_files(table: Table, source: Source, packed: Tensor) -> tuple[list[str], int]:
    """Compares the files with those of a checkpoint.

    Args:
        table: the current table.
        source: the current files.
        packed: from `pack_facts`; earlier checkpoints contain all names as compressed JSON, uint8.

    Returns:
        The names of files that changed or are new, and the number of missing files.
    """
    if packed.dtype == torch.uint8:
        data = zlib.decompressobj().decompress(bytes(packed.tolist()), _MOST_FACTS)
        named = json.loads(data.decode("utf-8", "surrogatepass"))
        then = {_hash(name): _hash(properties) for name, properties in named}
    else:
        then = dict(packed.tolist())
    now = dict(fact(row, source) for row in table.rows)
    changed = [
        name for name, properties in now.items() if then.get(_hash(name)) != _hash(properties)
    ]
    return sorted(changed), len(then.keys() - map(_hash, now))


def image_keys(table: Table, source: Source, rows: Iterable[int]) -> Tensor:
    """Returns keys that identify images independently of the data set's location.

    Returns:
        (n,) int64, a hash of each image's official part, its path from the class folder on, and
        its size in bytes.
    """
    return torch.tensor([image_key(row, source, row.path) for row in (table.rows[i] for i in rows)])


def image_key(row: Row, source: Source, name: str) -> int:
    """Returns the key of one image, as `image_keys` does.

    Args:
        row: the image, possibly with another class or path than in the source.
        source: the images.
        name: the image's name in the source.
    """
    folder = row.class_name if row.folder is None else row.folder
    path = row.path.removeprefix(f"{row.dataset}/") if source.sets else row.path
    start = f"/{path}".rfind(f"/{folder}/")
    # with a label table or boxes, the class is not a folder
    tail = path[start:] if start >= 0 else f"{folder}/{path}"
    if name in source.cells:
        tail = f"{folder}/{path.split('/')[-1]}"
    return _hash(f"{row.official} {tail} {source.sizes[name]}")


def possible_keys(row: Row, source: Source) -> tuple[int, int]:
    """Returns the key of an image here, and in a data set around the root, e.g. images/TRAIN."""
    key = image_key(row, source, row.path)
    root = source.sets[row.dataset].root if source.sets else source.root
    part = row.official or part_of(f"{root.name}/{row.path}")
    if part == row.official:
        return key, key
    return key, image_key(replace(row, official=part), source, row.path)


def find_trained(table: Table, source: Source, rows: Iterable[int], trained_on: Tensor) -> Tensor:
    """Finds images that a model was trained on, also if its data set was that around the root.

    Args:
        table: the table.
        source: the images.
        rows: the images to look for.
        trained_on: keys of the training images, as `image_keys` returns them.

    Returns:
        (n,) bool.
    """
    keys = torch.tensor([possible_keys(table.rows[i], source) for i in rows], dtype=torch.int64)
    return torch.isin(keys.reshape(-1, 2), trained_on).any(1)


def check_unchanged(table: Table, source: Source, state: Mapping[str, Any]) -> None:
    """Checks that the data are those of a checkpoint.

    Args:
        table: the current table.
        source: the current files.
        state: `fingerprint` and `facts` of the checkpoint's table; the oldest checkpoints lack
            `facts`.

    Raises:
        InputError: if files, classes, photographs or cells have changed.
    """
    now, then = table.fingerprint, state["fingerprint"]
    if now == then:
        return
    names, gone = changed_files(table, source, state["facts"]) if "facts" in state else ([], 0)
    which = f"; changed or new: {listed(names, 5)}" if names else ""
    which += f"; missing: {gone:,}" if gone else ""
    raise InputError(
        f"data.root={source.root} has changed since the run began (fingerprint {now}, before "
        f"{then}{which}): images could move between train and test. Restore it, or start a new run "
        "without --ckpt_path."
    )


def _hash(text: str) -> int:
    """Returns 64 bits of the text's SHA-256 as a signed integer."""
    digest = sha256(text.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], signed=True)
