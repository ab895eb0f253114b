"""Identifies the files of a data set, to detect changed files and training images."""

import json
import zlib
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

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
    return torch.tensor([image_key(table.rows[i], source.sizes[table.rows[i].path]) for i in rows])


def image_key(row: Row, size: int) -> int:
    """Returns the key of one image, as `image_keys` does.

    Args:
        row: the image.
        size: bytes of its file.
    """
    start = f"/{row.path}".rfind(f"/{row.class_name}/")
    # with a label table, the class is not a folder
    tail = row.path[start:] if start >= 0 else f"{row.class_name}/{row.path}"
    return _hash(f"{row.official} {tail} {size}")


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
