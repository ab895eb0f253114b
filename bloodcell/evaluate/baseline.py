"""A baseline without training: the label of the training image with the most similar colours.

If copies of one photograph are in both the training and the test part, their colours suffice to
match them. A model that is not clearly better than this baseline has shown no skill.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from bloodcell.data.batches import ImageDataset

_BITS = 3  # per channel: 8 x 8 x 8 colours
_STRIDE = 2  # every second pixel of every second row is enough
_AT_ONCE = 256  # images
MOST = 20_000  # training images: enough for a fair score; the time grows with their number


def nearest_labels(train: ImageDataset, images: ImageDataset) -> Tensor:
    """Returns the label of the training image with the most similar colour histogram.

    Similarity is the Bhattacharyya coefficient, the inner product of the histograms' square roots.

    Args:
        train: images whose labels are known.
        images: images to classify.

    Returns:
        (len(images),) int64 labels.
    """
    references = torch.cat(list(_histograms(train)))
    nearest = [(part @ references.T).argmax(1) for part in _histograms(images)]
    return train.targets[torch.cat(nearest)]


def _histograms(images: ImageDataset) -> Iterator[Tensor]:
    """Yields square roots of colour histograms, (B, 512) float32 rows of length 1."""
    for start in range(0, len(images), _AT_ONCE):
        positions = range(start, min(start + _AT_ONCE, len(images)))
        yield _histogram(images.__getitems__(positions)["image"][:, :, ::_STRIDE, ::_STRIDE].cpu())


def _histogram(images: Tensor) -> Tensor:
    red, green, blue = (images >> (8 - _BITS)).long().flatten(2).unbind(1)  # (B, h * w) each
    colour = (red << 2 * _BITS) + (green << _BITS) + blue
    counts = torch.zeros(len(images), 1 << 3 * _BITS)
    counts.scatter_add_(1, colour, torch.ones(1).expand_as(colour))
    return (counts / colour.shape[1]).sqrt()
