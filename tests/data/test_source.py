import os
import shutil
import threading
import zipfile
from collections.abc import Callable
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from kagglehub.cache import Cache
from kagglehub.handle import parse_dataset_handle
from kagglesdk import kaggle_env
from kagglesdk.kaggle_env import KaggleEnv

from bloodcell.data.source import check_root, open_source
from bloodcell.datasets import kaggle
from bloodcell.errors import InputError


def zip_of(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    return path


def test_a_folder_and_its_zip_read_the_same(smears: Path, tmp_path: Path) -> None:
    folder = open_source(str(smears))
    archive = open_source(str(zip_of(smears, tmp_path / "smears.zip")))
    assert folder.sizes == archive.sizes
    assert len(folder.sizes) == 4 * (8 * 2 + 5 * 2 + 5)
    name = next(iter(folder.sizes))
    with folder.reader() as read_file, archive.reader() as read_member:
        assert read_file(name) == read_member(name)


def test_hidden_and_other_files_are_no_images(make_folders: Callable[..., Path]) -> None:
    root = make_folders({"a": 1, "b": 1})
    (root / "a" / "._0.png").write_bytes(b"mac")
    (root / "__MACOSX" / "a").mkdir(parents=True)
    (root / "__MACOSX" / "a" / "0.png").write_bytes(b"mac")
    (root / "labels.csv").write_text("file,class\n")
    assert list(open_source(str(root)).sizes) == ["a/0.png", "b/0.png"]


def test_nothing_there_says_what_is(make_folders: Callable[..., Path]) -> None:
    root = make_folders({"a": 1, "b": 1})
    (root / "notes.txt").touch()
    there = r"pictures/c' does not exist .*in \S+/pictures: a, b\)\. Give it .*"
    there += r" or a name: .*kaggle \(the Blood Cells set\)"
    with pytest.raises(InputError, match=there):
        open_source(str(root / "c"))


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("blod-cells.zip", "blood-cells.zip"),
        ("smers/TRAIN", "smears/TRAIN"),
        ("smears/TRIAN", "smears/TRAIN"),
        ("kagle", "kaggle"),
    ],
)
def test_a_misspelt_root_suggests_the_nearest(given: str, meant: str) -> None:
    Path("smears/TRAIN").mkdir(parents=True)
    for name in ("blood-cells.zip", *(f"blood {n}.png" for n in range(9))):
        Path(name).touch()
    with pytest.raises(InputError, match=rf"Did you mean {meant}\? Give it a folder"):
        check_root(given)


def test_a_misspelt_root_suggests_nothing_that_is_missing() -> None:
    for name in "abcdef":
        Path(f"smears_{name}").mkdir()
    few = r"smears_a, smears_b, smears_c, smears_d and 2 more\)\. Give it a folder"
    with pytest.raises(InputError, match=few):
        check_root("smears/TRAIN")


def test_a_damaged_zip_is_named(smears: Path, tmp_path: Path) -> None:
    path = zip_of(smears, tmp_path / "smears.zip")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"smears\.zip' cannot be read as a zip.*download it"):
        open_source(str(path))


@pytest.mark.parametrize("name", ["../a/0.png", "/a/0.png", "a/../../0.png", "C:/a/0.png"])
def test_a_zip_with_a_path_that_leaves_it_is_refused(name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr(name, b"")
    with pytest.raises(InputError, match=r"bad\.zip' contains a path outside of it"):
        open_source(str(tmp_path / "bad.zip"))


@pytest.fixture
def kaggle_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place where kagglehub keeps the set, empty and marked as complete; no network."""
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setitem(kaggle_env._env_to_endpoint, KaggleEnv.PROD, "http://127.0.0.1:1")
    handle = parse_dataset_handle(f"{kaggle.HANDLE}/versions/{kaggle.VERSION}")
    Cache().mark_as_complete(handle)
    folder = Path(Cache().get_path(handle))
    folder.mkdir(parents=True)
    return folder


def test_kaggle_is_downloaded_once(
    smears: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real way through kagglehub, answered by a server here that sends a small archive."""
    archive = zip_of(smears, tmp_path / "archive.zip").read_bytes()
    asked = []

    class Kaggle(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "application/zip")
            self.send_header("Content-Length", str(len(archive)))
            self.end_headers()
            self.wfile.write(archive)

        def log_message(self, format: str, *args: object) -> None:
            pass

    lines = sorted(
        f"{p.relative_to(smears / 'images').as_posix()} {sha256(p.read_bytes()).hexdigest()}\n"
        for p in smears.rglob("*.jpeg")
    )
    monkeypatch.setattr(kaggle, "N_FILES", len(lines))
    monkeypatch.setattr(kaggle, "DIGEST", sha256("".join(lines).encode()).hexdigest())
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "hub"))
    with HTTPServer(("127.0.0.1", 0), Kaggle) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setitem(kaggle_env._env_to_endpoint, KaggleEnv.PROD, address)
        first = open_source("kaggle")
        server.shutdown()
        thread.join()
    assert len(first.sizes) == len(lines)
    assert len(asked) == 1
    assert open_source("kaggle").sizes == first.sizes  # the server is gone


