"""Scores of each of several data sets in the logs."""

from typing import Any, TypeGuard

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from bloodcell.data.datamodule import BloodCells

_NAMES = ("acc", "balanced_accuracy")


def has_several(data: Any) -> TypeGuard[BloodCells]:
    """Returns whether a data module has several data sets."""
    return isinstance(data, BloodCells) and len(data.table.datasets) > 1


def val_names(data: Any) -> list[str]:
    """Returns the names of the metrics that `ByDataset` logs after each validation."""
    if not has_several(data):
        return []
    sets = sorted({data.table.rows[i].dataset for i in data.parts["val"]})
    return [f"val/{name}/{one}" for one in sets for name in _NAMES]


class ByDataset(Callback):
    """Logs accuracy and balanced accuracy of each of several data sets, as `val/acc/NAME`.

    It must come before callbacks that use the metrics.
    """

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the scores of the validation part."""
        if not trainer.sanity_checking:
            self._log(trainer, pl_module, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the scores of the test part."""
        self._log(trainer, pl_module, "test")

    def _log(self, trainer: Trainer, pl_module: LightningModule, part: str) -> None:
        data, outputs = vars(trainer).get("datamodule"), getattr(pl_module, "outputs", None)
        if outputs is None or not has_several(data):
            return
        sets = [data.table.rows[row].dataset for row in outputs.row.tolist()]
        right = outputs.logits.argmax(1) == outputs.target
        found = dict[str, float]()
        for name in sorted(set(sets)):
            chosen = torch.tensor([one == name for one in sets])
            hits, labels = right[chosen].float(), outputs.target[chosen]
            recalls = [hits[labels == label].mean() for label in labels.unique()]
            found[f"{part}/acc/{name}"] = float(hits.mean())
            found[f"{part}/balanced_accuracy/{name}"] = float(torch.stack(recalls).mean())
        trainer.callback_metrics.update({key: torch.tensor(one) for key, one in found.items()})
        for logger in trainer.loggers:
            logger.log_metrics(found, max(0, trainer.global_step - 1))
