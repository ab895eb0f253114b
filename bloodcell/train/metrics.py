"""Loss and scores during training, on any number of devices."""

from typing import cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAUROC,
    MulticlassCalibrationError,
    MulticlassF1Score,
    MulticlassRecall,
)

from bloodcell.data.batches import NOT_COUNTED

_THRESHOLDS = 200  # of the ROC curves, so that memory does not grow with the number of images
_BINS = 15  # of the expected calibration error
_AT_ONCE = 4_096  # images given to the metrics at once, to limit the memory


class Mean(Metric):
    """Mean over all images, independent of the batch size; NaN values make the mean NaN.

    MeanMetric of torchmetrics 1.9 ignores NaN or, with `nan_strategy="disable"`, the weights.
    Its accuracy metric synchronises the host with the GPU at each step.
    """

    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, total: Tensor, count: Tensor) -> None:
        """Adds the sum over some images, and the number of these images."""
        self.total += total
        self.count += count

    def compute(self) -> Tensor:
        """Returns the mean, or NaN without images."""
        return self.total / self.count


class BalancedAccuracy(MulticlassRecall):
    """Mean recall of the classes that occur; torchmetrics counts absent classes as 0."""

    tp: Tensor
    fn: Tensor

    def compute(self) -> Tensor:
        """Returns the balanced accuracy, 0 to 1, or NaN without images."""
        return super().compute()[self.tp + self.fn > 0].mean()


class MeanAUROC(MulticlassAUROC):
    """Mean area under the ROC curve of each class against the rest.

    A class with no images, or with all images, has no ROC curve and is left out.
    """

    confmat: Tensor

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Counts the images above each threshold.

        On MPS and in deterministic mode, torchmetrics counts by comparing every result with every
        counter at once, which takes 50 GB for 2,500 images of four classes.

        Args:
            preds: (n, classes) probabilities.
            target: (n,) labels; `NOT_COUNTED` for padding rows.
        """
        counted, thresholds = target != NOT_COUNTED, cast(Tensor, self.thresholds)
        for label, column in enumerate(preds[counted].unbind(1)):
            for same in (0, 1):
                values = column[(target[counted] == label) == bool(same)].sort().values
                below = torch.searchsorted(values, thresholds)
                self.confmat[:, label, same, 0] += below
                self.confmat[:, label, same, 1] += len(values) - below

    def compute(self) -> Tensor:  # type: ignore[override]  # as torchmetrics' own override
        """Returns the mean area, 0 to 1, or NaN if no class has a curve."""
        areas = super().compute()
        negatives, positives = self.confmat[0].sum(2).unbind(1)
        return areas[(positives > 0) & (negatives > 0)].mean()


class Metrics(nn.Module):
    """The metrics of one part of the data.

    Args:
        n_classes: number of classes; None for the training part, which has no scores.

    Attributes:
        means: `loss` and `acc`, updated at each step without synchronising the device.
        scores: `balanced_accuracy`, `f1` (macro), `auroc` (macro, one class against the rest) and
            `ece` (expected calibration error), updated once per epoch with all images.
    """

    def __init__(self, n_classes: int | None = None) -> None:
        super().__init__()
        self.loss, self.acc = Mean(), Mean()
        self.scores = MetricCollection({})
        if n_classes is not None:
            self.scores = MetricCollection(_scores(n_classes), compute_groups=False)

    def reset(self) -> None:
        """Forgets all images."""
        for metric in (self.loss, self.acc, self.scores):
            metric.reset()

    def update_scores(self, probability: Tensor, target: Tensor) -> None:
        """Adds images to `scores`.

        Args:
            probability: (n, classes).
            target: (n,) labels; `NOT_COUNTED` for padding rows.
        """
        for start in range(0, len(target), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            self.scores.update(probability[part], target[part])

    def sums(self) -> list[Tensor]:
        """Returns the sums and counts of loss and accuracy on this device."""
        return [one for mean in (self.loss, self.acc) for one in (mean.total, mean.count)]

    def load_sums(self, sums: list[Tensor], world: int, rank: int) -> None:
        """Restores the values of `sums` when a run resumes within an epoch.

        Each device continues its own sums, so that all are added in the order of an uninterrupted
        run. Another number of devices, or sums of earlier versions, which are over all devices:
        the first device continues them all.

        Args:
            sums: the values of `sums`, each (devices,) or, of earlier versions, ().
            world: number of devices.
            rank: rank of this device.
        """
        for now, then in zip(self.sums(), sums, strict=True):
            if then.numel() == world:
                now.copy_(then.flatten()[rank])
            elif rank == 0:
                now.copy_(then.sum())

    @property
    def means(self) -> dict[str, Mean]:
        """The metrics for loss and accuracy by their names in the logs."""
        return {"loss": self.loss, "acc": self.acc}


def _scores(n: int) -> dict[str, Metric | MetricCollection]:
    skipped = NOT_COUNTED
    return {
        "balanced_accuracy": BalancedAccuracy(n, average="none", ignore_index=skipped),
        "f1": MulticlassF1Score(n, average="macro", ignore_index=skipped),
        "auroc": MeanAUROC(n, average="none", thresholds=_THRESHOLDS, ignore_index=skipped),
        "ece": MulticlassCalibrationError(n, n_bins=_BINS, ignore_index=skipped),
    }
