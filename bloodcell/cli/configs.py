"""Reads configs and the command line of the verbs that train and score, without importing torch."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from bloodcell.cli.parsing import parse
from bloodcell.cli.places import check_places
from bloodcell.cli.settings import check_config, check_words, pairs
from bloodcell.errors import InputError, listed, reason, require

_MOST_NODES = 100_000  # in one file
_HERE = Path(__file__).parents[1]
# the shipped configs are in the package folder when installed, and beside it in a checkout
SHIPPED = _HERE / "configs" if (_HERE / "configs").is_dir() else _HERE.parent / "configs"


class Request(NamedTuple):
    """The command line of a verb that trains or scores.

    Attributes:
        verb: fit, validate, test or benchmark.
        words: the options for LightningCLI; those of configs come first, so the command line
            overrides them.
        shows: options that print something and end the program.
        config_name: name of the last config, which names the run.
        ckpt_path: the value of `--ckpt_path`, from the command line or a config.
        resume: whether `--resume auto` was given.
    """

    verb: str
    words: list[str]
    shows: list[str]
    config_name: str
    ckpt_path: str | None
    resume: bool


def read_request(verb: str, words: Sequence[str]) -> Request:
    """Reads the command line and its configs, and rejects invalid settings.

    Args:
        verb: fit, validate, test or benchmark.
        words: the words after it.

    Raises:
        InputError: naming a config, setting or value that cannot be used.
    """
    given, rest = parse(verb, words)
    check_words(verb, rest)
    name, ckpt_path, configs, contents = "custom", None, list[str](), list[dict[str, Any]]()
    for path in map(find_config, given.config):
        contents.append(read_config(path))
        check_config(verb, path, contents[-1])
        name, ckpt_path = run_name(path), contents[-1].get("ckpt_path") or ckpt_path
        configs += ["--config", str(path)]
    options = vars(given)
    resume, ckpt_path = options.get("resume"), options.get("ckpt_path") or ckpt_path
    require(resume in (None, "auto"), "--resume", resume, "auto")
    if resume and ckpt_path:
        raise InputError(
            "--resume auto and --ckpt_path (or ckpt_path in a config) both choose the run to "
            "continue. Leave one of them out."
        )
    shows = ["--help"] if given.help_all else []
    if given.print_config is not None:
        shows.append(f"--print_config={given.print_config}".rstrip("="))
    if not shows:
        check_places(verb, contents, rest, ckpt_path, bool(resume))
    return Request(verb, [*configs, *rest], shows, name, ckpt_path, bool(resume))


def find_config(name: str) -> Path:
    """Finds a config file.

    Args:
        name: a path, or the name of a shipped config with or without `.yaml`.

    Raises:
        InputError: naming the nearest config if there is no such file.
    """
    for folder in (Path(), Path("configs"), SHIPPED):
        for candidate in (folder / name, folder / f"{name}.yaml"):
            if candidate.is_file():
                return candidate
    known = sorted({p.name for f in (Path("configs"), SHIPPED) for p in f.glob("*.yaml")})
    near = difflib.get_close_matches(Path(name).name, known, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]}? " if near else ""
    raise InputError(f"--config {name}: no such file. {hint}Shipped configs: {listed(known, 20)}.")


def run_name(path: Path) -> str:
    """Returns the name of a config's run: the file's, or that of the run that wrote the file."""
    folder = path.absolute().parent
    in_run = path.name == "config.yaml" and folder.name.startswith("version_")
    return folder.parent.name if in_run else path.stem


def read_config(path: Path) -> dict[str, Any]:
    """Reads the settings in a file.

    Raises:
        InputError: if the file contains no settings, or far too many.
    """
    try:
        text = path.read_text(encoding="utf-8")
        _check_size(yaml.compose(text, yaml.SafeLoader))
        found = yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(
            f"--config {path} is not valid YAML in UTF-8 ({reason(error)}). Fix it."
        ) from error
    if not isinstance(found, dict):
        raise InputError(
            f"--config {path} contains no settings. Add some, e.g. `model: {{lr: 1e-4}}`."
        )
    return found


def without_repeated(words: Sequence[str], begun: dict[str, Any]) -> list[str]:
    """Removes options such as `--trainer.callbacks+` if the run has their entry already.

    A run that is continued with its original command must not get a callback twice.

    Args:
        words: the options on the command line.
        begun: the settings of the run.
    """
    kept = list[str]()
    for flag, value in pairs(words):
        group, _, key = flag.strip("-+").partition(".")
        there = (begun.get(group) or {}).get(key) if flag.endswith("+") else None
        names = [str(one.get("class_path")) for one in there or [] if isinstance(one, dict)]
        if (value or "").rpartition(".")[2] not in [name.rpartition(".")[2] for name in names]:
            kept.append(flag if value is None else f"{flag}={value}")
    return kept


def _check_size(root: yaml.Node | None) -> None:
    """Rejects a small file that nested aliases expand into a large one.

    Raises:
        ValueError: if the expanded file is too large, or contains itself.
    """
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = (
                _MOST_NODES  # until it is computed: a node that contains itself is endless
            )
            parts = node.value if isinstance(node, yaml.CollectionNode) else []
            inside = (one for part in parts for one in (part if type(part) is tuple else [part]))
            sizes[id(node)] = 1 + sum(map(size, inside))
        return sizes[id(node)]

    if root is not None and size(root) > _MOST_NODES:
        raise ValueError(f"its aliases expand to more than {_MOST_NODES:,} values")
