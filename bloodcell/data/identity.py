"""Identifies the files of a data set, to detect changed files and training images."""

import json
import zlib
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from bloodcell.data.source import Source
from bloodcell.data.table import Table
from bloodcell.errors import InputError, listed

_MOST_FACTS = 2**30  # bytes, enough for millions of files


def pack_facts(table: Table) -> Tensor:
    """Returns the compressed facts of a table, uint8 (n,), for a checkpoint."""
    text = json.dumps(table.facts).encode("utf-8", "surrogatepass")
    return torch.tensor(list(zlib.compress(text)), dtype=torch.uint8)


def changed_files(table: Table, packed: Tensor) -> list[str]:
    """Returns the files that changed, or were removed or added, since `packed` was made."""
    data = zlib.decompressobj().decompress(bytes(packed.tolist()), _MOST_FACTS)
    then = dict(json.loads(data.decode("utf-8", "surrogatepass")))
    now = dict(table.facts)
    return sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))


def image_keys(table: Table, source: Source, rows: Iterable[int]) -> Tensor:
    """Returns keys that identify images independently of the data set's location.

    Returns:
        (n,) int64, a hash of each image's official part, its path from the class folder on, and
        its size in bytes.
    """
    keys = []
    for i in rows:
        row = table.rows[i]
        start = f"/{row.path}".rfind(f"/{row.class_name}/")
        # a label table gives images other classes than their folders
        tail = row.path[start:] if start >= 0 else f"{row.class_name}/{row.path}"
        line = f"{row.official} {tail} {source.sizes[row.path]}"
        digest = sha256(line.encode("utf-8", "surrogateescape")).digest()
        keys.append(int.from_bytes(digest[:8], signed=True))
    return torch.tensor(keys)


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
    names = changed_files(table, state["facts"]) if "facts" in state else []
    which = f"; changed, gone or new: {listed(names, 5)}" if names else ""
    raise InputError(
        f"data.root={source.root} has changed since the run began (fingerprint {now}, then "
        f"{then}{which}): images could move between train and test. Restore it, or start a new run "
        "without --ckpt_path."
    )
