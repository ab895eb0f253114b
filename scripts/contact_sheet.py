"""Draws the picture in the README: six smears of each class.

python scripts/contact_sheet.py
"""

from pathlib import Path

from bloodcell.datasets.drawn import contact_sheet

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "drawn_smears.jpeg"

if __name__ == "__main__":
    contact_sheet(columns=6).save(PICTURE, quality=88)
    print(f"{PICTURE}: {PICTURE.stat().st_size // 1000} kB")
