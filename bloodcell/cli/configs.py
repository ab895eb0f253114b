"""Finds a config by name: as given, in `configs/` here, then among those in the package."""

import difflib
from pathlib import Path

import yaml

from bloodcell.errors import InputError, listed, reason

# beside the modules once installed, beside the package in a checkout
_HERE = Path(__file__).parents[1]
_MOST_NODES = 100_000  # of one file
SHIPPED = _HERE / "configs" if (_HERE / "configs").is_dir() else _HERE.parent / "configs"


def find_config(name: str) -> Path:
    """Finds a config file.

    Args:
        name: a path, or the name of a shipped config with or without `.yaml`.

    Raises:
        InputError: if there is none, with the nearest name there is, or it holds no settings.
    """
    for folder in (Path(), Path("configs"), SHIPPED):
        for candidate in (folder / name, folder / f"{name}.yaml"):
            if candidate.is_file():
                check_config(candidate)
                return candidate
    known = sorted({p.name for f in (Path("configs"), SHIPPED) for p in f.glob("*.yaml")})
    near = difflib.get_close_matches(Path(name).name, known, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]}? " if near else ""
    raise InputError(f"--config {name}: no such file. {hint}Shipped: {listed(known, 20)}.")


def resolve_configs(words: list[str]) -> tuple[list[str], str]:
    """Replaces names of configs on a command line by their paths, and puts them first.

    So that what is given on the command line wins wherever it stands.

    Args:
        words: what stands after the verb.

    Returns:
        The words, and the name of the run: that of the last config.

    Raises:
        InputError: if a config is named that there is not.
    """
    configs, others, name = list[str](), list[str](), "custom"
    coming = iter(words)
    for word in coming:
        flag, equals, value = word.partition("=")
        if flag not in ("--config", "-c"):
            others.append(word)
            continue
        given = value if equals else next(coming, None)
        if given is None:
            raise InputError("--config stands without a name. Give one, e.g. --config d8.yaml.")
        path = find_config(given)
        name = _run_name(path)
        configs += ["--config", str(path)]
    return [*configs, *others], name


def without_repeated(words: list[str], begun: Path) -> list[str]:
    """Leaves out what a command line appends to a list of the run that it goes on with.

    So that the same command again does not give a callback twice.

    Args:
        words: what stands after the verb.
        begun: the settings of the run.
    """
    settings = yaml.safe_load(begun.read_text(encoding="utf-8"))
    kept = list[str]()
    coming = iter(words)
    for word in coming:
        flag, equals, value = word.partition("=")
        if not flag.endswith("+"):
            kept.append(word)
            continue
        name = value if equals else next(coming, "")
        group, _, key = flag.strip("-+").partition(".")
        there = settings.get(group, {}).get(key) or []
        paths = [one.get("class_path", "") for one in there if isinstance(one, dict)]
        if name.rpartition(".")[2] not in [path.rpartition(".")[2] for path in paths]:
            kept += [word] if equals else [word, name]
    return kept


def _run_name(path: Path) -> str:
    """What a run of a config is called: its name, or that of the run whose folder it lies in."""
    folder = path.absolute().parent
    in_run = path.name == "config.yaml" and folder.name.startswith("version_")
    return folder.parent.name if in_run else path.stem


def check_config(path: Path) -> None:
    """Makes sure that a file holds settings, and no more of them than a person writes.

    Raises:
        InputError: if it does not.
    """
    try:
        text = path.read_text(encoding="utf-8")
        _check_size(yaml.compose(text, yaml.SafeLoader))
        settings = yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(
            f"--config {path} is no YAML in UTF-8 ({reason(error)}). Mend it."
        ) from error
    if not isinstance(settings, dict):
        raise InputError(
            f"--config {path} holds no settings. Write some, e.g. `model: {{lr: 1e-4}}`."
        )


def _check_size(root: yaml.Node | None) -> None:
    """Refuses a small file that unfolds into a large one: aliases of aliases.

    Raises:
        ValueError: if it does, or contains itself.
    """
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = _MOST_NODES  # until it is known: one inside of itself is endless
            parts = node.value if isinstance(node, yaml.CollectionNode) else []
            inside = (one for part in parts for one in (part if type(part) is tuple else [part]))
            sizes[id(node)] = 1 + sum(map(size, inside))
        return sizes[id(node)]

    if root is not None and size(root) > _MOST_NODES:
        raise ValueError(f"its aliases unfold into more than {_MOST_NODES:,} values")
