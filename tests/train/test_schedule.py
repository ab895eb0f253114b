import csv
import math
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, IterableDataset

from bloodcell.cli.main import main
from bloodcell.errors import InputError
from bloodcell.train.finite import Finite
from bloodcell.train.optimizers import FACTOR, FULL_RATE, follow_schedule, rate_share
from bloodcell.train.task import Classifier


def test_up_in_a_line_and_down_to_nothing() -> None:
    shares = [rate_share(step, 100) for step in range(100)]
    assert shares[0] == pytest.approx(0.1, abs=0.001)
    assert max(shares) == shares[9]
    assert shares[9:] == sorted(shares[9:], reverse=True)
    assert shares[-1] < 0.001


def test_a_run_that_goes_on_learns_at_the_same_rate(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words += ["--model.schedule", "cosine", "--model.lr", "1e-3", "--trainer.max_epochs", "3"]
    main(["fit", *words, "--name", "whole"])
    with monkeypatch.context() as stopping:
        started = Finite.on_train_epoch_start

        def start(self: Finite, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.current_epoch == 1:
                signal.raise_signal(signal.SIGTERM)
            started(self, trainer, pl_module)

        stopping.setattr(Finite, "on_train_epoch_start", start)
        with pytest.raises(SystemExit):
            main(["fit", *words, "--name", "parts"])
    main(["fit", "--ckpt_path", "lightning_logs/parts/version_0"])

    def rows(name: str) -> list[dict[str, str]]:
        with Path(f"lightning_logs/{name}/version_0/metrics.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    for one, other in zip(rows("whole"), rows("parts"), strict=True):
        assert float(one["lr"]) < 1e-3
        for key in ("lr", "train_loss", "val_loss"):
            assert one[key] == other[key]


@pytest.mark.parametrize(("batches", "accumulated"), [(20, 1), (40, 1), (10, 1), (40, 2)])
def test_the_rate_follows_the_epochs_if_the_batches_change(batches: int, accumulated: int) -> None:
    """In the middle of the third of four epochs, after two epochs with 20 batches each."""
    group = {FULL_RATE: 1e-3, FACTOR: 1.0}
    trainer: Any = SimpleNamespace(
        max_steps=-1,
        max_epochs=4,
        current_epoch=2,
        global_step=40 + batches // accumulated // 2,
        estimated_stepping_batches=4 * batches // accumulated,
        accumulate_grad_batches=accumulated,
        optimizers=[SimpleNamespace(param_groups=[group])],
    )
    follow_schedule(trainer, batches // 2)
    assert group["lr"] == pytest.approx(1e-3 * (1 + math.cos(math.pi * 2.5 / 4)) / 2)


class Endless(IterableDataset[dict[str, torch.Tensor]]):
    """Images whose number is unknown."""

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for label in range(4):
            yield {"image": torch.zeros(3, 32, 32).byte(), "target": torch.tensor(label % 2)}


@pytest.mark.filterwarnings(
    "ignore:.*LeafSpec:FutureWarning",  # Lightning's, of torch
    "ignore:.*does not have many workers",
    "ignore:You defined a",
    "ignore:.*smaller than the logging interval",
)
def test_a_cosine_needs_a_last_step() -> None:
    words = {"image_size": 32, "backbone": "test_efficientnet", "weights": "none"}
    model = Classifier(["a", "b"], schedule="cosine", **words)  # type: ignore[arg-type]
    quiet = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    shown = {"enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(max_epochs=2, **quiet, **shown)  # type: ignore[arg-type]
    rule = r"^model\.schedule=cosine cannot be used: .* if the number of training steps is unknown"
    with pytest.raises(InputError, match=rule):
        trainer.fit(model, DataLoader(Endless(), batch_size=2))
    trainer = Trainer(max_steps=2, **quiet, **shown)  # type: ignore[arg-type]
    trainer.fit(model, DataLoader(Endless(), batch_size=2))
    assert trainer.global_step == 2
