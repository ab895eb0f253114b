"""What a stranger may send: each file is read or refused with a word, and does nothing else."""

import contextlib
import csv
import os
import re
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bloodcell.cli.configs import read_config
from bloodcell.cli.main import main
from bloodcell.data import image_files
from bloodcell.data.crop import InputFormat
from bloodcell.data.decode import decode
from bloodcell.data.image_files import READ_ERRORS
from bloodcell.data.source import open_source
from bloodcell.data.table import build_table
from bloodcell.datasets import photos
from bloodcell.errors import InputError
from bloodcell.model.network import PretrainedConfig

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import fuzz
from fuzz import try_kind
from hostile import Kind, make_kinds

KINDS = ("images", "archives", "configs", "photo tables", "weights", "models", "run folders")
SAMPLES = 8  # damaged ones, besides all that are whole or hostile as they are


@pytest.fixture(scope="session")
def kinds(run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kind]:
    return make_kinds(tmp_path_factory.mktemp("hostile"), run)


@pytest.mark.parametrize("name", KINDS)
def test_what_a_stranger_may_send(name: str, kinds: dict[str, Kind], tmp_path: Path) -> None:
    kind = kinds[name]
    found = try_kind(kind, len(kind.samples) + SAMPLES, seed=1, folder=tmp_path / "cases")
    assert found.keys() <= {"read", "refused"}
    assert found["read"] > 0


