"""The sets of other laboratories: their downloads, and copies that are recognised."""

import csv
import errno
import re
import socket
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from kagglehub.cache import Cache
from kagglehub.handle import parse_dataset_handle
from kagglesdk import kaggle_env
from kagglesdk.kaggle_env import KaggleEnv
from PIL import Image

from bloodcell.data.source import open_source
from bloodcell.data.table import build_table
from bloodcell.datasets import chula, pbc
from bloodcell.datasets.classes import common, find_class
from bloodcell.datasets.downloads import download_file
from bloodcell.datasets.named import recognise
from bloodcell.errors import InputError
from bloodcell.files import make_once


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("NEUTROPHIL", "neutrophil"),
        ("Neutrophils", "neutrophil"),
        ("SNE", "neutrophil"),
        ("band_neutrophils", "neutrophil"),
        ("ig", "immature granulocyte"),
        ("Immature-Granulocytes", "immature granulocyte"),
        ("PLT", "platelet"),
        ("PMNs", "neutrophil"),
        ("plts", "platelet"),
        ("Smudge cells", "smudge cell"),
        ("Howell-Jolly bodies", "howell jolly body"),
        ("Debris", "debris"),
        ("Anisocytosis", "anisocytosis"),
    ],
)
def test_common_names(given: str, name: str) -> None:
    assert common(given) == common(name) == name


def test_a_copy_of_the_pbc_set_is_recognised_by_its_structure() -> None:
    paths = [f"any/{name}/{code}_12.jpg" for name, code in zip(pbc.N_FILES, "BA EO ERB MY LY MO SNE PLATELET".split(), strict=True)]  # fmt: skip # noqa: E501, SIM905
    assert recognise(paths) is pbc.DATASET
    assert recognise(paths[1:]) is None
    assert recognise([path.replace("_12", "") for path in paths]) is None


@pytest.fixture
def pbc_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "hub"))
    handle = parse_dataset_handle(f"{pbc.HANDLE}/versions/{pbc.VERSION}")
    Cache().mark_as_complete(handle)
    return Path(Cache().get_path(handle))


def test_the_download_of_the_pbc_set_is_counted(
    pbc_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {"basophil": 2, "ig": 1}
    for name, count in counts.items():
        for number in range(count):
            file = pbc_cache / "bloodcells_dataset" / name / f"X_{number}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (80, 80), "pink").save(file)
    with pytest.raises(InputError, match=r"data\.root='pbc': .*2 images.*basophil, not 1,218\. De"):
        open_source("pbc")
    monkeypatch.setattr(pbc, "N_FILES", counts)
    table = build_table(open_source("pbc"))
    assert table.class_names == ("basophil", "ig")
    assert {row.dataset for row in table.rows} == {"pbc"}


def test_the_pbc_set_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setitem(kaggle_env._env_to_endpoint, KaggleEnv.PROD, "http://127.0.0.1:1")
    with pytest.raises(InputError, match=r"'pbc' could not be downl.*unclesamulus/blood.*\.zip\.$"):
        open_source("pbc")


def write_source(path: Path, left_out: str = "") -> None:
    """Writes an archive as the source of the Chula set: 2 cells in one photograph, 1 in others."""
    lines = {
        "E-11_0001": "1 0.25 0.5 0.1 0.2\n\n0 0.75 0.5 0.1 0.2\n",
        "B-30_0001": "2 0.5 0.5 0.2 0.2\n",
        "L-9_0001": "3 0.5 0.5 0.2 0.2\n",
        "HF-M-8_0037": "4 0.5 0.5 0.2 0.2\n",
    }
    Image.new("RGB", (80, 80), "pink").save(path.with_name("photo.jpg"))
    with zipfile.ZipFile(path, "w") as archive:
        for stem, text in lines.items():
            if stem != left_out:
                archive.write(path.with_name("photo.jpg"), f"main/train/images/{stem}.jpg")
                archive.writestr(f"main/labels/{stem}.txt", text)
        archive.writestr("main/README.md", "# WBC")
        archive.write(path.with_name("photo.jpg"), "main/train/images/N-1B_0001.jpg")  # no box


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server that sends a small archive instead of the source's."""
    write_source(tmp_path / "source.zip")
    data = (tmp_path / "source.zip").read_bytes()

    class Github(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Github) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setattr(chula, "ADDRESS", f"http://127.0.0.1:{server.server_port}/main.zip")
        yield chula.ADDRESS
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("address")
def test_the_chula_set_is_downloaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    table = build_table(open_source("chula"))
    assert table.class_names == chula.CLASS_NAMES
    rows = {row.path: row for row in table.rows}
    assert [*rows] == [
        *("B-30_0001.jpg#1", "E-11_0001.jpg#1", "E-11_0001.jpg#2", "HF-M-8_0037.jpg#1"),
        "L-9_0001.jpg#1",
    ]
    assert rows["E-11_0001.jpg#2"].class_name == "neutrophil"
    assert [row.cell for row in table.rows] == ["B-30", "E-11", "E-11", "M-8", "L-9"]
    source = open_source("chula")
    assert source.centre("E-11_0001.jpg#1") == (20, 40)
    assert source.centre("E-11_0001.jpg#2") == (60, 40)
    monkeypatch.setattr(chula, "ADDRESS", "http://127.0.0.1:1")  # the server is gone
    assert open_source("chula").sizes == source.sizes


def test_the_chula_set_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chula, "ADDRESS", "http://127.0.0.1:1/main.zip")
    advice = r"'chula' could not be downloaded.*main\.zip elsewhere, save it as (.*), and repeat"
    with pytest.raises(InputError, match=advice) as stopped:
        open_source("chula")
    given = Path(re.search(advice, str(stopped.value))[1])  # type: ignore[index]
    write_source(given, left_out="L-9_0001")
    with pytest.raises(InputError, match=rf"lymphocyte\..* Or delete {given} to download"):
        open_source("chula")
    write_source(given)
    assert len(open_source("chula").sizes) == 5
    assert given.is_file(), "it belongs to the user"


