"""The settings of data, model, Trainer and run, and the checks that need no import of torch.

LightningCLI checks everything else, such as class paths.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bloodcell.cli.schema import PACKAGE, Setting, read_signature
from bloodcell.errors import InputError, require

SEED = 0  # default of --seed_everything
_GROUPS = ("data", "model", "trainer")


@dataclass
class RunOptions:
    """Options of `fit` that belong to neither the data, the model nor the Trainer.

    Args:
        name: folder of the run below lightning_logs (default: the config's name, or custom without
            --config).
        save_every_minutes: minutes between two checkpoints within an epoch, besides the one at its
            end; null writes none.
        save_every_n_steps: steps between two checkpoints within an epoch; null writes none.
        rollbacks: how many times a NaN or infinite loss returns the run to its last checkpoint,
            each time with half the learning rate, before the run ends.
        monitor: metric that selects the best checkpoint; write min:NAME or max:NAME if the name
            does not show whether low or high values are better.
    """

    name: str | None = None
    save_every_minutes: float | None = 10.0
    save_every_n_steps: int | None = None
    rollbacks: int = 0
    monitor: str = "val/loss"


@cache
def settings(group: str) -> Mapping[str, Setting]:
    """Returns the settings of a group by their keys.

    Args:
        group: data, model, trainer, run (`RunOptions` and the seed) or benchmark.
    """
    if group == "run":
        seed = Setting(Any, SEED, "seed of every random choice")
        found = read_signature(Path(__file__), "RunOptions").settings
        return found | {"seed_everything": seed}
    if group == "benchmark":
        path = PACKAGE / "train" / "benchmark.py"
        found = read_signature(path, "BenchmarkTrainer", "benchmark").settings
        return {name: found[name] for name in found if name not in ("model", "datamodule")}
    if group == "data":
        read = read_signature(PACKAGE / "data" / "datamodule.py", "BloodCells")
    elif group == "model":
        read = read_signature(PACKAGE / "train" / "task.py", "Classifier")
    else:
        spec = find_spec("lightning")  # does not import it
        assert spec is not None
        assert spec.origin is not None
        source = Path(spec.origin).parent / "pytorch" / "trainer" / "trainer.py"
        read = read_signature(source, "Trainer")
    return {f"{group}.{name}": setting for name, setting in read.settings.items()}


def check_words(verb: str, words: Sequence[str]) -> None:
    """Rejects invalid options without importing LightningCLI.

    Raises:
        InputError: naming the option that does not exist or has a wrong value.
    """
    for name, value in pairs(words):
        if not name.startswith("--"):
            meant = f" Did you mean --config {name}?" if Path(name).suffix == ".yaml" else ""
            raise InputError(f"{verb} takes options only (got: {name}).{meant}")
        _check(verb, name[2:], value, [] if value is None else [value, read_value(value)])


def check_config(verb: str, path: Path, found: Mapping[str, Any]) -> None:
    """Rejects invalid settings in a YAML file.

    Raises:
        InputError: naming the file and the setting.
    """
    for key, value in found.items():
        if key == "ckpt_path":  # on a command line it is an option, not a setting
            rule = "a run folder or a .ckpt file, as text"
            require(value is None or isinstance(value, str), f"{path}: {key}", value, rule)
            continue
        grouped = key not in _GROUPS or value is None or isinstance(value, Mapping | str)
        require(grouped, f"{path}: {key}", value, "settings, e.g. `model: {lr: 1e-4}`")
        inside = value if isinstance(value, Mapping) and key in _GROUPS else {"": value}
        for name, one in inside.items():
            _check(verb, f"{key}.{name}".rstrip("."), one, [one], f"{path}: ")


def pairs(words: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Yields the options of a command line, each with its value; None if it has none."""
    coming = list(words)
    while coming:
        name, equals, value = coming.pop(0).partition("=")
        if not equals and name.startswith("--") and coming and not coming[0].startswith("--"):
            equals, value = "=", coming.pop(0)
        yield name, value if equals else None


def read_value(text: str) -> Any:
    """Returns the value of an option, which may be YAML."""
    import yaml  # not for help pages

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # ValueError: a name that looks like a date
        return text


def _check(verb: str, key: str, given: Any, readings: Sequence[Any], where: str = "") -> None:
    name = ".".join(key.removesuffix("+").split(".")[:2])  # deeper keys belong to a class path
    known: dict[str, Setting | None] = dict.fromkeys(_GROUPS)
    for group in ("run", *_GROUPS, *(["benchmark"] if verb == "benchmark" else [])):
        known |= settings(group)
    page = f"See `bloodcell {verb} --help`."
    if name not in known:
        near = difflib.get_close_matches(name, [*known, "config"], n=1, cutoff=0.7)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise InputError(f"{where}{name} is not a setting of {verb}.{hint} {page}")
    setting = known[name]
    if setting and key == name and readings:
        setting.refuse(where + key, given, readings, page)