def test_harm_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same watch over readers that do what none may."""

    def outside(path: Path) -> None:
        (path.parents[2] / "evil").touch()

    def untold(_: Path) -> None:
        raise KeyError

    readers: dict[str, Callable[[Path], object]] = {
        "escape": outside,
        "crash": untold,
        "hang": lambda _: time.sleep(5),
    }
    monkeypatch.setattr(fuzz, "SECONDS", 1)
    for harm, read in readers.items():
        assert try_kind(Kind({"a": b"a"}, read), 1, 0, tmp_path / harm) == {harm: 1}
    ended = try_kind(Kind({"a": b"a"}, lambda _: os.abort()), 1, 0, tmp_path / "abort")
    assert ended == {"crash": 1}
    program = try_kind(Kind({"a": b"a"}, lambda _: os.system("true")), 1, 0, tmp_path / "program")
    assert program == {"escape": 1}


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 60), st.binary(max_size=40))
def test_an_image_cut_and_continued_anywhere(place: int, rest: bytes) -> None:
    """Every byte of a header is a place where it may end, or go on as something else."""
    whole = b"\x89PNG\r\n\x1a\n" + bytes.fromhex(
        "0000000d49484452000000020000000208020000 00fdd49a73"
        "0000001049444154789c63f8cfc0c0f09f8101000cfd02fe"
    )
    with contextlib.suppress(*READ_ERRORS):
        assert decode(whole[:place] + rest, InputFormat(32)).shape == (32, 32, 3)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=200))
def test_any_text_as_settings_and_as_a_photo_table(text: str) -> None:
    Path("any").write_bytes(text.encode("utf-8", "surrogatepass"))
    for read in (lambda: read_config(Path("any")), lambda: photos.read(Path("any"))):
        with contextlib.suppress(InputError):
            read()


def test_settings_that_expand_or_contain_themselves(refused: Callable[..., str]) -> None:
    rows = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))
    Path("laughs.yaml").write_text(f"a0: &a0 [x, x]\n{rows}")
    said = refused("fit", "--config", "laughs.yaml")
    assert "laughs.yaml is not valid YAML in UTF-8 (its aliases expand to more than 100,000" in said
    Path("itself.yaml").write_text("model: &m {hidden: [*m]}\n")
    assert "its aliases expand" in refused("fit", "--config", "itself.yaml")
    Path("code.yaml").write_text("model: !!python/object/apply:os.system ['touch evil']\n")
    assert "could not determine a constructor" in refused("fit", "--config", "code.yaml")
    assert not Path("evil").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="pipes and links")
def test_what_is_no_file_of_an_image(
    make_folders: Callable[..., Path], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe nobody writes to, a device without an end, links to nothing and in a ring."""
    root = make_folders({"a": 1, "b": 1})
    os.mkfifo(root / "a" / "pipe.png")
    (root / "a" / "zero.png").symlink_to("/dev/zero")
    (root / "a" / "gone.png").symlink_to("nowhere.png")
    (root / "a" / "ring.png").symlink_to("ring.png")
    (root / "b" / "up").symlink_to(root)
    (root / "b" / "large.png").write_bytes(bytes(10_000))
    monkeypatch.setattr(image_files, "MOST_BYTES", 9999)
    (root / "b" / "a name\nof two lines.png").write_bytes((root / "b" / "0.png").read_bytes())
    with open(os.fsencode(root / "b") + b"/\xff\xfe.png", "wb") as file:  # noqa: PTH123  bytes
        file.write(b"no image")
    found = open_source(str(root))
    assert sorted(found.sizes) == sorted(
        ["a/0.png", "b/0.png", "b/a name\nof two lines.png", "b/large.png", "b/\udcff\udcfe.png"]
    )
    assert len(build_table(found).rows) == 5
    with pytest.raises(SystemExit) as stopped:
        main(["predict", str(root), "--model", str(run), "--out", "said.csv"])
    assert stopped.value.code == 1
    with Path("said.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        said = {os.path.basename(row["file"]): row["error"] for row in csv.DictReader(file)}  # noqa: PTH119
    assert said.pop("a name\nof two lines.png") == said.pop("0.png") == ""
    assert said.pop("large.png") == "10,000 bytes, more than the 9,999 allowed for one image"
    assert said["pipe.png"] == said["zero.png"] == "not a regular file"
    assert said["gone.png"] == "No such file or directory"
    assert "symbolic links" in said["ring.png"]


def test_a_picture_that_is_a_program_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow would start Ghostscript for it."""
    ghost = tmp_path / "gs"
    ghost.write_text(f"#!/bin/sh\ntouch {tmp_path}/evil\n")
    ghost.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    with pytest.raises(ValueError, match="not an image in a supported format"):
        decode(page, InputFormat(32))
    assert not (tmp_path / "evil").exists()


def test_an_archive_that_unfolds_without_limit(tmp_path: Path) -> None:
    """Its directory says 100 bytes; there are more."""
    path = tmp_path / "bomb.zip"
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("a/0.png", bytes(50_000_000))
        data = bytearray(path.read_bytes())
        place = data.rfind(b"PK\1\2") + 24
        data[place : place + 4] = (100).to_bytes(4, "little")
        path.write_bytes(data)
        opened = open_source(str(path)).reader()
        with opened as read, pytest.raises(READ_ERRORS, match=r"CRC|use deflate"):
            read("a/0.png")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": [0.5]}, "not three numbers each"),
        ({"std": [0.5, 0.5, 0.0]}, "must be over 0"),
        ({"std": [0.5, 0.5, "nan"]}, "not three numbers each"),
        (
            {"options": {"checkpoint_path": "x.pth"}},
            "these options are not allowed: checkpoint_path",
        ),
    ],
)
def test_recipes_of_strangers(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PretrainedConfig.from_dict(PretrainedConfig().as_dict() | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"callbacks": [1]}, "is not in bloodcell's format: callbacks cannot be used"),
        ({"BloodCells": {"trained_on": "all"}}, r"cannot be read as a model \(isin"),
        ({"recipe": {"mean": 1}}, "cannot be read as a model"),
        ({"hyper_parameters": {"lr": "much"}}, "cannot be read as a model"),
    ],
)
def test_checkpoints_of_strangers(
    change: dict[str, Any], message: str, run: Path, refused: Callable[..., str]
) -> None:
    whole = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    for key, value in change.items():
        whole[key] = whole[key] | value if key == "hyper_parameters" else value
    torch.save(whole, "odd.ckpt")
    said = refused("test", "--ckpt_path", "odd.ckpt", "--trainer.accelerator", "cpu")
    assert re.search(f"--ckpt_path odd.ckpt {message}", said)
