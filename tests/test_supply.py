"""What is installed beside this project: bounds in pyproject.toml, pins and hashes for `make`."""

import hashlib
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parents[1]
CONSTRAINTS = (PROJECT / "constraints.txt").read_text()
# a new first number every quarter or year, whether or not anything changes
COUNTING = {"pillow", "pyarrow", "rich", "tifffile"}
LOWER, UPPER = {"==", "~=", ">=", ">"}, {"==", "~=", "<=", "<"}


class Pin(NamedTuple):
    of: Requirement
    hashes: list[str]


def read_pins() -> list[Pin]:
    entries = CONSTRAINTS.replace("\\\n", " ").splitlines()
    split = (re.split(r"\s+--hash=", entry.strip()) for entry in entries)
    return [Pin(Requirement(pin), hashes) for pin, *hashes in split]


def named(*, users: bool) -> list[Requirement]:
    """What pyproject.toml names; `users`: without what only building and developing need."""
    settings = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    project = settings["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    if users:
        del groups["dev"], groups["docs"]
    else:
        groups["build"] = settings["build-system"]["requires"]
    found = [Requirement(text) for texts in groups.values() for text in texts]
    return [one for one in found if one.name != "bloodcell"]  # an extra that brings others


def is_bounded(requirement: Requirement, operators: set[str]) -> bool:
    return any(one.operator in operators for one in requirement.specifier)


def test_every_dependency_has_a_lower_bound() -> None:
    assert [str(one) for one in named(users=False) if not is_bounded(one, LOWER)] == []


def test_every_dependency_of_users_has_an_upper_bound() -> None:
    assert {one.name for one in named(users=True) if not is_bounded(one, UPPER)} == COUNTING


def test_the_malicious_uploads_of_lightning_are_excluded() -> None:
    (lightning,) = (one for one in named(users=True) if one.name == "lightning")
    assert [v for v in ("2.6.2", "2.6.3") if lightning.specifier.contains(v)] == []
    assert lightning.specifier.contains("2.6.6")
    pinned = {str(pin.of.specifier) for pin in read_pins() if "lightning" in pin.of.name}
    assert not {"==2.6.2", "==2.6.3"} & pinned


def test_every_dependency_is_pinned_within_its_bounds() -> None:
    pinned: dict[str, list[str]] = {}
    for pin in read_pins():
        (exact,) = pin.of.specifier
        assert exact.operator == "==", str(pin.of)
        pinned.setdefault(pin.of.name, []).append(exact.version)
    for one in named(users=False):
        versions = pinned.get(canonicalize_name(one.name))
        assert versions, f"{one} is not in constraints.txt: run `make constraints`"
        assert all(map(one.specifier.contains, versions)), f"{one}: pinned {versions}"


def test_every_pin_has_hashes() -> None:
    pins = read_pins()
    assert len(pins) > 100
    for pin in pins:
        assert pin.hashes, str(pin.of)
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", one) for one in pin.hashes), str(pin.of)


def test_no_registry_is_named() -> None:
    """Those who install choose it."""
    assert not re.search(r"://|-url\b|^-|\.(org|com|io|net|dev)\b", CONSTRAINTS, re.MULTILINE)


@pytest.mark.parametrize("falsified", [False, True])
def test_uv_compares_hashes_of_constraints(falsified: bool) -> None:
    """As `make` installs; from a folder, without a network."""
    with zipfile.ZipFile("tiny-1.0-py3-none-any.whl", "w") as wheel:
        facts = {"METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n", "RECORD": ""}
        facts["WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        for name, text in facts.items():
            wheel.writestr(f"tiny-1.0.dist-info/{name}", text)
    found = hashlib.sha256(Path("tiny-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    said = found[::-1] if falsified else found
    Path("constraints.txt").write_text(f"tiny==1.0 \\\n    --hash=sha256:{said}\n")
    uv = Path(sys.executable).with_name("uv")
    words = "pip install --no-cache --no-index --find-links . --target to -c constraints.txt tiny"
    done = subprocess.run(
        [str(uv), *words.split(), "--python", sys.executable],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ("Hash mismatch" in done.stderr) == falsified, done.stderr
    assert (done.returncode != 0) == falsified
    assert Path("to/tiny-1.0.dist-info").is_dir() != falsified
