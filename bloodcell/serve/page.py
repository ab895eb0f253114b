"""The web page of `serve`, which shows uploaded images with their predictions."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bloodcell.evaluate.figures.explained import overlay
from bloodcell.model.description import Description
from bloodcell.serve.opinion import Adviser, Neighbour, Opinion
from bloodcell.serve.photographs import Photographs

MOST_IMAGES = 20  # per upload: each adds about 50 KB to the page
_HOUR = 3600

CSS = """
.bc-note, .bc-bad, .bc-odd { padding: .6em .9em; border-radius: 6px; margin: .4em 0; }
.bc-note { background: #eef3f7; color: #223; }
.bc-bad { background: #fbe9e7; color: #7a1c0b; }
.bc-odd { background: #fff4d6; color: #5c4400; }
.bc-card { border: 1px solid #cfd8df; border-radius: 8px; padding: 1em; margin: .8em 0;
  background: #fff; color: #1b1f24; }
.bc-card h3 { margin: 0 0 .5em; overflow-wrap: anywhere; color: inherit; }
.bc-row { display: flex; flex-wrap: wrap; gap: 1.2em; align-items: flex-start; }
.bc-row figure { margin: 0; } .bc-row figcaption { font-size: .85em; color: #4a5560; }
.bc-bars { flex: 1 1 240px; min-width: 220px; }
.bc-bar { display: grid; grid-template-columns: 9em 1fr 4em; gap: .5em; align-items: center;
  margin: .25em 0; font-variant-numeric: tabular-nums; }
.bc-bar div { background: #e6ebef; height: 1em; border-radius: 3px; }
.bc-bar div div { background: #0072b2; }
.bc-near { display: flex; flex-wrap: wrap; gap: .8em; margin-top: .4em; font-size: .85em; }
.bc-near figure { margin: 0; max-width: 130px; overflow-wrap: anywhere; }
"""


def make_page(
    adviser: Adviser, examples: Sequence[Path], photographs: Photographs
) -> gradio.Blocks:
    """Builds the page.

    Args:
        adviser: explains images with the model.
        examples: example images for visitors.
        photographs: returns a training photograph, or None if it is not available.
    """
    described = adviser.saved.description

    def answer(paths: list[str] | None) -> str:
        if not paths:
            return ""
        images = [(Path(path).name, Path(path).read_bytes()) for path in paths[:MOST_IMAGES]]
        cards = [_card(opinion, photographs) for opinion in adviser.look(images)]
        if len(paths) > MOST_IMAGES:
            rest = len(paths) - MOST_IMAGES
            left_out = f"{rest:,} more images were left out: at most {MOST_IMAGES} at a time."
            cards.append(_note("bad", left_out))
        return "".join(cards)

    # uploads are deleted after an hour
    page: gradio.Blocks
    with gradio.Blocks(
        title=f"bloodcell: {described.name}", analytics_enabled=False, delete_cache=(600, _HOUR)
    ) as page:
        gradio.HTML(_head(described))
        chosen = gradio.File(
            label=f"Images of single blood cells, {MOST_IMAGES} at a time",
            file_count="multiple",
            elem_id="images",
        )
        gradio.Examples(
            [[[str(path)]] for path in examples],
            chosen,
            label="Drawn by this program, not photographs"
            + ("" if described.scores.get("drawn") else ": new to this model"),
            example_labels=[path.stem for path in examples],
        )
        answers = gradio.HTML(elem_id="answers")
        chosen.change(answer, chosen, answers, api_visibility="private", show_progress="full")
    return page


def theme() -> Any:
    """Returns a theme with system fonts, so that no fonts are loaded from other servers."""
    return gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])


def _head(of: Description) -> str:
    accuracy = of.scores.get("test", {}).get("by_file", {}).get("accuracy")
    scored = ""
    if accuracy:
        seen = of.scores["test_photos_also_in_training"]
        scored = (
            f" Accuracy {accuracy['value']:.2f} [{accuracy['low']:.2f}, {accuracy['high']:.2f}] "
            f"on the test images, from {of.scores['photos']['test']:,} photographs, "
            + (f"{seen:,} of them seen in training." if seen else "none seen in training.")
        )
    drawn = " Trained on DRAWN smears." if of.scores.get("drawn") else ""
    return (
        f"<h1>bloodcell: {html.escape(of.name)}</h1>"
        f"<p>Tells {html.escape(', '.join(of.class_names))} apart.{scored}{drawn}</p>"
        + _note("bad", "<strong>Not for diagnosis.</strong> Every image is given one of these "
                "classes, even if it shows something else.")
    )  # fmt: skip


def _card(opinion: Opinion, photographs: Photographs) -> str:
    title = f"<h3>{html.escape(opinion.name)}</h3>"
    if opinion.probability is None or opinion.seen is None or opinion.heat is None:
        return f'<div class="bc-card">{title}{_note("bad", html.escape(opinion.error))}</div>'
    name, probability = next(iter(opinion.probability.items()))
    bars = "".join(_bar(*one) for one in opinion.probability.items())
    warm = _warm(opinion.seen, opinion.heat)
    pictures = _figure(opinion.picture or opinion.seen, "the image")
    pictures += _figure(warm, "in colour: the evidence for the class")
    return (
        f'<div class="bc-card">{title}<div class="bc-row">{pictures}<div class="bc-bars">'
        f"<strong>{html.escape(name)}, {probability:.1%}</strong>{bars}</div></div>"
        f"{_note('odd', html.escape(opinion.note)) if opinion.note else ''}"
        f"{_likeness(opinion, photographs)}</div>"
    )


def _likeness(opinion: Opinion, photographs: Photographs) -> str:
    of = opinion.likeness
    if of is None:
        return ""
    warning = ""
    if of.unfamiliar:
        warning = _note(
            "odd",
            "<strong>Unlike anything seen in training.</strong> The class means little. "
            f"({of.false_alarms:.1%} of the test images are called unlike, too.)",
        )
    pictures = [photographs(one.file) for one in of.nearest]
    near = "".join(map(_neighbour, of.nearest, pictures))
    hint = "" if any(pictures) else " Start with --data and the training data to see them."
    title = (
        f"Nearest training photograph of any class: distance {of.distance:.3f} (unlike over "
        f"{of.threshold:.3f}). Nearest of this class:{hint}"
    )
    return f'{warning}<div>{title}</div><div class="bc-near">{near}</div>'


def _neighbour(one: Neighbour, picture: Image.Image | None) -> str:
    label = f"distance {one.distance:.3f}<br>{html.escape(Path(one.file).name)}"
    return f"<figure>{label}</figure>" if picture is None else _figure(picture, label)


def _warm(image: Image.Image, heat: NDArray[np.float32]) -> Image.Image:
    """Returns the image with colour only in hot areas and a contour at half of the heat."""
    spread = np.asarray(Image.fromarray(heat).resize(image.size, Image.Resampling.BILINEAR))
    pixels = overlay(np.asarray(image), spread)
    hot = spread >= 0.5
    up_down = np.diff(hot, axis=0, prepend=hot[:1])
    pixels[up_down | np.diff(hot, axis=1, prepend=hot[:, :1])] = 0
    return Image.fromarray(pixels)


def _figure(small: Image.Image, caption: str) -> str:
    file = io.BytesIO()
    small.save(file, "JPEG", quality=88)
    data = base64.b64encode(file.getvalue()).decode()
    return (
        f'<figure><img src="data:image/jpeg;base64,{data}" width="{small.width}" '
        f'height="{small.height}" alt=""><figcaption>{caption}</figcaption></figure>'
    )


def _bar(name: str, probability: float) -> str:
    return (
        f'<div class="bc-bar"><span>{html.escape(name)}</span><div>'
        f'<div style="width:{probability:.1%}"></div></div><span>{probability:.1%}</span></div>'
    )


def _note(kind: str, text: str) -> str:
    return f'<div class="bc-{kind}">{text}</div>'
