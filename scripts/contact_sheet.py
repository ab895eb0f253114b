"""Draws the picture for README.md: a labelled row of smears for each class.

python scripts/contact_sheet.py
"""

from pathlib import Path

from arguments import make_parser
from PIL import Image, ImageDraw, ImageFont

from bloodcell.datasets.drawn import CLASS_NAMES
from bloodcell.datasets.drawn.smears import draw_photograph

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "drawn_smears.jpeg"
_WIDTH, _HEIGHT, _LABEL = 240, 180, 28  # pixels


def draw_sheet(columns: int = 8, seed: int = 0) -> Image.Image:
    """Draws `columns` photographs of each class."""
    if columns < 1:
        raise ValueError(f"columns must be at least 1, not {columns}")
    size = (columns * _WIDTH, len(CLASS_NAMES) * (_HEIGHT + _LABEL))
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(18)
    for row, class_name in enumerate(CLASS_NAMES):
        top = row * (_HEIGHT + _LABEL)
        pen.text((6, top + _LABEL / 2), class_name, "black", font, anchor="lm")
        for column in range(columns):
            picture = Image.fromarray(draw_photograph(class_name, (seed, column)).pixels)
            small = picture.resize((_WIDTH, _HEIGHT), Image.Resampling.LANCZOS)
            sheet.paste(small, (column * _WIDTH, top + _LABEL))
    return sheet


if __name__ == "__main__":
    make_parser(__doc__).parse_args()
    draw_sheet(columns=6).save(PICTURE, quality=88)
    print(f"{PICTURE}: {PICTURE.stat().st_size // 1000} kB")
