"""The settings of data, model, Trainer and run, read from the source of their constructors.

Importing the constructors would import torch, which takes seconds. Reading their source makes help
pages appear at once, and refuses names and values that are certainly wrong before any work is done.
LightningCLI judges everything else, such as class paths.
"""

import ast
import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple, Optional, Union, get_args, get_origin

import docstring_parser

from bloodcell.errors import InputError

SEED = 0  # default of --seed_everything
_PACKAGE = Path(__file__).parents[1]
_GROUPS = ("data", "model", "trainer")


@dataclass
class RunOptions:
    """Options of `fit` that belong neither to the data, the model nor the Trainer.

    Args:
        name: folder of the run below lightning_logs; the default is the config's name.
        save_every_minutes: minutes between two checkpoints within an epoch, besides the one at its
            end; null writes none.
        save_every_n_steps: steps between two checkpoints within an epoch; null writes none.
        rollbacks: how often a NaN or infinite loss takes the run back to its last checkpoint, each
            time with half the learning rate, before it ends the run.
        monitor: metric that chooses the best checkpoint; min:NAME or max:NAME if its name does not
            tell which is better.
    """

    name: str | None = None
    save_every_minutes: float | None = 10.0
    save_every_n_steps: int | None = None
    rollbacks: int = 0
    monitor: str = "val/loss"


