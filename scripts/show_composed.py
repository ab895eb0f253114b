"""Draws a sheet of fields that are composed of PBC's cells, to look at.

python scripts/show_composed.py SHEET.png --pbc pbc.zip
"""

import io
import zipfile

import numpy as np
from arguments import existing, make_parser, short_errors, writable
from compose_fields import SIDE, collect, compose
from PIL import Image


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("sheet", type=writable, help="picture to draw")
    parser.add_argument("--pbc", type=existing, required=True, help=".zip of PBC")
    given = parser.parse_args()
    with short_errors(), zipfile.ZipFile(given.pbc) as archive:
        pictures = [
            (np.array(Image.open(io.BytesIO(archive.read(name)))), 40.0, [(100.0, 100.0)])
            for name in sorted(archive.namelist())[::80]
            if name.endswith(".jpg") and "platelet" not in name
        ]
    sprites = collect(pictures)
    print({kind: len(some) for kind, some in sprites.items()})
    sheet = Image.new("RGB", (4 * SIDE, 4 * SIDE * 3 // 4))
    for n in range(16):
        field = compose(np.random.default_rng(n), sprites)
        sheet.paste(Image.fromarray(field.pixels), (n % 4 * SIDE, n // 4 * SIDE * 3 // 4))
    sheet.save(given.sheet)


if __name__ == "__main__":
    main()
