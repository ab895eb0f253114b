"""`bloodcell serve`: serves a model through a local web page and an HTTP API."""

import contextlib
import ipaddress
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from bloodcell.data.source import Source, open_source
from bloodcell.datasets.drawn import CLASS_NAMES
from bloodcell.datasets.drawn.smears import draw_photograph
from bloodcell.errors import TERMINATED, InputError, require_number
from bloodcell.infer.open import find_trained
from bloodcell.serve.photographs import find_source, open_photographs

if TYPE_CHECKING:
    from fastapi import FastAPI

HOST = "127.0.0.1"
PORT = 7860
_MOST_BYTES = 50_000_000  # limit per request
_MOST_PIXELS = 40_000_000  # limit per image: 120 MB decoded
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})


def serve(
    model: str | None = None, host: str = HOST, port: int = PORT, data: list[str] | None = None
) -> bool:
    """Serves a web page that classifies images.

    Not for diagnosis. Nothing is sent anywhere; uploads are deleted after an hour and at the end.
    For programs: curl -F image=@a.jpeg http://127.0.0.1:7860/api/predict, and GET /health.

    Args:
        model: a run folder, a .ckpt or a .safetensors file (default: the bundled model).
        host: the address to listen on; the default is reachable only from this machine.
        port: the port to listen on; 0 selects a free one.
        data: all training data, each a folder, a .zip or the name of a data set, to show the
            nearest training photographs (default: those of the run, if they still exist).

    Returns:
        True.

    Raises:
        InputError: if an argument is invalid, the port is in use, or packages are missing.
    """
    rule = "a whole number from 0 to 65535; 0 selects a free port"
    require_number("--port", port, rule, 0, 65535, whole=True)
    path = find_trained(model)
    source = open_source(data, "--data") if data else find_source(path)
    with (
        _listen(host, port) as listener,
        tempfile.TemporaryDirectory() as folder,
        contextlib.ExitStack() as opened,
    ):
        address, number = listener.getsockname()[:2]
        # gradio reads these when imported: folder for uploads, no telemetry, no copies in browsers
        quiet = dict.fromkeys(("GRADIO_ANALYTICS_ENABLED", "GRADIO_RUN_HISTORY"), "False")
        os.environ |= {"GRADIO_TEMP_DIR": folder} | quiet
        shown = f"[{address}]" if ":" in address else address
        hosts = allowed_hosts(host, address)
        app, name = _make_app(path, source, bool(data), hosts, Path(folder), opened)
        print(f"{name}: http://{shown}:{number} (Ctrl-C stops it)", flush=True)
        if hosts is None:
            warning = "anyone who can reach this machine can use the server, without a password."
            print(f"--host {host}: {warning}", file=sys.stderr)
        _run(app, listener)
    print("stopped", file=sys.stderr)
    return True


def allowed_hosts(host: str, address: str) -> frozenset[str] | None:
    """Returns the names by which clients may call the server; None allows any.

    Args:
        host: the host that the user asked for.
        address: the IP address on which the server listens. If other machines can reach it, they
            may know it by any name.
    """
    if not ipaddress.ip_address(address).is_loopback:
        return None
    return _LOOPBACK | {host, address}


def _make_app(
    path: Path,
    source: Source | None,
    wanted: bool,
    hosts: frozenset[str] | None,
    folder: Path,
    opened: contextlib.ExitStack,
) -> "tuple[FastAPI, str]":
    """Loads the model; returns the app with page and API, and the name of the model."""
    try:
        import gradio
        import uvicorn  # noqa: F401  checked before the model is loaded
    except ImportError as error:
        raise InputError("serve needs more packages: pip install 'bloodcell[serve]'.") from error
    from bloodcell.infer.saved import load_saved
    from bloodcell.serve.api import make_api
    from bloodcell.serve.opinion import Adviser
    from bloodcell.serve.page import make_page, theme

    adviser = Adviser(load_saved(path), _MOST_PIXELS)
    app = make_api(adviser, hosts, _MOST_BYTES)
    photographs = open_photographs(source, adviser.saved.gallery, wanted, opened)
    page = make_page(adviser, _draw_examples(folder), photographs)
    app = gradio.mount_gradio_app(
        *(app, page, "/"), footer_links=[], ssr_mode=False, theme=theme(), max_file_size=_MOST_BYTES
    )
    return app, adviser.saved.description.name


def _run(app: "FastAPI", listener: socket.socket) -> None:
    """Serves until Ctrl-C or SIGTERM."""
    import uvicorn

    from bloodcell.serve.guard import TimelyProtocol

    # without a limit, an open page would keep the server alive
    config = uvicorn.Config(
        app, http=TimelyProtocol, log_level="warning", timeout_graceful_shutdown=1
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # uploads are deleted
    with contextlib.suppress(KeyboardInterrupt):  # the usual way to stop
        uvicorn.Server(config).run([listener])


def _listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens on the port.

    Raises:
        InputError: if the port is in use, or the address does not belong to this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise InputError(
            f"--host {host} --port {port} cannot be used ({error.strerror}). Give --port 0 for a "
            "free port, or another --host."
        ) from error


def _draw_examples(folder: Path) -> list[Path]:
    """Draws one smear of each class and returns the files."""
    paths = []
    for seed, name in enumerate(CLASS_NAMES):
        paths.append(folder / f"drawn {name.lower()}.jpeg")
        Image.fromarray(draw_photograph(name, seed).pixels).save(paths[-1], quality=92)
    return paths