class Setting(NamedTuple):
    """One argument of a constructor.

    Attributes:
        kind: its type; names that only an import could resolve are `Any`.
        default: its default in Python's notation; None if it has none.
        text: its description in the docstring.
    """

    kind: Any
    default: str | None
    text: str

    def refuse(self, key: str, given: Any, readings: Sequence[Any], page: str) -> None:
        """Refuses a value that is certainly wrong.

        Args:
            key: the setting's key.
            given: the value as written.
            readings: the values it may stand for.
            page: the help page to refer to.

        Raises:
            InputError: naming key, value, rule and the nearest choice.
        """
        if any(_fits(self.kind, one) for one in readings):
            return
        near = difflib.get_close_matches(str(given), map(str, _choices(self.kind)), n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        rule = _in_words(self.kind)
        raise InputError(f"{key}={given} cannot be used: it must be {rule}.{hint} {page}")


def read_settings(path: Path, class_name: str, method: str = "__init__") -> dict[str, Setting]:
    """Reads the arguments of a method from its source.

    Args:
        path: the module.
        class_name: a class in it; a dataclass is read by its fields.
        method: a method with a Google-style docstring; that of `__init__` stands at the class.
    """
    body = _parse(path).body
    owner = next(n for n in body if isinstance(n, ast.ClassDef) and n.name == class_name)
    functions = [n for n in owner.body if isinstance(n, ast.FunctionDef) and n.name == method]
    documented = owner if method == "__init__" else functions[0]
    parsed = docstring_parser.parse(ast.get_docstring(documented) or "")
    texts = {one.arg_name: " ".join((one.description or "").split()) for one in parsed.params}
    arguments = _signature(functions[0]) if functions else _fields(owner)
    return {
        name: Setting(
            _evaluate(annotation, path),
            _written(default, path),
            texts.get(name, "").rstrip("."),
        )
        for name, annotation, default in arguments
    }


@cache
def settings(group: str) -> Mapping[str, Setting]:
    """The settings of a group by their keys.

    Args:
        group: data, model, trainer, run (`RunOptions` and the seed) or benchmark.
    """
    if group == "run":
        seed = Setting(Any, str(SEED), "seed of every random choice")
        return read_settings(Path(__file__), "RunOptions") | {"seed_everything": seed}
    if group == "benchmark":
        found = read_settings(_PACKAGE / "train" / "benchmark.py", "BenchmarkTrainer", "benchmark")
        return {name: found[name] for name in found if name not in ("model", "datamodule")}
    if group == "data":
        found = read_settings(_PACKAGE / "data" / "datamodule.py", "BloodCells")
    elif group == "model":
        found = read_settings(_PACKAGE / "train" / "task.py", "Classifier")
    else:
        spec = find_spec("lightning")  # does not import it
        assert spec is not None
        assert spec.origin is not None
        source = Path(spec.origin).parent / "pytorch" / "trainer" / "trainer.py"
        found = read_settings(source, "Trainer")
    return {f"{group}.{name}": setting for name, setting in found.items()}


def check_words(verb: str, words: Sequence[str]) -> None:
    """Refuses options that LightningCLI would refuse only after it has been imported.

    Raises:
        InputError: naming an option that does not exist, or its wrong value.
    """
    for name, value in pairs(words):
        if not name.startswith("--"):
            raise InputError(f"{verb} takes options only (got: {name}).")
        _check(verb, name[2:], value, [] if value is None else [value, _read(value)])


def check_config(verb: str, path: Path, found: Mapping[str, Any]) -> None:
    """Refuses settings of a YAML file in the same way.

    Raises:
        InputError: naming the file and the setting.
    """
    for key, value in found.items():
        if key == "ckpt_path":  # on a command line it is no setting but an option
            continue
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


def _check(verb: str, key: str, given: Any, readings: Sequence[Any], where: str = "") -> None:
    name = ".".join(key.removesuffix("+").split(".")[:2])  # deeper keys belong to a class path
    known: dict[str, Setting | None] = dict.fromkeys(_GROUPS)
    for group in ("run", *_GROUPS, *(["benchmark"] if verb == "benchmark" else [])):
        known |= settings(group)
    page = f"See `bloodcell {verb} --help`."
    if name not in known:
        near = difflib.get_close_matches(name, [*known, "config"], n=1, cutoff=0.7)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise InputError(f"{where}{name} is no setting of {verb}.{hint} {page}")
    setting = known[name]
    if setting and key == name and readings:
        setting.refuse(where + key, given, readings, page)


def _read(text: str) -> Any:
    import yaml  # not for help pages

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


@cache
def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _signature(function: ast.FunctionDef) -> Iterator[tuple[str, ast.expr | None, ast.expr | None]]:
    given = function.args
    plain = given.args[1:]
    defaults = [*[None] * (len(plain) - len(given.defaults)), *given.defaults, *given.kw_defaults]
    for one, default in zip([*plain, *given.kwonlyargs], defaults, strict=True):
        yield one.arg, one.annotation, default


def _fields(owner: ast.ClassDef) -> Iterator[tuple[str, ast.expr, ast.expr | None]]:
    for node in owner.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, node.annotation, node.value


class _Names(dict[str, Any]):
    """Maps names in the annotations of a module to types; unknown names to `Any`."""

    def __init__(self, path: Path) -> None:
        super().__init__({one.__name__: one for one in (bool, dict, float, int, list, str, tuple)})
        self |= {"Literal": Literal, "Optional": Optional, "Union": Union}
        self.path = path

    def __missing__(self, name: str) -> Any:
        for node in _parse(self.path).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
                return _evaluate(node.value, self.path)
            if isinstance(node, ast.ImportFrom) and name in [one.name for one in node.names]:
                file = _PACKAGE.parent / f"{(node.module or '').replace('.', '/')}.py"
                return _Names(file)[name] if file.is_file() else Any
        return Any


def _evaluate(annotation: ast.expr | None, path: Path) -> Any:
    if annotation is None:
        return Any
    try:
        code = compile(ast.Expression(annotation), str(path), "eval")
        return eval(code, {"__builtins__": {}}, _Names(path))
    except (TypeError, AttributeError):  # of something that is only known as Any
        return Any


def _written(default: ast.expr | None, path: Path) -> str | None:
    """A default as a user writes it; constants of the module are replaced by their values."""
    if default is None:
        return None
    value = _evaluate(default, path)
    return ast.unparse(default) if value is Any else repr(value)


def _fits(kind: Any, value: Any) -> bool:
    """Whether a value may be of a type; what cannot be judged may be."""
    parts = get_args(kind)
    if kind in (int, float):
        try:
            kind(value)
        except (TypeError, ValueError):
            return False
        return not isinstance(value, bool) and (kind is float or not isinstance(value, float))
    if kind is bool or kind is type(None):
        return isinstance(value, kind)
    if get_origin(kind) is Literal:
        return any(value == one and type(value) is type(one) for one in parts)
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_fits(parts[0], one) for one in value)
    return any(_fits(one, value) for one in parts) if _is_union(kind) else True


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, type(int | None))


def _choices(kind: Any) -> tuple[Any, ...]:
    if get_origin(kind) is Literal:
        return get_args(kind)
    return sum(map(_choices, get_args(kind)), ()) if _is_union(kind) else ()


def _in_words(kind: Any) -> str:
    """A type in words, e.g. `a whole number or auto`."""
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        names = [str(one).lower() if isinstance(one, bool) else str(one) for one in parts]
        return names[0] if len(names) == 1 else f"one of {', '.join(names)}"
    if get_origin(kind) is list:
        return f"a list of {_in_words(parts[0]).removeprefix('a ')}s, e.g. [8]"
    if _is_union(kind):
        return " or ".join(map(_in_words, parts))
    known = {int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}
    return known.get(kind, "a value")
