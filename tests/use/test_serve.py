import io
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

Refused = Callable[..., str]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def served(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """A running server: its address and its process."""
    command = [sys.executable, "-m", "bloodcell", "serve", "--model", str(run), "--port", "0"]
    place = tmp_path_factory.mktemp("served")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=place
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"asked: (http://127\.0\.0\.1:\d+) \(Ctrl-C ends it\)", line)
        assert found, line + (process.stderr.read() if process.stderr else "")
        yield found[1], process.pid
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert (process.returncode, said.strip()) == (0, "stopped")


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
    from bloodcell import load

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
        assert one["unlike_training"] == (one["distance"]["nearest"] > one["distance"]["threshold"])


def test_a_bad_image_costs_its_own_answer(served: tuple[str, int], images: list[Path]) -> None:
    good = (images[0].name, images[0].read_bytes())
    answer = post(served[0], good, ("no.png", b"nothing"), ("empty.png", b""))
    errors = [one.get("error") for one in answer.json()["images"]]
    assert (answer.status_code, errors) == (
        200,
        [None, "no image of a known format", "empty file"],
    )
    assert post(served[0], ("no.png", b"nothing")).status_code == 422


def test_what_is_too_large_is_refused(
    served: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for side, said in ((9_000, "9,000 x 9,000 pixels, more than the 40"), (20_000, "bomb")):
        monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", None)
        file = io.BytesIO()
        Image.new("1", (side, side)).save(file, "PNG")
        answer = post(served[0], ("bomb.png", file.getvalue()))
        assert answer.status_code == 422
        assert said in answer.json()["images"][0]["error"]
    large = bytes(51_000_000)
    for place in ("/api/predict", "/gradio_api/upload"):
        answer = httpx.post(f"{served[0]}{place}", files={"image": large}, timeout=60)
        assert (answer.status_code, answer.json()) == (
            413,
            {"error": "more than 50 MB in one request"},
        )
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    unsaid = (part for part in (head, large))  # its length is not said beforehand
    kind = {"content-type": "multipart/form-data; boundary=x"}
    url = f"{served[0]}/api/predict"
    assert httpx.post(url, content=unsaid, headers=kind, timeout=60).status_code == 413
    answer = post(served[0], *[("a.png", b"")] * 33)
    assert (answer.status_code, answer.json()["error"]) == (413, "33 images; at most 32 at a time")


def test_nothing_else_is_handed_out(served: tuple[str, int]) -> None:
    for path in ("/etc/passwd", __file__):
        answer = httpx.get(f"{served[0]}/gradio_api/file={path}")
        assert answer.status_code == 403
    assert httpx.get(f"{served[0]}/api/nothing").status_code == 404


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_memory_stays_flat(served: tuple[str, int], images: list[Path]) -> None:
    address, process = served

    def resident() -> int:
        status = Path(f"/proc/{process}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0])

    def ask(n: int) -> int:
        path = images[n % len(images)]
        return post(address, (path.name, path.read_bytes()), ("no.png", b"no")).status_code

    with ThreadPoolExecutor(2) as pool:  # two users
        assert set(pool.map(ask, range(100))) == {200}
        before = resident()
        assert set(pool.map(ask, range(500))) == {200}
    assert resident() - before < 30_000  # KB


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
            page.wait_for_selector(".bc-card >> nth=1", timeout=30_000)
            assert page.locator(".bc-card h3").all_inner_texts() == [f.name for f in files]
        assert pages[0].locator(".bc-card").first.locator(".bc-bar").count() == 4
        shown = pages[0].locator(".bc-card").first.locator("img")
        assert shown.count() == 2 + 3  # the image, its heat, its nearest training photographs
        assert "no image of a known format" in pages[1].inner_text(".bc-bad >> nth=-1")
        pages[0].get_by_text("drawn monocyte").click()
        pages[0].get_by_role("heading", name="drawn monocyte.jpeg").wait_for(timeout=30_000)
        browser.close()
    assert {host for host in hosts if host} == {served[0].split("/")[2]}


def test_what_cannot_be_served_is_refused(run: Path, refused: Refused) -> None:
    assert "serve takes no other words (got: a.png)" in refused("serve", "a.png")
    assert "--port=99999 cannot be used" in refused("serve", "--port", "99999")
    assert "keeps no maps" in refused("serve", "--model", _touch("m.onnx"))
    said = refused("serve", "--model", str(run), "--data", "nothing", "--port", "0")
    assert "--data='nothing' does not exist" in said
    said = refused("serve", "--model", str(run), "--host", "192.0.2.1", "--port", "0")
    assert "cannot be listened at" in said
    assert "--port 0 for a free one" in said


def _touch(name: str) -> str:
    Path(name).touch()
    return os.fspath(Path(name))
