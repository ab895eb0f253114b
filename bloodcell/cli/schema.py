"""Reads the arguments of functions and constructors from their source, with types and descriptions.

Importing them would import torch, which takes seconds. Reading the source shows help pages at once,
and rejects invalid names and values before any work is done.
"""

import ast
import difflib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, Optional, Union, get_args, get_origin

import docstring_parser

from bloodcell.errors import InputError

PACKAGE = Path(__file__).parents[1]
REQUIRED = "required"  # the default of an argument that has none
_KINDS = (bool, dict, float, int, list, str, tuple)


class Setting(NamedTuple):
    """One argument of a function or constructor.

    Attributes:
        kind: its type; names that only an import could resolve are `Any`.
        default: its default; the source text if not a plain value, `REQUIRED` if there is none.
        text: its description in the docstring.
    """

    kind: Any
    default: Any
    text: str

    def help(self) -> str:
        """Returns the description, followed by the default unless it is False or named there."""
        named = "(default: " in self.text or self.default is REQUIRED or self.default is False
        return self.text if named else f"{self.text} (default: {_bare(self.default)})"

    def refuse(self, key: str, given: Any, readings: Sequence[Any], page: str) -> None:
        """Rejects a value that does not fit the type.

        Args:
            key: the setting's key.
            given: the value as written.
            readings: the ways to read it, e.g. as text and as YAML.
            page: the help page to refer to.

        Raises:
            InputError: naming key, value, rule and the nearest choice.
        """
        if any(_fits(self.kind, one) for one in readings):
            return
        near = difflib.get_close_matches(str(given), map(str, _choices(self.kind)), n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise InputError(f"{key}={given} cannot be used: it must be {self.rule()}.{hint} {page}")

    def rule(self) -> str:
        """Returns the type in words, e.g. `a whole number or auto`."""
        return _in_words(self.kind)


class Signature(NamedTuple):
    """A function or constructor.

    Attributes:
        summary: the first line of its docstring.
        remarks: the paragraphs below it.
        settings: its arguments.
    """

    summary: str
    remarks: str
    settings: dict[str, Setting]


@cache
def read_signature(path: Path, name: str, method: str = "__init__") -> Signature:
    """Reads a function, or a method of a class, with a Google-style docstring.

    Args:
        path: the module.
        name: a function or a class in it; a dataclass is read by its fields.
        method: the method; the docstring of the class documents `__init__`.
    """
    body = _parse(path).body
    defined = (ast.ClassDef, ast.FunctionDef)
    owner = next(one for one in body if isinstance(one, defined) and one.name == name)
    function: ast.FunctionDef | None = owner if isinstance(owner, ast.FunctionDef) else None
    documented: ast.ClassDef | ast.FunctionDef = owner
    for one in owner.body if function is None else []:
        if isinstance(one, ast.FunctionDef) and one.name == method:
            function, documented = one, owner if method == "__init__" else one
    parsed = docstring_parser.parse(ast.get_docstring(documented) or "")
    # an attribute may have the name of an argument, whose text then counts
    described = sorted(parsed.params, key=lambda one: one.args[0] == "param")
    texts = {one.arg_name: " ".join((one.description or "").split()) for one in described}
    arguments = _arguments(function) if function else _fields(owner)
    settings = {
        argument: Setting(
            _evaluate(annotation, path),
            _default(default, path),
            texts.get(argument, "").rstrip("."),
        )
        for argument, annotation, default in arguments
    }
    summary = (parsed.short_description or "").rstrip(".")
    return Signature(summary, parsed.long_description or "", settings)


@cache
def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _arguments(function: ast.FunctionDef) -> Iterator[tuple[str, ast.expr | None, ast.expr | None]]:
    given = function.args
    plain = [one for one in given.args if one.arg != "self"]
    defaults = [*[None] * (len(plain) - len(given.defaults)), *given.defaults, *given.kw_defaults]
    for one, default in zip([*plain, *given.kwonlyargs], defaults, strict=True):
        yield one.arg, one.annotation, default


def _fields(
    owner: ast.ClassDef | ast.FunctionDef,
) -> Iterator[tuple[str, ast.expr, ast.expr | None]]:
    for node in owner.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, node.annotation, node.value


class _Names(dict[str, Any]):
    """Maps names in the annotations of a module to types; unknown names to `Any`."""

    def __init__(self, path: Path) -> None:
        super().__init__({one.__name__: one for one in _KINDS})
        self |= {"Literal": Literal, "Optional": Optional, "Union": Union}
        self.path = path

    def __missing__(self, name: str) -> Any:
        for node in _parse(self.path).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
                return _evaluate(node.value, self.path)
            if isinstance(node, ast.ImportFrom) and name in [one.name for one in node.names]:
                file = PACKAGE.parent / f"{(node.module or '').replace('.', '/')}.py"
                return _Names(file)[name] if file.is_file() else Any
        return Any


def _evaluate(expression: ast.expr | None, path: Path) -> Any:
    if expression is None:
        return Any
    try:
        code = compile(ast.Expression(expression), str(path), "eval")
        return eval(code, {"__builtins__": {}}, _Names(path))
    except (TypeError, AttributeError):  # the expression uses a name that is only known as Any
        return Any


def _default(expression: ast.expr | None, path: Path) -> Any:
    if expression is None:
        return REQUIRED
    value = _evaluate(expression, path)  # constants of the module are replaced by their values
    return ast.unparse(expression) if value is Any else value


def _bare(default: Any) -> str:
    return str(default).strip("'\"").lower()


def _fits(kind: Any, value: Any) -> bool:
    """Returns whether a value fits a type; True if that cannot be decided."""
    parts = get_args(kind)
    if kind in (int, float):
        try:
            kind(value)
        except (TypeError, ValueError, OverflowError):
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
