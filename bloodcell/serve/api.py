"""The HTTP API of `serve`.

Example: curl -F image=@a.jpeg http://127.0.0.1:7860/api/predict
"""

import asyncio
import contextlib
import json
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import FastAPI, File, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bloodcell import __version__
from bloodcell.serve.opinion import Adviser, Opinion

MOST_IMAGES = 32  # per request
SLOWEST = 120.0  # seconds; longest time to receive the body of a request
_TOO_LARGE = 413  # HTTP status
_NO_IMAGE = 422
# limits for discarding a body that is too large: seconds, and multiple of the size limit
_PATIENCE, _PATIENT = 10, 4


def make_api(adviser: Adviser, hosts: frozenset[str] | None, most_bytes: int) -> FastAPI:
    """Builds the API: `GET /health` and `POST /api/predict`.

    Args:
        adviser: explains images with the model.
        hosts: allowed host names; None allows any.
        most_bytes: size limit of a request; larger requests get status 413.
    """
    # FastAPI's documentation pages would load scripts from other servers
    app = FastAPI(title="bloodcell", version=__version__, docs_url=None, redoc_url=None)
    app.add_middleware(Gate, hosts=hosts, most_bytes=most_bytes)
    described = adviser.saved.description

    @app.exception_handler(RequestValidationError)
    def explain(_: Request, __: Exception) -> JSONResponse:
        why = "send images as form field `image`: curl -F image=@a.jpeg ..."
        return JSONResponse({"error": why}, _NO_IMAGE)

    @app.get("/health")
    def health() -> dict[str, Any]:
        return {"status": "ok", "model": described.name, "classes": described.class_names}

    @app.post("/api/predict")
    def predict(image: Annotated[list[UploadFile], File()], response: Response) -> dict[str, Any]:
        """Classifies the images of the form field `image`, which may be repeated."""
        if len(image) > MOST_IMAGES:
            response.status_code = _TOO_LARGE
            return {"error": f"{len(image)} images; at most {MOST_IMAGES} at a time"}
        opinions = adviser.look([(one.filename or "", one.file.read()) for one in image])
        if all(one.error for one in opinions):
            response.status_code = _NO_IMAGE
        return {
            "model": described.name,
            "not_for": "diagnosis",
            "images": [as_dict(one) for one in opinions],
        }

    return app


def as_dict(opinion: Opinion) -> dict[str, Any]:
    """Returns an opinion as JSON types; only name and error if the image is unreadable."""
    if opinion.probability is None:
        return {"file": opinion.name, "error": opinion.error}
    answer: dict[str, Any] = {
        "file": opinion.name,
        "class": next(iter(opinion.probability)),
        "probability": opinion.probability,
    }
    if opinion.note:
        answer["note"] = opinion.note
    if of := opinion.likeness:
        answer["unlike_training"] = of.unfamiliar
        answer["distance"] = {"nearest": of.distance, "threshold": of.threshold}
        answer["nearest_of_class"] = [one._asdict() for one in of.nearest]
    return answer


class Gate:
    """Refuses requests that are too large or that come from pages of other sites.

    The Origin header reveals requests from other pages; the Host header reveals DNS rebinding.
    Starlette's TrustedHostMiddleware only checks Host.

    Args:
        app: handles the accepted requests.
        hosts: allowed host names; None allows any.
        most_bytes: size limit of a request's body.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str] | None, most_bytes: int) -> None:
        self._app, self._hosts, self._most = app, hosts, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers with status 403, 411 or 413."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        length = headers.get("content-length")
        if self._hosts and (urlsplit(f"//{host}").hostname or "") not in self._hosts:
            await _refuse(send, 403, f"not reached as {host}")
        elif origin and urlsplit(origin).netloc != host:
            await _refuse(send, 403, f"not for pages of {origin}")
        elif "transfer-encoding" in headers or (length and not length.isdigit()):
            await _refuse(send, 411, "the length of the body must be said")
        elif length and int(length) > self._most:
            await self._discard(receive)  # clients may not read the answer while sending
            await _refuse(send, _TOO_LARGE, f"more than {self._most / 1e6:g} MB in one request")
        else:
            await self._app(scope, _timely(receive), send)

    async def _discard(self, receive: Receive) -> None:
        seen = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                while seen < _PATIENT * self._most:
                    message = await receive()
                    seen += len(message.get("body", b""))
                    if not message.get("more_body"):
                        return


def _timely(receive: Receive) -> Receive:
    """Disconnects clients that send a body too slowly, because they could block connections."""
    end = asyncio.get_running_loop().time() + SLOWEST
    whole = False

    async def timely() -> Message:
        nonlocal whole
        if whole:  # later calls wait for the disconnection
            return await receive()
        try:
            async with asyncio.timeout_at(end):
                message = await receive()
        except TimeoutError:
            return {"type": "http.disconnect"}
        whole = not message.get("more_body")
        return message

    return timely


async def _refuse(send: Send, status: int, why: str) -> None:
    text = json.dumps({"error": why}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(text)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})