def test_a_full_disk_is_not_a_missing_network(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", fill)
    with pytest.raises(OSError, match="No space left"):
        download_file("chula", address, tmp_path / "x.zip")
    assert not list(tmp_path.glob("x*"))


def test_a_finished_cache_is_only_read(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    make_once(tmp_path / "set", lambda: pytest.fail("it is there"))
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"Content-Length: 100\r\n\r\nhalf", r"downloaded \(only 4 of 100 bytes arrived\)"),
        (b"Transfer-Encoding: chunked\r\n\r\n64\r\nhalf", r"downloaded \(IncompleteRead"),
        (b"Content-Length: 4\r\n\r\nhalf", r"is damaged \(File is not a zip file\)\. Repeat"),
    ],
)
def test_a_download_that_breaks(
    answer: bytes, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def serve(server: socket.socket) -> None:
        caller, _ = server.accept()
        with caller:
            caller.recv(4096)
            caller.sendall(b"HTTP/1.1 200 OK\r\n" + answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(chula, "ADDRESS", f"http://127.0.0.1:{server.getsockname()[1]}/x.zip")
        thread = threading.Thread(target=serve, args=[server])
        thread.start()
        with pytest.raises(InputError, match=message):
            open_source("chula")
        thread.join()


def test_a_source_that_lacks_a_class_leaves_nothing_behind(tmp_path: Path) -> None:
    write_source(tmp_path / "source.zip", left_out="L-9_0001")
    with pytest.raises(InputError, match=r"contains no boxes of the classes lymphocyte\..*boxes"):
        chula.unpack(tmp_path / "source.zip", tmp_path / "unpacked")


def test_a_source_whose_boxes_have_changed(tmp_path: Path) -> None:
    write_source(tmp_path / "source.zip")
    with zipfile.ZipFile(tmp_path / "source.zip", "a") as archive:
        archive.write(tmp_path / "photo.jpg", "main/train/images/N-2_0001.jpg")
        archive.writestr("main/labels/N-2_0001.txt", "0 0.5 0.5\n")
    message = r"main/labels/N-2_0001\.txt in .* has no boxes for N-2_0001\.jpg \(not enough values"
    with pytest.raises(InputError, match=message):
        chula.unpack(tmp_path / "source.zip", tmp_path / "unpacked")


def test_a_copy_of_the_chula_set_is_recognised(tmp_path: Path) -> None:
    write_source(tmp_path / "source.zip")
    chula.unpack(tmp_path / "source.zip", tmp_path / "mine")
    assert open_source(str(tmp_path / "mine")).name == "chula"
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as archive:
        for file in (tmp_path / "mine").iterdir():
            archive.write(file, f"any/{file.name}")
    archived = open_source(str(tmp_path / "mine.zip"))
    assert archived.name == "chula"
    assert archived.centre("any/E-11_0001.jpg#2") == (60, 40)
    with archived.reader() as read:
        assert read("any/E-11_0001.jpg#2") == (tmp_path / "mine/E-11_0001.jpg").read_bytes()


@pytest.fixture
def boxed(make_folders: Callable[..., Path]) -> Callable[[str], Path]:
    """A folder of two photographs with the given table of boxes."""

    def make(text: str) -> Path:
        root = make_folders({"": 2})
        (root / "boxes.csv").write_text(text)
        return root

    return make


HEADER = "file,class,xmin,ymin,xmax,ymax\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2.png,a,1,1,2,2", r"boxes\.csv, line 2: file='2\.png', class='a'\. It must name an im"),
        ("0.png,,1,1,2,2", r"line 2: file='0\.png', class=''"),
        ("0.png,a,3,1,2,2", r"the box from \(3, 1\) to \(2, 2\) is empty"),
        ("0.png,a,x,1,2,2", r"the box from \(nan, 1\) to \(2, 2\) is empty"),
    ],
)
def test_bad_boxes(boxed: Callable[[str], Path], line: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_source(str(boxed(f"{HEADER}{line}\n")))


def test_without_slides_a_photograph_stays_together(boxed: Callable[[str], Path]) -> None:
    root = boxed(f"{HEADER}0.png,a,1,1,2,2\n0.png,b,5,5,9,9\n1.png,b,1,1,2,2\n")
    rows = build_table(open_source(str(root))).rows
    assert [(row.path, row.class_name, row.cell) for row in rows] == [
        *(("0.png#1", "a", "0.png"), ("0.png#2", "b", "0.png"), ("1.png#1", "b", "1.png")),
    ]


def test_accents_in_names_of_boxed_photographs(make_folders: Callable[..., Path]) -> None:
    root = make_folders({"": 1})
    (root / "0.png").rename(root / "a\u0301.png")  # as written on a Mac
    (root / "boxes.csv").write_text(f"{HEADER}./\u00e1.png,a,1,1,2,2\n")
    assert list(open_source(str(root)).sizes) == ["a\u0301.png#1"]


def test_another_table_of_that_name_is_not_read(make_folders: Callable[..., Path]) -> None:
    root = make_folders({"a": 2, "b": 2})
    (root / "boxes.csv").write_text("source_image,cell\n1,WBC\n")
    assert len(build_table(open_source(str(root))).rows) == 4


@pytest.mark.real
def test_the_copies_of_two_laboratories(real_zip: Path) -> None:
    found = build_table(open_source(str(real_zip.with_name("pbc.zip"))))
    assert found.datasets == ["pbc"]
    assert len(found.rows) == 8_000
    source = open_source(str(real_zip.with_name("chula.zip")))
    with zipfile.ZipFile(real_zip.with_name("chula.zip")) as archive:
        lines = [*csv.DictReader(archive.read("chula/boxes.csv").decode().splitlines())]
    rows = build_table(source).rows
    assert source.name == "chula"
    assert len(rows) == len(lines) == 307
    assert sorted((row.class_name, row.cell) for row in rows) == sorted(
        (line["class"], line["slide"]) for line in lines
    )
    assert all(chula.slide_of(line["file"]) == line["slide"] for line in lines)


@pytest.mark.parametrize(
    ("name", "names", "found"),
    [
        ("immature granulocyte", ["ba", "ig"], 1),
        ("Monocytes", ["mo", "monocyte"], 1),
        ("neutrophil", ["SNE", "BNE"], None),
        ("neutrophil", ["SNE", "ly"], 0),
        ("SNE", ["neutrophil", "ly"], 0),
        ("BNE", ["SNE", "ly"], None),
        ("blast", ["ba", "ig"], None),
    ],
)
def test_a_class_among_others(name: str, names: list[str], found: int | None) -> None:
    assert find_class(name, names) == found
