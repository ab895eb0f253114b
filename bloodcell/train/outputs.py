"""The outputs of the network for evaluated images."""

from collections.abc import Iterable
from typing import NamedTuple, Self

import torch
from torch import Tensor

from bloodcell.data.batches import NOT_COUNTED, Batch
from bloodcell.model.gallery import Gallery
from bloodcell.model.network import Network


class Outputs(NamedTuple):
    """The outputs of the network for n images.

    Attributes:
        row: (n,) int64, the row of each image in the table.
        target: (n,) int64, the label; `NOT_COUNTED` for padding rows.
        logits: (n, classes) float32, not calibrated.
        distance: (n,) float32, the distance from the training images, as `Gallery.distance`
            returns it; NaN without a gallery.
    """

    row: Tensor
    target: Tensor
    logits: Tensor
    distance: Tensor

    @property
    def probability(self) -> Tensor:
        """The softmax of the logits, (n, classes)."""
        return self.logits.softmax(1)

    @classmethod
    def of(cls, network: Network, batch: Batch, gallery: Gallery | None) -> Self:
        """Runs the network, and finds the distances from the training images.

        Args:
            network: in evaluation mode.
            batch: on the network's device.
            gallery: gives the distances; None: they are NaN.
        """
        maps = network.maps(batch["image"])
        logits = network.classify(maps).float()
        distance = torch.full_like(logits[:, 0], torch.nan)
        if gallery:
            distance = gallery.distance(maps.float().mean((2, 3)).cpu()).to(distance)
        return cls(batch["row"], batch["target"], logits, distance)

    @classmethod
    def join(cls, parts: Iterable[Self]) -> Self:
        """Joins the outputs of several batches."""
        return cls(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def sorted(self) -> Self:
        """Returns the rows on the CPU, without padding, in the order of the table."""
        counted = self.target != NOT_COUNTED
        kept = [column[counted].cpu() for column in self]
        order = kept[0].argsort()
        return type(self)(*(column[order] for column in kept))
