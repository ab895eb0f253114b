"""The outputs of the network for evaluated images."""

from typing import NamedTuple, Self

from torch import Tensor

from bloodcell.data.batches import NOT_COUNTED


class Outputs(NamedTuple):
    """The outputs of the network for n images.

    Attributes:
        row: (n,) int64, the row of each image in the table.
        target: (n,) int64, the label; `NOT_COUNTED` for padding rows.
        logits: (n, classes) float32, not calibrated.
        features: (n, C) float32, the trunk's features, averaged over their map.
    """

    row: Tensor
    target: Tensor
    logits: Tensor
    features: Tensor

    @property
    def probability(self) -> Tensor:
        """The softmax of the logits, (n, classes)."""
        return self.logits.softmax(1)

    def sorted(self) -> Self:
        """Returns the rows on the CPU, without padding, in the order of the table."""
        counted = self.target != NOT_COUNTED
        kept = [column[counted].cpu() for column in self]
        order = kept[0].argsort()
        return type(self)(*(column[order] for column in kept))
