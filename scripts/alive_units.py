"""Counts the hidden units of a head that at least one image activates; the others get no gradient.

python scripts/alive_units.py "blood-cells.zip/*/images/TRAIN/*" lightning_logs/d8/version_0 ...
"""

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from arguments import existing, make_parser, short_errors
from torch import Tensor, nn

from bloodcell.infer.decoding import decode_batches
from bloodcell.infer.inputs import find_images
from bloodcell.infer.saved import load_saved
from bloodcell.infer.torch_runtime import as_images

_IMAGES, _BATCH = 400, 50


@torch.inference_mode()
def activated(head: nn.Module, features: Tensor) -> list[list[float]]:
    """Returns the share of images (B, inputs) that activate each unit, layer by layer."""
    shares = []
    assert isinstance(head, nn.Sequential)
    for layer in head:
        features = layer(features)
        if isinstance(layer, nn.ReLU):
            shares.append((features > 0).float().mean(0).tolist())
    return shares


def report(images: str, run: Path) -> None:
    saved = load_saved(run)
    with ExitStack() as archives:
        found = list(find_images([images], archives))
        some = found[:: max(1, len(found) // _IMAGES)][:_IMAGES]
        batches = decode_batches(some, saved.description.input_format, _BATCH)
        pixels = [
            np.stack([one.pixels for one in batch if one.pixels is not None]) for batch in batches
        ]
    network, device = saved.network, torch.device("cpu")
    with torch.inference_mode():
        maps = [network.pool(network.maps(as_images(batch, device))) for batch in pixels]
    layers = activated(network.head, torch.cat(maps).flatten(1))
    counts = ", ".join(f"{sum(s > 0 for s in shares)} of {len(shares)}" for shares in layers)
    print(f"{run}: {counts or 'no hidden layer'}")


if __name__ == "__main__":
    parser = make_parser(__doc__)
    parser.add_argument("images", help="as for `predict`")
    parser.add_argument("runs", type=existing, nargs="+", help="run folders")
    given = parser.parse_args()
    with short_errors():
        for folder in given.runs:
            report(given.images, folder)
