"""The layout of the package: who imports whom, how long things are, which words are not used."""

import ast
import importlib
import inspect
import re
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "bloodcell"
# from the lowest to the highest; a module imports from its own layer and from lower ones
LAYERS = (
    *(
        {"errors", "files", "hparams", "machine", "memory", "spreadsheet", "text"},
        {"datasets"},
        {"data"},
        {"model"},
    ),
    *({"evaluate"}, {"train"}, {"infer"}, {"audit"}, {"serve"}, {"published"}, {"cli"}),
    {"", "__main__"},
)
VERSION = "bloodcell.__version__"  # any module may read it: it stands above the lazy imports
INTERNALS = "train.lightning_internals"
MOST_INTERNALS = 3  # private names of Lightning
LONGEST_FILE, LONGEST_FUNCTION = 300, 40  # lines; a function's docstring does not count
NAMEDTUPLE = {"_asdict", "_fields", "_make", "_replace"}  # public, whatever their underscore
FORBIDDEN = "|".join(
    [
        r"likewise|of which|no numbers?|that is none any more|what (it|they) (was|said)|mends?",
        r"(?<!there )(is|are) no (?!longer)[a-z]+|no (finite|regular)|of no known",
        r"(lie|lies) in no|named otherwise|otherwise than|takes? (its|the|their) place|gives? way",
        r"goes? on with|to go on|anew|images a second|ms a [a-z]+|says? (nothing|which)",
        r"holds (no|a|an|only|one|several|weights|names|the)|cuts? (off|out)|fits? (no|several)",
        r"at hand|of (other )?kinds|(is|are) told|whoever|wholly",
    ]
)

TREES = {path: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    .removesuffix("__init__")
    .rstrip("."): path
    for path in TREES
}


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports anywhere: at the top, in functions, for types."""
    found = set()
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top, _, inside = name.partition(".")
            if top == "bloodcell" and name != VERSION:  # what is no module is a name in one
                found.add(inside if inside in FILES else inside.rpartition(".")[0])
    return found


def layer(module: str) -> int:
    return next(place for place, names in enumerate(LAYERS) if module.partition(".")[0] in names)


def test_no_circle_of_imports() -> None:
    try:
        TopologicalSorter({name: imported(path) for name, path in FILES.items()}).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_no_import_points_up() -> None:
    up = [
        f"{module} imports {other}"
        for module, path in FILES.items()
        for other in sorted(imported(path))
        if layer(other) > layer(module)
    ]
    assert up == []


def test_no_file_is_long() -> None:
    lengths = {module: len(path.read_text().splitlines()) for module, path in FILES.items()}
    assert {module: n for module, n in lengths.items() if n > LONGEST_FILE} == {}


def test_no_function_is_long() -> None:
    long = {}
    for module, path in FILES.items():
        for node in ast.walk(TREES[path]):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = _lines(node)
                if ast.get_docstring(node) is not None:
                    lines -= _lines(node.body[0])
                if lines > LONGEST_FUNCTION:
                    long[f"{module}.{node.name}"] = lines
    assert long == {}


def _lines(node: ast.stmt) -> int:
    assert node.end_lineno
    return node.end_lineno - node.lineno + 1


def private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name not in NAMEDTUPLE | {"_"}


def defined(tree: ast.Module) -> set[str]:
    """Every name that a file gives: functions, classes, arguments, variables and attributes."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        ):
            names.add(node.attr)
    return names


def foreign_names(path: Path, ours: set[str]) -> set[str]:
    """Private names that a file takes from other packages."""
    used = set()
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Attribute):
            used.add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            assert node.module
            used |= {*node.module.split("."), *(alias.name for alias in node.names)}
        elif isinstance(node, ast.Import):
            used |= {part for alias in node.names for part in alias.name.split(".")}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("attr"):  # getattr
            used |= {
                name.value
                for name in node.args[1:2]
                if isinstance(name, ast.Constant) and isinstance(name.value, str)
            }
    return {name for name in used if private(name)} - ours


def overridden(module: str) -> set[str]:
    """Private attributes of Lightning's classes that the classes of a module replace."""
    here = importlib.import_module(f"bloodcell.{module}")
    names: set[str] = set()
    for _, of in inspect.getmembers(here, inspect.isclass):
        if of.__module__ == here.__name__:
            bases = [base for base in of.__mro__ if base.__module__.startswith("lightning.")]
            names |= set(vars(of)) & {name for base in bases for name in vars(base)}
    return {name for name in names if private(name)} - {"_abc_impl"}  # Python's own


def test_private_names_of_other_packages_stay_in_one_file() -> None:
    ours = set().union(*map(defined, TREES.values()))
    found = {}
    for module, path in FILES.items():
        names = foreign_names(path, ours)
        if "lightning" in path.read_text():
            names |= overridden(module)
        if names:
            found[module] = names
    assert len(found.pop(INTERNALS, set())) <= MOST_INTERNALS
    assert found == {}


def test_no_forbidden_words() -> None:
    """Words that made readers read a sentence twice."""
    found = []
    for path in TREES:
        text = re.sub(r"\s+(# |\")?", " ", path.read_text())  # phrases that a line breaks, too
        found += [
            f"{path.relative_to(PACKAGE)}: {text[max(0, match.start() - 30) : match.end() + 20]}"
            for match in re.finditer(rf"\b({FORBIDDEN})\b", text, re.IGNORECASE)
        ]
    assert found == []


def test_the_layers_name_every_folder() -> None:
    known = set().union(*LAYERS)
    assert {module.partition(".")[0] for module in FILES} == known
    assert all(low.isdisjoint(high) for low, high in pairwise(LAYERS))
