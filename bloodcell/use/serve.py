"""`bloodcell serve`: a page of this machine's own, and an HTTP interface, for one model."""

import contextlib
import ipaddress
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml
from PIL import Image

from bloodcell.data.smears import CLASS_NAMES, draw_photograph
from bloodcell.data.source import DRAWN, open_source
from bloodcell.errors import InputError, require
from bloodcell.report.experiments import CONFIG
from bloodcell.use.model import find_model
from bloodcell.use.opinion import Adviser, Photographs
from bloodcell.use.saved import load_saved

HOST, PORT = "127.0.0.1", 7860
_MOST_BYTES = 50_000_000  # of one request
_MOST_PIXELS = 40_000_000  # of one image: 120 MB decoded


def serve(
    model: str | None = None, host: str = HOST, port: int = PORT, data: str | None = None
) -> bool:
    """Serves a page and an HTTP interface until Ctrl-C.

    Args:
        model: as `--model`.
        host: address to listen at.
        port: likewise; 0 takes a free one.
        data: as `data.root`, to show the nearest training photographs; None: that of the run, if it
            is still there.

    Returns:
        True.

    Raises:
        InputError: if a word cannot be used, the port is taken, or packages are missing.
    """
    require(0 <= port <= 65535, "--port", port, "0 to 65535")
    path = find_model(model)
    if path.suffix == ".onnx":
        raise InputError(f"--model {model}: an exported model keeps no maps. Give the run folder.")
    with (
        _listen(host, port) as listener,
        _photographs(path, data) as photographs,
        tempfile.TemporaryDirectory() as folder,
    ):
        # before it is imported: where uploads lie, and that nobody is told of anything
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        try:
            import gradio
            import uvicorn
        except ImportError as error:
            ways = "pip install 'bloodcell[serve]'"
            raise InputError(f"serve needs more packages: {ways}.") from error
        from bloodcell.use.api import make_api
        from bloodcell.use.page import CSS, make_page, theme

        adviser = Adviser(load_saved(path), _MOST_PIXELS)
        app = make_api(adviser, _MOST_BYTES)
        page = make_page(adviser, _draw_examples(Path(folder)), photographs)
        app = gradio.mount_gradio_app(
            *(app, page, "/"), footer_links=[], ssr_mode=False, theme=theme(), css=CSS
        )
        _announce(adviser.saved.description.name, listener)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        with contextlib.suppress(KeyboardInterrupt):  # its usual end
            server.run([listener])
    print("stopped", file=sys.stderr)
    return True


def _listen(host: str, port: int) -> socket.socket:
    """Takes the port, before a model is loaded for it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise InputError(
            f"--host {host} --port {port} cannot be listened at ({error.strerror}). Give --port 0 "
            "for a free one, or another --host."
        ) from error


def _announce(name: str, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"{name}: http://{shown}:{port} (Ctrl-C ends it)", flush=True)
    if not ipaddress.ip_address(host).is_loopback:
        print(
            f"--host {host}: whoever reaches this machine can use it, without a password.",
            file=sys.stderr,
        )


def _draw_examples(folder: Path) -> list[Path]:
    """Draws a smear of each class."""
    paths = []
    for seed, name in enumerate(CLASS_NAMES):
        paths.append(folder / f"drawn {name.lower()}.jpeg")
        Image.fromarray(draw_photograph(name, seed).pixels).save(paths[-1], quality=92)
    return paths


@contextlib.contextmanager
def _photographs(model: Path, data: str | None) -> Iterator[Photographs]:
    """Gives what finds a training photograph by its name: in the data, if they are at hand."""
    root = data or _root_of(model)
    if root is None:
        yield lambda _: None
        return
    source = open_source(root, "--data")
    with source.reader() as read:
        yield lambda name: read(name) if name in source.sizes else None


def _root_of(model: Path) -> str | None:
    """Where the data of a run lie, if they still do."""
    folder = model if model.is_dir() else model.absolute().parent.parent
    if not (folder / CONFIG).is_file():
        return None
    settings = yaml.load((folder / CONFIG).read_text(encoding="utf-8"), yaml.CSafeLoader)
    root = str(settings["data"]["root"])
    return root if root == DRAWN or Path(root).expanduser().exists() else None