def test_kaggle_from_the_cache_misses_files(kaggle_cache: Path) -> None:
    (kaggle_cache / "images" / "TRAIN" / "MONOCYTE").mkdir(parents=True)
    (kaggle_cache / "images" / "TRAIN" / "MONOCYTE" / "_0_1.jpeg").touch()
    with pytest.raises(InputError, match=r"contains 1 images, not 12,515.*bloodcell download"):
        open_source("kaggle")


@pytest.mark.real
def test_kaggle_from_the_cache_is_checked(kaggle_cache: Path, real_zip: Path) -> None:
    with zipfile.ZipFile(real_zip) as archive:
        archive.extractall(kaggle_cache)
    assert len([n for n in open_source("kaggle").sizes if "/images/" in n]) == kaggle.N_FILES
    changed = next(kaggle_cache.rglob("TRAIN/*/*.jpeg"))
    changed.write_bytes(changed.read_bytes() + b"\0")
    with pytest.raises(InputError, match="differ from the published set"):
        open_source("kaggle")


def test_kaggle_without_a_network_names_the_ways_out(kaggle_cache: Path) -> None:
    shutil.rmtree(kaggle_cache)
    with pytest.raises(InputError, match=r"could not be downloaded.*--data\.root drawn"):
        open_source("kaggle")


def test_linked_class_folders_are_read_once_each(make_folders: Callable[..., Path]) -> None:
    root = make_folders({"elsewhere/a": 3}, "far")
    here = make_folders({"b": 2})
    (here / "a").symlink_to(root / "elsewhere" / "a")
    (here / "b" / "loop").symlink_to(here)
    assert sorted(open_source(str(here)).sizes) == [
        "a/0.png", "a/1.png", "a/2.png", "b/0.png", "b/1.png",
    ]  # fmt: skip


def test_an_archive_with_an_entry_for_its_root(smears: Path, tmp_path: Path) -> None:
    path = tmp_path / "dots.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("./", "")
        archive.write(next(smears.rglob("*.jpeg")), "a/0.jpeg")
    assert list(open_source(str(path)).sizes) == ["a/0.jpeg"]


def test_a_root_given_relatively_keeps_its_name(
    make_folders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folders({"TRAIN/a": 1, "TRAIN/b": 1})
    monkeypatch.chdir(root / "TRAIN")
    for given in (".", "a/..", str(root / "TRAIN")):
        assert open_source(given).root.name == "TRAIN"


def test_a_hidden_link_hides_no_class_folder(make_folders: Callable[..., Path]) -> None:
    root = make_folders({"a": 1, "b": 1})
    (root / ".cache").mkdir()
    (root / ".cache" / "a").symlink_to(root / "a")
    assert list(open_source(str(root)).sizes) == ["a/0.png", "b/0.png"]


@pytest.mark.parametrize(("letters", "coded"), [("utf-8", b"Gr\xc3\xb6e"), ("cp437", b"Gr\x94es")])
def test_names_in_archives_of_other_programs(letters: str, coded: bytes, tmp_path: Path) -> None:
    """Some write UTF-8 without a flag, some the letters of old Windows, some backslashes."""
    path = tmp_path / "names.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("12345/0.png", b"one")
        archive.writestr("a\\0.png", b"two")
    path.write_bytes(path.read_bytes().replace(b"12345", coded))
    source = open_source(str(path))
    name = f"{coded.decode(letters)}/0.png"
    assert sorted(source.sizes) == sorted([name, "a/0.png"])
    with source.reader() as read:
        assert (read(name), read("a/0.png")) == (b"one", b"two")


def test_a_folder_that_cannot_be_read(
    make_folders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, scan = make_folders({"a": 1, "b": 1, "lost+found": 1}), os.scandir

    def refuse(path: str) -> Any:
        if Path(path).name in ("b", "lost+found"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=r"b cannot be read \(Permission denied\)\. Correct its"):
        open_source(str(root))


@pytest.mark.parametrize("coding", ["utf-8", "utf-16"])
def test_boxes_in_an_archive(coding: str, tmp_path: Path) -> None:
    table = "file,class,xmin,ymin,xmax,ymax\na.png,x,1,1,9,9\na.png,y,20,20,30,30\n"
    path = tmp_path / "boxes.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("./boxes.csv", table.encode(coding))
        archive.writestr("./a.png", b"")
    assert [cell.class_name for cell in open_source(str(path)).cells.values()] == ["x", "y"]


def test_a_damaged_table_of_boxes(tmp_path: Path) -> None:
    path = tmp_path / "boxes.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("boxes.csv", "file,class,xmin,ymin,xmax,ymax\n")
    path.write_bytes(path.read_bytes().replace(b"file,class", b"file;class", 1))
    with pytest.raises(InputError, match=r"boxes\.csv cannot be read \(Bad CRC.*Make the archive"):
        open_source(str(path))
