"""`bloodcell serve`: a page of this machine's own, and an HTTP interface, for one model."""

import contextlib
import ipaddress
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path

from PIL import Image

from bloodcell.data.source import open_source
from bloodcell.datasets.drawn import CLASS_NAMES
from bloodcell.datasets.drawn.smears import draw_photograph
from bloodcell.errors import TERMINATED, InputError, require
from bloodcell.infer.open import find_model
from bloodcell.serve.photographs import find_source, open_photographs

HOST, PORT = "127.0.0.1", 7860
_MOST_BYTES = 50_000_000  # of one request
_MOST_PIXELS = 40_000_000  # of one image: 120 MB decoded
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


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
    source = open_source(data, "--data") if data else find_source(path)
    with (
        _listen(host, port) as listener,
        tempfile.TemporaryDirectory() as folder,
        contextlib.ExitStack() as opened,
    ):
        # before it is imported: where uploads lie, and that nobody is told of anything
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
        try:
            import gradio
            import uvicorn
        except ImportError as error:
            ways = "pip install 'bloodcell[serve]'"
            raise InputError(f"serve needs more packages: {ways}.") from error
        from bloodcell.infer.saved import load_saved
        from bloodcell.serve.api import make_api
        from bloodcell.serve.opinion import Adviser
        from bloodcell.serve.page import CSS, make_page, theme

        adviser = Adviser(load_saved(path), _MOST_PIXELS)
        here, at = listener.getsockname()[:2]
        own = ipaddress.ip_address(here).is_loopback
        app = make_api(adviser, _LOOPBACK if own else None, _MOST_BYTES)
        photographs = open_photographs(source, adviser.saved.gallery, bool(data), opened)
        page = make_page(adviser, _draw_examples(Path(folder)), photographs)
        app = gradio.mount_gradio_app(
            *(app, page, "/"), footer_links=[], ssr_mode=False, theme=theme(), css=CSS
        )
        shown = f"[{here}]" if ":" in here else here
        print(f"{adviser.saved.description.name}: http://{shown}:{at} (Ctrl-C ends it)", flush=True)
        if not own:
            warning = "whoever reaches this machine can use it, without a password."
            print(f"--host {host}: {warning}", file=sys.stderr)
        # an open page would keep it alive
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # uploads are deleted
        with contextlib.suppress(KeyboardInterrupt):  # its usual end
            uvicorn.Server(config).run([listener])
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


def _draw_examples(folder: Path) -> list[Path]:
    """Draws a smear of each class."""
    paths = []
    for seed, name in enumerate(CLASS_NAMES):
        paths.append(folder / f"drawn {name.lower()}.jpeg")
        Image.fromarray(draw_photograph(name, seed).pixels).save(paths[-1], quality=92)
    return paths
