"""The HTTP API of `serve`.

Example: curl -F image=@a.jpeg http://127.0.0.1:7860/api/predict
"""

from typing import Annotated, Any

from fastapi import FastAPI, File, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from bloodcell import __version__
from bloodcell.serve.guard import Gate
from bloodcell.serve.opinion import Adviser, Opinion

MOST_IMAGES = 32  # per request
_TOO_LARGE, _NO_IMAGE, _NO_MEMORY = 413, 422, 503  # HTTP statuses


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

    @app.exception_handler(MemoryError)
    def refuse(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, _NO_MEMORY)

    @app.get("/health")
    def health() -> dict[str, Any]:
        return {"status": "ok", "model": described.name, "classes": described.class_names}

    @app.post("/api/predict")
    def predict(image: Annotated[list[UploadFile], File()], response: Response) -> dict[str, Any]:
        """Classifies the images of the form field `image`, which may be repeated."""
        if len(image) > MOST_IMAGES:
            response.status_code = _TOO_LARGE
            return {"error": f"{len(image)} images; at most {MOST_IMAGES} per request"}
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
    if likeness := opinion.likeness:
        answer["unlike"] = likeness.unfamiliar
        answer["distance"] = {"value": likeness.distance, "threshold": likeness.threshold}
        answer["nearest_of_class"] = [one._asdict() for one in likeness.nearest]
    return answer
