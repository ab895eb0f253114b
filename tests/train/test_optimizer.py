"""An optimizer and a scheduler by class path: resumed exactly, and taken back."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from bloodcell.cli.main import main
from bloodcell.train.finite import Finite

OWN = ["--model.optimizer", "AdamW", "--model.optimizer.lr", "1e-3"]
COSINE = ["--model.scheduler", "CosineAnnealingLR", "--model.scheduler.T_max", "3"]
PLATEAU = [
    "--model.scheduler", "lightning.pytorch.cli.ReduceLROnPlateau",
    "--model.scheduler.monitor", "val/loss", "--model.scheduler.patience", "0",
    "--model.scheduler.threshold", "0.5",
]  # fmt: skip


def last(name: str) -> dict[str, Any]:
    path = Path(f"lightning_logs/{name}/version_0/checkpoints/last.ckpt")
    found: dict[str, Any] = torch.load(path, weights_only=True)
    return found


@pytest.mark.parametrize("scheduler", [COSINE, PLATEAU], ids=["cosine", "plateau"])
def test_a_resumed_run_equals_an_uninterrupted_one(words: list[str], scheduler: list[str]) -> None:
    words = [*words, *OWN, "--model.optimizer.weight_decay", "0.02", *scheduler]
    main(["fit", *words, "--name", "whole", "--trainer.max_epochs", "3"])
    main(["fit", *words, "--name", "parts", "--trainer.max_epochs", "2"])
    more = ["--trainer.max_epochs", "3"]
    main(["fit", "--ckpt_path", "lightning_logs/parts/version_0", *more])
    one, other = last("whole"), last("parts")
    for key, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][key])
    assert one["lr_schedulers"] == other["lr_schedulers"]
    (group,) = one["optimizer_states"][0]["param_groups"]
    assert group["weight_decay"] == 0.02
    assert 0 <= group["lr"] < 1e-3
    assert one["hyper_parameters"]["optimizer"]["class_path"] == "torch.optim.AdamW"


def test_a_rollback_halves_the_rates_of_a_scheduler(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = Finite._wrong_loss
    told: list[int] = []

    def once(self: Finite, trainer: Trainer) -> str:
        if trainer.current_epoch == 1 and not told:
            told.append(1)
            return "the loss is NaN."
        return wrong(self, trainer)

    rates: list[list[float]] = []

    def note(self: Finite, trainer: Trainer, pl_module: LightningModule) -> None:
        scheduler: Any = trainer.lr_scheduler_configs[0].scheduler
        group = trainer.optimizers[0].param_groups[0]
        rates.append([group["initial_lr"], *scheduler.base_lrs])

    monkeypatch.setattr(Finite, "_wrong_loss", once)
    monkeypatch.setattr(Finite, "on_train_epoch_end", note)
    main(["fit", *words, *OWN, *COSINE, "--rollbacks", "1", "--trainer.max_epochs", "2"])
    assert rates == [[1e-3, 1e-3], [5e-4, 5e-4]]


def test_transforms_by_class_path(words: list[str]) -> None:
    flip = ["--data.transforms+", "torchvision.transforms.v2.RandomHorizontalFlip"]
    main(["fit", *words, *flip, "--trainer.max_epochs", "1"])
    kept = last("custom")["datamodule_hyper_parameters"]["transforms"]
    assert [one["class_path"].split(".")[-1] for one in kept] == ["RandomHorizontalFlip"]
    main(["test", "--ckpt_path", "lightning_logs/custom/version_0"])
