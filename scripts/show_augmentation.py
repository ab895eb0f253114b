"""Draws augmented images: each row shows an image, then its augmentation in seven epochs.

python scripts/show_augmentation.py --root blood-cells.zip --augment full --out seen.png
"""

from pathlib import Path

import torch
from arguments import count, make_parser, short_errors, writable
from torchvision.utils import make_grid, save_image

from bloodcell.data.augment import augment_batch
from bloodcell.data.datamodule import BloodCells

ROWS, EPOCHS = 6, 7


def main() -> None:
    """Writes the picture."""
    parser = make_parser(__doc__)
    parser.add_argument("--root", default="drawn", help="as data.root (default: drawn)")
    kinds = ["flips", "full", "stain"]
    parser.add_argument("--augment", default="full", choices=kinds, help="default: full")
    parser.add_argument("--image_size", type=count, default=128, help="pixels (default: 128)")
    out = Path("seen.png")
    parser.add_argument("--out", type=writable, default=out, help=f"picture (default: {out})")
    given = parser.parse_args()
    with short_errors():
        data = BloodCells(given.root, image_size=given.image_size)
        data.setup("fit")
    batch = data.datasets["train"].__getitems__(range(0, len(data.datasets["train"]), 97)[:ROWS])
    images, rows = batch["image"], batch["row"]
    columns = [images.float()] + [
        augment_batch(images, rows, given.augment, 0, epoch).float() for epoch in range(EPOCHS)
    ]
    grid = make_grid(torch.stack(columns, 1).flatten(0, 1) / 255, nrow=len(columns), pad_value=1)
    save_image(grid, given.out)
    print(given.out)


if __name__ == "__main__":
    main()
