"""The HTTP interface of `serve`, beside its page.

curl -F image=@a.jpeg http://127.0.0.1:7860/api/predict
"""

import contextlib
import json
from typing import Annotated, Any

from fastapi import FastAPI, File, Response, UploadFile
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bloodcell import __version__
from bloodcell.use.opinion import Adviser, Opinion

MOST_IMAGES = 32  # of one request
_TOO_LARGE = 413  # HTTP status
_NO_IMAGE = 422


def make_api(adviser: Adviser, most_bytes: int) -> FastAPI:
    """Builds the interface: `GET /health`, `POST /api/predict`.

    Args:
        adviser: the model.
        most_bytes: of one request; a larger one is answered with 413.
    """
    app = FastAPI(title="bloodcell", version=__version__, docs_url="/api/docs", redoc_url=None)
    app.add_middleware(SizeLimit, most_bytes=most_bytes)
    described = adviser.saved.description

    @app.get("/health")
    def health() -> dict[str, Any]:
        return {"status": "ok", "model": described.name, "classes": described.class_names}

    @app.post("/api/predict")
    def predict(image: Annotated[list[UploadFile], File()], response: Response) -> dict[str, Any]:
        """Classifies the images of a form's field `image`, which may be given many times."""
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
    """An opinion as JSON has it; of one that has an error, nothing else but the name."""
    if opinion.probability is None:
        return {"file": opinion.name, "error": opinion.error}
    said: dict[str, Any] = {
        "file": opinion.name,
        "class": next(iter(opinion.probability)),
        "probability": opinion.probability,
    }
    if of := opinion.likeness:
        said["unlike_training"] = of.unfamiliar
        said["distance"] = {"nearest": of.distance, "threshold": of.threshold}
        said["nearest_of_class"] = [one._asdict() for one in of.nearest]
    return said


class SizeLimit:
    """Answers a request that is too large before it fills the disk or the memory.

    Args:
        app: what is behind it.
        most_bytes: of a request's body.
    """

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self._app, self._most = app, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Counts what comes in."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        said = dict(scope["headers"]).get(b"content-length", b"0")
        if not said.isdigit() or int(said) > self._most:
            await self._refuse(send)
            return
        seen = 0
        refused = False

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._most:  # a body that did not say its length
                raise _TooLargeError
            return message

        async def watched(message: Message) -> None:
            nonlocal refused
            if seen <= self._most:
                await send(message)
            elif not refused:  # whatever the app makes of it
                refused = True
                await self._refuse(send)

        with contextlib.suppress(_TooLargeError):
            await self._app(scope, counted, watched)

    async def _refuse(self, send: Send) -> None:
        text = json.dumps({"error": f"more than {self._most / 1e6:g} MB in one request"}).encode()
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": _TOO_LARGE, "headers": headers})
        await send({"type": "http.response.body", "body": text})


class _TooLargeError(Exception):
    """The body of a request is larger than allowed."""
