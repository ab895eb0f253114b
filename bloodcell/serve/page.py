"""The web page of `serve`, which shows uploaded images with their predictions."""

import contextlib
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bloodcell.evaluate.figures.explained import overlay
from bloodcell.model.description import Description
from bloodcell.serve.opinion import Adviser, Likeness, Opinion
from bloodcell.serve.photographs import Photographs

MOST_IMAGES = 20  # per upload
_HOUR = 3600
_UNLIKE = (
    "**Unlike all training images.** The class is unreliable. ({:.1%} of the test images are "
    "flagged, too.)\n\n"
)
_DISTANCE = "Distance from the training images: {:.2f} (threshold: {:.2f})"


def make_page(
    adviser: Adviser, examples: Sequence[Path], photographs: Photographs
) -> gradio.Blocks:
    """Builds the page.

    Args:
        adviser: explains images with the model.
        examples: example images for visitors.
        photographs: returns a training photograph, or None if it is not available.
    """

    def look(paths: Sequence[str]) -> list[Opinion]:
        try:
            return adviser.look([(Path(path).name, Path(path).read_bytes()) for path in paths])
        except MemoryError as error:
            raise gradio.Error(str(error), print_exception=False) from error

    def classify(paths: list[str] | None) -> gradio.Radio:
        return _choices(look((paths or [])[:MOST_IMAGES]), len(paths or []))

    def show(paths: list[str] | None, place: int | None) -> list[Any]:
        opinions = look([paths[place]]) if paths and place is not None else [Opinion("")]
        return _details(opinions[0], photographs)

    described = adviser.saved.description
    page: gradio.Blocks  # uploads and pictures are deleted after an hour
    with gradio.Blocks(
        title=f"bloodcell: {described.name}", analytics_enabled=False, delete_cache=(600, _HOUR)
    ) as page:
        gradio.HTML(_head(described))
        label = f"Images of single blood cells, {MOST_IMAGES} at a time"
        chosen = gradio.File(label=label, file_count="multiple", elem_id="images")
        gradio.Examples(
            [[[str(path)]] for path in examples],
            chosen,
            label="Drawn by bloodcell, not photographs"
            + ("" if described.scores.get("drawn") else ": new to this model"),
            example_labels=[path.stem for path in examples],
        )
        answers = gradio.Radio(label="Predictions", visible=False, elem_id="answers")
        given, details = [chosen, answers], _make_details()
        events: dict[str, Any] = {"api_visibility": "private"}
        chosen.change(classify, chosen, answers, **events).then(show, given, details, **events)
        answers.input(show, given, details, **events)
    return page


def theme() -> Any:
    """Returns a theme with system fonts, so that no fonts are loaded from other servers."""
    return gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])


def _head(description: Description) -> str:
    scored = ""
    with contextlib.suppress(LookupError, TypeError):  # old runs lack some of the scores
        accuracy = description.scores["test"]["by_file"]["accuracy"]
        seen = description.scores["test_photos_also_in_training"]
        scored = (
            f" Accuracy {accuracy['value']:.2f} [{accuracy['low']:.2f}, {accuracy['high']:.2f}] "
            f"on the test images, from {description.scores['photos']['test']:,} photographs, "
            + (f"{seen:,} of them seen in training." if seen else "none seen in training.")
        )
    drawn = " Trained on DRAWN smears." if description.scores.get("drawn") else ""
    return (
        f"<h1>bloodcell: {html.escape(description.name)}</h1>"
        f"<p>Classes: {html.escape(', '.join(description.class_names))}.{scored}{drawn}</p>"
        "<p><strong>Not for diagnosis.</strong> Every image gets one of these classes, even if it "
        "shows something else.</p>"
    )


def _choices(opinions: Sequence[Opinion], given: int) -> gradio.Radio:
    """Returns a line for each image: its class, or why it cannot be read."""
    lines: list[tuple[str, int]] = []
    for opinion in opinions:
        answer = opinion.error
        if opinion.probability:
            name, probability = next(iter(opinion.probability.items()))
            answer = f"{name}, {probability:.1%}"
        if opinion.likeness and opinion.likeness.unfamiliar:
            answer += ", unlike the training images"
        lines.append((f"{opinion.name}: {answer}", len(lines)))
    rest = given - len(lines)
    skipped = f"{rest:,} more images were skipped: at most {MOST_IMAGES} at a time."
    first, info = 0 if lines else None, skipped if rest else ""
    return gradio.Radio(lines, value=first, info=info, visible=bool(lines))


def _make_details() -> list[Any]:
    """Makes the components that `_details` fills."""
    picture: dict[str, Any] = {"height": 260, "min_width": 260, "buttons": []}
    with gradio.Column(visible=False, elem_id="details") as details:
        with gradio.Row():
            image = gradio.Image(label="The image", **picture)
            evidence = gradio.Image(label="In colour: the evidence for the class", **picture)
            probability = gradio.Label(label="Class and probabilities")
        likeness = gradio.Markdown()
        with gradio.Row():
            headers = ["Nearest of this class", "distance"]
            names = gradio.Dataframe(headers=headers, buttons=[], min_width=300)
            pictures = gradio.Gallery(
                columns=3, height=180, show_label=False, buttons=[], min_width=300
            )
    return [details, image, evidence, probability, likeness, names, pictures]


def _details(opinion: Opinion, photographs: Photographs) -> list[Any]:
    if opinion.probability is None or opinion.seen is None or opinion.heat is None:
        return [gradio.Column(visible=False), None, None, None, "", None, None]
    likeness, note = opinion.likeness, f"{opinion.note}\n\n" if opinion.note else ""
    nearest = likeness.nearest if likeness else []
    names = [[Path(one.file).name, f"{one.distance:.3f}"] for one in nearest]
    found = [(photographs(one.file), f"{one.distance:.3f}") for one in nearest]
    pictures = [(picture, caption) for picture, caption in found if picture]
    return [
        gradio.Column(visible=True),
        opinion.picture,
        _warm(opinion.seen, opinion.heat),
        opinion.probability,
        note + (_describe(likeness, bool(pictures)) if likeness else ""),
        gradio.Dataframe(names, visible=bool(names)),
        gradio.Gallery(pictures, visible=bool(pictures)),
    ]


def _describe(likeness: Likeness, pictures: bool) -> str:
    warning = _UNLIKE.format(likeness.false_alarms) if likeness.unfamiliar else ""
    hint = "." if pictures else ". Start with --data to see the photographs."
    return warning + _DISTANCE.format(likeness.distance, likeness.threshold) + hint


def _warm(image: Image.Image, heat: NDArray[np.float32]) -> Image.Image:
    """Returns the image with colour only in hot areas."""
    spread = np.asarray(Image.fromarray(heat).resize(image.size, Image.Resampling.BILINEAR))
    return Image.fromarray(overlay(np.asarray(image), spread))
