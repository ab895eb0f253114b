"""Finds a config by name: as given, in `configs/` here, then among those in the package."""

import difflib
from pathlib import Path

from bloodcell.errors import InputError, listed

# beside the modules once installed, beside the package in a checkout
_HERE = Path(__file__).parent
SHIPPED = _HERE / "configs" if (_HERE / "configs").is_dir() else _HERE.parent / "configs"


def find_config(name: str) -> Path:
    """Finds a config file.

    Args:
        name: a path, or the name of a shipped config with or without `.yaml`.

    Raises:
        InputError: if there is none, with the nearest name there is.
    """
    for folder in (Path(), Path("configs"), SHIPPED):
        for candidate in (folder / name, folder / f"{name}.yaml"):
            if candidate.is_file():
                return candidate
    known = sorted({p.name for f in (Path("configs"), SHIPPED) for p in f.glob("*.yaml")})
    near = difflib.get_close_matches(Path(name).name, known, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]}? " if near else ""
    raise InputError(f"--config {name}: no such file. {hint}Shipped: {listed(known, 20)}.")
