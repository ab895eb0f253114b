from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from bloodcell.data.batches import NOT_COUNTED, Batch
from bloodcell.train.task import Classifier
from bloodcell.train.trainer import best_precision


def classifier(**changes: object) -> Classifier:
    settings = {
        "class_names": ["a", "b", "c"],
        "image_size": 64,
        "backbone": "test_efficientnet",
        "weights": "none",
        "pool": "avg",
        "dropout": 0.0,
        "lr": 1e-2,
    }
    model = Classifier(**(settings | changes))  # type: ignore[arg-type]
    model.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    return model


@pytest.fixture(autouse=True)
def _no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Classifier, "log", lambda *_, **__: None)


def batch(n: int = 6) -> Batch:
    images = torch.randint(0, 255, (n, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    return {"image": images.byte(), "target": torch.arange(n) % 3, "row": torch.arange(n)}


def test_one_batch_is_learnt_by_heart() -> None:
    torch.manual_seed(0)
    model = classifier(hidden=[])
    optimizer = model.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Optimizer)
    for _ in range(60):
        loss = model.training_step(batch(), 0)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert float(loss.detach()) < 0.1


def test_adam_as_in_keras() -> None:
    optimizer = classifier().configure_optimizers()
    assert isinstance(optimizer, torch.optim.Optimizer)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["eps"], group["betas"]) == (1e-2, 1e-7, (0.9, 0.999))


def test_padding_rows_count_neither_in_loss_nor_in_accuracy() -> None:
    model = classifier().eval()
    whole, padded = batch(4), batch(6)
    padded["target"][4:] = NOT_COUNTED
    metrics = [model.val_metrics, model.test_metrics]
    for rows, part, metric in zip((whole, padded), ("val", "test"), metrics, strict=True):
        model._evaluate(rows, part, metric)
    assert metrics[0].loss.compute() == metrics[1].loss.compute()
    assert metrics[0].acc.compute() == metrics[1].acc.compute()
    only = batch(2)
    only["target"][:] = NOT_COUNTED
    model._evaluate(only, "val", model.val_metrics)
    assert metrics[0].loss.compute() == metrics[1].loss.compute()


def test_accuracy_is_over_images_not_over_batches() -> None:
    model = classifier().eval()
    rows = batch(5)
    said = model(rows["image"]).argmax(1)
    rows["target"] = torch.cat([said[:4], (said[4:] + 1) % 3])  # four right, one wrong
    for part in (slice(0, 4), slice(4, 5)):
        some = Batch(image=rows["image"][part], target=rows["target"][part], row=rows["row"][part])
        model._evaluate(some, "val", model.val_metrics)
    assert float(model.val_metrics.acc.compute()) == pytest.approx(4 / 5)


@pytest.mark.parametrize(
    ("cuda", "bf16", "amx", "accelerator", "precision"),
    [
        (True, True, False, "auto", "bf16-mixed"),
        (True, False, True, "gpu", "16-mixed"),
        (True, True, False, "cpu", "32-true"),
        (True, False, True, "cpu", "bf16-mixed"),
        (False, False, False, "auto", "32-true"),
        (False, False, True, "auto", "bf16-mixed"),
        (False, False, True, "mps", "32-true"),
    ],
)
def test_precision_by_itself(
    monkeypatch: pytest.MonkeyPatch,
    cuda: bool,
    bf16: bool,
    amx: bool,
    accelerator: str,
    precision: str,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: bf16)
    monkeypatch.setattr("bloodcell.train.trainer.has_fast_bfloat16", lambda: amx)
    assert best_precision(accelerator) == precision


@pytest.mark.gpu
def test_mixed_precision_on_a_gpu() -> None:
    trainer = Trainer(accelerator="gpu", precision=best_precision("gpu"), logger=False)  # type: ignore[arg-type]
    assert "mixed" in trainer.precision


def test_settings_of_other_types_are_stored_plain() -> None:
    model = classifier(weights=Path("none"), lr=np.float64(1e-3), hidden=[np.int64(8)])
    assert (model.hparams["weights"], model.hparams["hidden"]) == ("none", [8])
    assert type(model.hparams["hidden"][0]) is int
    assert type(model.lr) is type(model.hparams["lr"]) is float
