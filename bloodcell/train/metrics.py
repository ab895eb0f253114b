"""Loss and accuracy while a run trains, on any number of devices."""

import torch
from torch import Tensor, nn
from torchmetrics import Metric


class Mean(Metric):
    """Mean over all images, however their batches are cut; NaN stays NaN.

    torchmetrics' own MeanMetric leaves NaN out, or (1.9, `nan_strategy="disable"`) the weights, and
    its accuracy makes the host wait for a GPU at each step.
    """

    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, total: Tensor, count: Tensor) -> None:
        """Adds the sum over some images, and their number."""
        self.total += total
        self.count += count

    def compute(self) -> Tensor:
        """Returns the mean, NaN of no images."""
        return self.total / self.count


class Metrics(nn.Module):
    """Loss and accuracy over one part of the data."""

    def __init__(self) -> None:
        super().__init__()
        self.loss, self.acc = Mean(), Mean()
