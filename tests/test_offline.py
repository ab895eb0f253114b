"""Nothing asks the network for what was not asked for: that is download, kaggle and imagenet."""

import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import bloodcell
from bloodcell.cli.main import main


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Addresses that were tried; each try fails, and one that was kept quiet fails the test."""
    addresses: list[str] = []

    def refuse(address: Any) -> None:
        addresses.append(str(address))
        raise AssertionError(f"the network was asked for {address}")

    def of_a_socket(connect: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(self: socket.socket, *words: Any) -> Any:
            if self.family != socket.AF_UNIX:
                refuse(words[-1])
            return connect(self, *words)

        return guarded

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, of_a_socket(getattr(socket.socket, name)))
    for name in ("create_connection", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, lambda address, *_, **__: refuse(address))
    monkeypatch.setattr(urllib.request, "urlopen", lambda address, *_, **__: refuse(address))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    yield addresses
    assert not addresses


def test_whoever_tries_fails(tried: list[str]) -> None:
    with socket.socket() as one, pytest.raises(AssertionError, match=r"asked for .*198\.51"):
        one.connect(("198.51.100.1", 443))
    with socket.socket(type=socket.SOCK_DGRAM) as one, pytest.raises(AssertionError):
        one.sendto(b"", ("198.51.100.1", 53))
    with pytest.raises(AssertionError, match=r"asked for .*example"):
        socket.create_connection(("example.org", 443))
    with pytest.raises(AssertionError, match=r"asked for .*example"):
        urllib.request.urlopen("http://example.org")
    assert len(tried) == 4
    tried.clear()
    one, other = socket.socketpair()
    one.close()
    other.close()


@pytest.mark.usefixtures("tried")
def test_training_and_scoring(run: Path, words: list[str]) -> None:
    main(["fit", *words, "--trainer.fast_dev_run", "true"])
    copy = shutil.copytree(run, "asked/version_0")
    main(["test", "--ckpt_path", str(copy), "--trainer.accelerator", "cpu"])


@pytest.mark.usefixtures("tried")
def test_asking(run: Path, smears: Path) -> None:
    folder = str(smears / "images" / "TEST" / "MONOCYTE")
    main(["predict", folder, "--out", "bundled.csv"])
    main(["explain", folder, "--model", str(run)])
    main(["export", folder, "--model", str(run), "--out", "m.safetensors"])
    main(["predict", folder, "--model", "m.safetensors", "--out", "said.csv"])
    assert len(bloodcell.load(run).predict(folder).classes) == 10


@pytest.mark.usefixtures("tried")
def test_looking(run: Path, make_folders: Callable[..., Path]) -> None:
    main(["audit", str(make_folders({"train/a": 3, "train/b": 3}))])
    main(["compare", str(run), "--out", "runs.md"])
    main(["cache"])


def test_gradio_is_told_to_tell_nobody(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR"):
        monkeypatch.setenv(name, "True")  # and put back afterwards
    Path("gradio.py").write_text(
        "import os\nraise SystemExit(os.environ['GRADIO_ANALYTICS_ENABLED'])"
    )
    monkeypatch.syspath_prepend(".")
    monkeypatch.delitem(sys.modules, "gradio", raising=False)
    with pytest.raises(SystemExit, match=r"^False$"):
        main(["serve", "--model", str(run), "--port", "0"])


def as_a_user(*words: str) -> subprocess.CompletedProcess[str]:
    """Runs Python in an empty home; with `CI` set, onnxruntime would keep silent of itself."""
    kept = {k: v for k, v in os.environ.items() if k != "CI" and not k.endswith("TELEMETRY")}
    home = str(Path.cwd())
    return subprocess.run(
        [sys.executable, *words], env=kept | {"HOME": home, "XDG_CACHE_HOME": home},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_onnxruntime_tells_nobody() -> None:
    """From 1.29 on it sends what it is used for, and keeps a number for this machine."""
    Image.new("RGB", (8, 8)).save("a.png")
    Path("m.onnx").write_bytes(b"no model")
    done = as_a_user("-m", "bloodcell", "predict", "a.png", "--model", "m.onnx")
    assert "cannot be read as an ONNX model" in done.stderr
    assert [path for path in Path().rglob("*") if "onnxruntime" in path.name] == []


def test_the_hub_is_told_only_what_is_wanted() -> None:
    read = "import bloodcell, huggingface_hub.constants as c; print(c.HF_HUB_DISABLE_TELEMETRY)"
    done = as_a_user("-c", read)
    assert done.stdout == "True\n", done.stderr
