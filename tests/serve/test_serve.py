import contextlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Response
from fastapi.testclient import TestClient
from PIL import Image

from bloodcell import load
from bloodcell.data.source import Source, open_source
from bloodcell.errors import InputError
from bloodcell.infer.saved import load_saved
from bloodcell.serve.api import make_api
from bloodcell.serve.guard import Gate, TimelyProtocol
from bloodcell.serve.opinion import Adviser
from bloodcell.serve.page import _head
from bloodcell.serve.photographs import _find_names, find_source, open_photographs
from bloodcell.serve.serve import allowed_hosts

Refused = Callable[..., str]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@contextlib.contextmanager
def serving(model: Path, place: Path, *more: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A running server: its address and its process, which is killed if it does not end."""
    command = [sys.executable, "-m", "bloodcell", "serve", "--model", str(model), "--port", "0"]
    with subprocess.Popen(
        [*command, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=place
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"asked: (http://\S+:\d+) \(Ctrl-C stops it\)", line)
            assert found, line + (process.stderr.read() if process.stderr else "")
            yield found[1], process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def served(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """A server for all tests, ended by Ctrl-C while a page is open."""
    with serving(run, tmp_path_factory.mktemp("served")) as (address, process):
        yield address, process.pid
        with httpx.stream("GET", f"{address}/gradio_api/heartbeat/x", timeout=60) as page:
            assert page.status_code == 200
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=30)
        assert (process.returncode, said.strip().splitlines()[-1]) == (0, "stopped")


@pytest.fixture
def images(smears: Path) -> list[Path]:
    return sorted((smears / "images" / "TEST").glob("*/*.jpeg"))[::10]


def post(address: str, *files: tuple[str, bytes], **options: Any) -> httpx.Response:
    given = [("image", file) for file in files]
    return httpx.post(f"{address}/api/predict", files=given, timeout=60, **options)


def test_health(served: tuple[str, int]) -> None:
    said = httpx.get(f"{served[0]}/health").json()
    assert (said["status"], said["model"], len(said["classes"])) == ("ok", "asked", 4)


def test_the_interface_answers_as_predict_does(
    served: tuple[str, int], images: list[Path], run: Path
) -> None:
    answer = post(served[0], *((path.name, path.read_bytes()) for path in images))
    assert answer.status_code == 200
    said = answer.json()
    assert said["not_for"] == "diagnosis"
    expected = load(run).predict(images)
    for one, other in zip(said["images"], expected, strict=True):
        assert one["class"] == other.class_name
        assert one["probability"] == pytest.approx(other.probability, abs=1e-4)
        near = [neighbour["distance"] for neighbour in one["nearest_of_class"]]
        assert near == sorted(near)
        assert {neighbour["class_name"] for neighbour in one["nearest_of_class"]} == {one["class"]}
        assert one["unlike"] == (one["distance"]["value"] > one["distance"]["threshold"])
        assert one["unlike"] == other.unlike


def test_a_bad_image_costs_its_own_answer(served: tuple[str, int], images: list[Path]) -> None:
    good = (images[0].name, images[0].read_bytes())
    answer = post(served[0], good, ("no.png", b"nothing"), ("empty.png", b""))
    errors = [one.get("error") for one in answer.json()["images"]]
    assert (answer.status_code, errors) == (
        200,
        [None, "not an image in a supported format", "empty file"],
    )
    assert post(served[0], ("no.png", b"nothing")).status_code == 422
    answer = httpx.post(f"{served[0]}/api/predict", files={"file": good})
    assert (answer.status_code, "form field `image`" in answer.json()["error"]) == (422, True)


@pytest.mark.parametrize("place", ["show", "find_heat"])
@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory: 9 bytes")])
def test_memory_that_runs_out_is_explained(
    place: str, error: Exception, run: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(f"bloodcell.serve.opinion.{place}", full)
    client = TestClient(make_api(Adviser(load_saved(run)), None, 10**6))
    answer = client.post("/api/predict", files=[("image", path.read_bytes()) for path in images])
    assert answer.status_code == 503
    said = f"memory ran out for {len(images)} images: send fewer at a time"
    assert said in answer.json()["error"]


def test_what_is_too_large_is_refused(
    served: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    most = "more than the 40 million"
    for side, said in ((9_000, f"9,000 x 9,000 pixels, {most}"), (20_000, f"{most} pixels")):
        monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", None)
        file = io.BytesIO()
        Image.new("1", (side, side)).save(file, "PNG")
        answer = post(served[0], ("bomb.png", file.getvalue()))
        assert answer.status_code == 422
        assert said in answer.json()["images"][0]["error"]
    large = bytes(51_000_000)
    for place in ("/api/predict", "/gradio_api/upload"):
        answer = httpx.post(f"{served[0]}{place}", files={"image": large}, timeout=60)
        assert answer.status_code == 413
        assert answer.json() == {"error": "more than 50 MB in one request"}
    unsaid = (part for part in (b"--x", b"y"))  # its length is not said beforehand
    answer = httpx.post(f"{served[0]}/api/predict", content=unsaid, timeout=60)
    assert answer.status_code == 411
    answer = post(served[0], *[("a.png", b"")] * 33)
    assert (answer.status_code, answer.json()["error"]) == (
        413,
        "33 images; at most 32 per request",
    )


def test_pages_of_others_are_kept_out(served: tuple[str, int], images: list[Path]) -> None:
    """A page of another site that makes the browser send requests here."""
    file = {"image": images[0].read_bytes()}
    for place in ("/api/predict", "/gradio_api/upload"):
        for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
            answer = httpx.post(f"{served[0]}{place}", files=file, headers=headers)
            assert (answer.status_code, "evil.example" in answer.text) == (403, True)
    own = {"Origin": served[0]}
    assert httpx.post(f"{served[0]}/api/predict", files=file, headers=own).status_code == 200
    port = served[0].rpartition(":")[2]
    assert httpx.get(f"http://localhost:{port}/health").status_code == 200


def test_200_at_once_beside_connections_that_say_nothing(
    served: tuple[str, int], images: list[Path]
) -> None:
    host, port = served[0].removeprefix("http://").split(":")
    data = images[0].read_bytes()
    head = b"POST /api/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 999\r\n"
    with contextlib.ExitStack() as silent, ThreadPoolExecutor(200) as pool:
        for said in (b"", head, head + b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x"):
            for _ in range(10):
                line = silent.enter_context(socket.create_connection((host, int(port))))
                line.sendall(said)
        answers = list(pool.map(lambda _: post(served[0], ("a.jpeg", data)), range(200)))
    assert [answer.status_code for answer in answers] == [200] * 200
    assert len({json.dumps(answer.json()["images"][0]["class"]) for answer in answers}) == 1


@pytest.mark.parametrize(
    "request_line",
    [b"GET /../../etc/passwd HTTP/1.1", b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1",
     b"GET /assets/..%2f..%2fetc/passwd HTTP/1.1", b"GET /" + b"a" * 200_000 + b" HTTP/1.1",
     b"BREW /api/predict HTTP/1.1", b"\0\xff\xfe", b"PUT /api/predict HTTP/1.1",
     b"GET /gradio_api/file=../../../../etc/passwd HTTP/1.1"],
)  # fmt: skip
def test_requests_that_are_none(request_line: bytes, served: tuple[str, int]) -> None:
    host, port = served[0].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as line:
        end = b"\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        with contextlib.suppress(ConnectionError):  # it may hang up before all was said
            line.sendall(request_line + end)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while part := line.recv(65_536):
                answer += part
    assert b"root:" not in answer
    assert not answer or int(answer.split()[1]) in (200, 307, 400, 403, 404, 405, 414, 431)
    if b" 200 " in answer[:20]:  # the page itself, whatever was asked for
        assert b"<!doctype html>" in answer.lower()


@pytest.mark.parametrize(
    "start", [b"", b"GET / HTTP/1.1\r\nX: ", b"POST / HTTP/1.1\r\nContent-Length: 999999\r\n\r\n"]
)
def test_a_request_that_never_ends_is_given_up(
    start: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Headers or a body that come byte by byte; also after a request that was whole."""
    monkeypatch.setattr("bloodcell.serve.guard.SLOWEST", 0.3)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        while (message := await receive()).get("more_body"):
            pass
        if message["type"] == "http.request":
            await Response("whole")(scope, receive, send)

    config = uvicorn.Config(app, http=TimelyProtocol, lifespan="off", log_level="warning")
    server = uvicorn.Server(config)
    whole = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        for before in (b"", whole):
            with socket.create_connection(listener.getsockname(), timeout=30) as line:
                line.sendall(before)
                answer = b""
                while before and not answer.endswith(b"whole"):
                    answer += line.recv(1000)
                with pytest.raises(ConnectionError):  # noqa: PT012  it takes some bytes
                    line.sendall(start)
                    for _ in range(1000):
                        time.sleep(0.02)
                        line.sendall(b"x")
        server.should_exit = True
        thread.join()


def test_nothing_else_is_handed_out(served: tuple[str, int]) -> None:
    for path in ("/etc/passwd", __file__):
        answer = httpx.get(f"{served[0]}/gradio_api/file={path}")
        assert answer.status_code == 403
    assert httpx.get(f"{served[0]}/api/nothing").status_code == 404


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_memory_stays_flat(served: tuple[str, int], images: list[Path]) -> None:
    address, process = served
    file = io.BytesIO()
    Image.new("RGB", (4_000, 4_000)).save(file, "PNG")
    large = file.getvalue()  # 48 MB when decoded

    def resident() -> int:
        status = Path(f"/proc/{process}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) * 1024

    def ask(n: int) -> int:
        path = images[n % len(images)]
        return post(address, (path.name, path.read_bytes()), ("no.png", b"no")).status_code

    def ask_much(_: int) -> int:
        return post(address, *[("large.png", large)] * 4).status_code

    with ThreadPoolExecutor(2) as pool:  # two users
        assert set(pool.map(ask, range(60))) == {200}
        assert set(pool.map(ask_much, range(3))) == {200}
        before = resident()
        assert set(pool.map(ask, range(200))) == {200}
        assert set(pool.map(ask_much, range(3))) == {200}
    assert resident() - before < 3 * 48e6  # not the 12 that were decoded


def test_the_training_photographs_are_shown(run: Path, smears: Path, tmp_path: Path) -> None:
    gallery = load_saved(run).gallery
    assert gallery is not None
    with contextlib.ExitStack() as opened:
        source = find_source(run)
        assert source is not None
        assert source.root == smears / "images"
        assert find_source(run / "checkpoints" / "best.ckpt") is not None
        show = open_photographs(source, gallery, False, opened)
        picture = show(gallery.files[0])
        assert picture is not None
        assert max(picture.size) == 96
        assert show("gone.jpeg") is None
        other = tmp_path / "other" / gallery.files[0]
        other.parent.mkdir(parents=True)
        other.write_bytes(b"no image")
        strange = open_source(str(tmp_path / "other"))
        assert open_photographs(strange, gallery, False, opened)(gallery.files[0]) is None
        above = open_source(str(smears))  # outside of the folder of the training
        picture = open_photographs(above, gallery, True, opened)(gallery.files[0])
        assert picture is not None
        with pytest.raises(InputError, match=r"--data .*other lacks \d+ of \d+ photographs"):
            open_photographs(strange, gallery, True, opened)
        both = open_source([str(source.root), str(tmp_path / "other")])
        named = gallery._replace(files=[f"{source.name}/{file}" for file in gallery.files])
        assert open_photographs(both, named, True, opened)(named.files[0]) is not None
        broken = open_photographs(strange, gallery._replace(files=gallery.files[:1]), True, opened)
        assert broken(gallery.files[0]) is None, "it cannot be read"
    assert find_source(tmp_path / "m.safetensors") is None


def test_others_are_let_in_only_with_a_warning_and_term_cleans_up(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    with serving(run, tmp_path, "--host", "0.0.0.0") as (address, process):
        assert httpx.get(f"{address}/health", headers={"Host": "any.example"}).status_code == 200
        assert list((tmp_path / "tmp").glob("*/drawn *.jpeg"))
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
        assert process.returncode == 143
    assert (
        "--host 0.0.0.0: anyone who can reach this machine can use the server, without a password."
        in said
    )
    assert not list((tmp_path / "tmp").glob("*/drawn *.jpeg"))


def test_a_loopback_address_is_called_by_its_own_names_only() -> None:
    assert allowed_hosts("0.0.0.0", "0.0.0.0") is None
    hosts = allowed_hosts("my-machine", "127.0.1.1")
    names = ("my-machine", "127.0.1.1", "127.0.0.1", "localhost", "[::1]")
    assert hosts == frozenset(names)
    app = FastAPI()
    app.get("/")(lambda: "in")
    app.add_middleware(Gate, hosts=hosts, most_bytes=1)
    for host, status in (("my-machine:7860", 200), ("127.0.1.1", 200), ("evil.example", 403)):
        answer = TestClient(app).get("/", headers={"Host": host})
        assert answer.status_code == status, host


def ask_page(address: str, function: int, *data: Any) -> list[Any]:
    """What the page gets when it calls a function of its components."""
    place, session = f"{address}/gradio_api/queue", {"session_hash": "a"}
    asked = {"data": data, "fn_index": function, **session}
    httpx.post(f"{place}/join", json=asked).raise_for_status()
    with httpx.stream("GET", f"{place}/data", params=session, timeout=60) as lines:
        for line in lines.iter_lines():
            if "process_completed" in line:
                said = json.loads(line.removeprefix("data: "))
                assert said["success"], said
                return list(said["output"]["data"])
    raise AssertionError("no answer")


def test_what_the_page_shows(served: tuple[str, int], images: list[Path], run: Path) -> None:
    address = served[0]
    given = [(path.name, path.read_bytes()) for path in images[:1]] + [("bad.png", b"no image")]
    uploaded = httpx.post(f"{address}/gradio_api/upload", files=[("files", one) for one in given])
    files = [
        {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}
        for path, (name, _) in zip(uploaded.json(), given, strict=True)
    ]
    events = httpx.get(f"{address}/config").json()["dependencies"]
    classify, show = (
        next(one["id"] for one in events if one["targets"] and one["targets"][0][1] == event)
        for event in ("change", "input")
    )
    (answers,) = ask_page(address, classify, files)
    (good, zero), (bad, one) = answers["choices"]
    (expected,) = load(run).predict(images[:1])
    assert expected.probability
    best = max(expected.probability.values())
    assert good.startswith(f"{images[0].name}: {expected.class_name}, {best:.1%}")
    assert (bad, zero, one) == ("bad.png: not an image in a supported format", 0, 1)
    details, image, evidence, label, likeness, names, pictures = ask_page(address, show, files, 0)
    assert details["visible"]
    assert label["label"] == expected.class_name
    confidence = {each["label"]: each["confidence"] for each in label["confidences"]}
    assert confidence == pytest.approx(expected.probability, abs=1e-4)
    assert "Distance from the training images" in likeness
    rows = names["value"]["data"]
    assert [row[1] for row in rows] == [each["caption"] for each in pictures["value"]]
    assert len(rows) == 3
    for shown in (image, evidence, *(each["image"] for each in pictures["value"])):
        with Image.open(io.BytesIO(httpx.get(shown["url"]).content)) as picture:
            assert max(picture.size) > 30
    assert not ask_page(address, show, files, 1)[0]["visible"]
    assert not ask_page(address, classify, None)[0]["visible"]
    (answers,) = ask_page(address, classify, files[:1] * 22)
    assert answers["info"] == "2 more images were skipped: at most 20 at a time."
    assert len(answers["choices"]) == 20


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:playwright")
def test_in_a_browser(served: tuple[str, int], images: list[Path], tmp_path: Path) -> None:
    """Two people at once, a bad file among theirs, and a drawn example; nothing leaves."""
    sync_api = pytest.importorskip("playwright.sync_api")
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        hosts: set[str] = set()
        pages = [browser.new_page() for _ in range(2)]
        for page in pages:
            page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
            page.goto(served[0])
            page.wait_for_selector("#images input[type=file]", state="attached")
            assert "Not for diagnosis" in page.inner_text("body")
        chosen = [images[:2], [images[2], bad]]
        for page, files in zip(pages, chosen, strict=True):
            page.set_input_files("#images input[type=file]", [str(file) for file in files])
        for page, files in zip(pages, chosen, strict=True):
            page.wait_for_selector("#details img >> nth=4", timeout=30_000)  # 3 are of training
            lines = page.locator("#answers label").all_inner_texts()
            assert [line.split(": ")[0] for line in lines] == [file.name for file in files]
        pages[1].get_by_text("bad.png: not an image in a supported format").click()
        pages[1].wait_for_selector("#details", state="hidden")
        pages[0].get_by_text("drawn monocyte").click()
        pages[0].get_by_text("drawn monocyte.jpeg: ").wait_for(timeout=30_000)
        browser.close()
    assert {host for host in hosts if host} == {served[0].split("/")[2]}


def test_what_cannot_be_served_is_refused(run: Path, refused: Refused) -> None:
    assert "serve takes no further arguments (got: a.png)" in refused("serve", "a.png")
    assert "--port=99999 cannot be used" in refused("serve", "--port", "99999")
    assert "has no feature maps" in refused("serve", "--model", _touch("m.onnx"))
    said = refused("serve", "--model", str(run), "--data", "nothing", "--port", "0")
    assert "--data='nothing' does not exist" in said
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = refused("serve", "--model", str(run), "--port", port)
    assert f"--host 127.0.0.1 --port {port} cannot be used" in said
    assert "--port 0 for a free port" in said


def test_missing_packages_are_named(
    run: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    said = refused("serve", "--model", str(run), "--port", "0")
    assert "serve needs more packages: pip install 'bloodcell[serve]'" in said


def _touch(name: str) -> str:
    Path(name).touch()
    return os.fspath(Path(name))


def test_photographs_of_several_data_sets_in_other_folders() -> None:
    """The bundled model was trained on an archive with a folder `chula`; the named set has none."""
    names = ("chula/B-1.jpg#1", "chula/B-2.jpg#1", "pbc/set/ba/1.jpg", "pbc/set/eo/1.jpg")
    sizes = dict.fromkeys(names, 1)
    one = Source(Path("one"), {}, {})
    source = Source(Path("all"), sizes, sizes, sets={"chula": one, "pbc": one})
    files = ["chula/chula/B-1.jpg#1", "pbc/pbc/eo/1.jpg", "pbc/pbc/mo/1.jpg", "kaggle/B-2.jpg#1"]
    assert _find_names(source, files) == {
        "chula/chula/B-1.jpg#1": "chula/B-1.jpg#1",
        "pbc/pbc/eo/1.jpg": "pbc/set/eo/1.jpg",
    }
    other = Source(Path("other"), {"C/1.png": 1}, {})
    assert len(_find_names(other, ["A/1.png", "B/1.png"])) < 2, "one photograph is not two"


def test_the_head_of_a_model_with_old_scores(run: Path) -> None:
    description = load_saved(run).description
    assert "Accuracy" in _head(description)
    old = {key: value for key, value in description.scores.items() if key != "photos"}
    without: list[dict[str, Any]] = [old, {"test": []}, {}]
    for scores in without:
        assert "Accuracy" not in _head(replace(description, scores=scores))
