"""An optimizer and a scheduler by class path: resumed exactly, and taken back."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch.optim import Optimizer
from torch.optim import lr_scheduler as rates
from torch.optim.lr_scheduler import LRScheduler

from bloodcell.cli.main import main
from bloodcell.errors import InputError
from bloodcell.evaluate.history import read_history
from bloodcell.train.finite import Finite
from bloodcell.train.optimizers import (
    build_like,
    change_rates,
    keep_rate,
    nominal_rates,
    prepare_optimizer,
    restored,
)
from bloodcell.train.task import Classifier

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


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
def test_an_optimizer_is_built_for_another_network(kind: type[Optimizer]) -> None:
    layers = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    layers[0].requires_grad_(False)
    options: dict[str, Any] = {"lr": 0.5, "weight_decay": 0.25}
    given = kind(torch.nn.Linear(1, 1).parameters(), **options)
    built = build_like(given, layers)
    assert type(built) is kind
    (group,) = built.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.25)
    assert [id(p) for p in group["params"]] == [id(p) for p in layers[1].parameters()]


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


def test_a_plateau_counts_validations_only(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once after each of two validations in five epochs; the run is resumed after the third."""
    stepped: list[tuple[int, float]] = []
    step = rates.ReduceLROnPlateau.step

    def noted(self: rates.ReduceLROnPlateau, metrics: Any, *more: Any) -> None:
        stepped.append((self.last_epoch, float(metrics)))
        step(self, metrics, *more)

    monkeypatch.setattr(rates.ReduceLROnPlateau, "step", noted)
    every = ["--trainer.check_val_every_n_epoch", "2", "--trainer.max_epochs"]
    main(["fit", *words, *OWN, *PLATEAU, *every, "3", "--name", "parts"])
    main(["fit", "--ckpt_path", "lightning_logs/parts/version_0", "--trainer.max_epochs", "5"])
    lines = read_history(path("parts"))
    losses = [line.val_loss for line in lines if not math.isnan(line.val_loss)]
    assert len(losses) == 2
    assert [epoch for epoch, _ in stepped] == [0, 1]
    assert [loss for _, loss in stepped] == pytest.approx(losses)


def test_a_rollback_halves_the_rates_of_a_scheduler(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """OneCycleLR sets its own rates; they stay halved when resumed, and can be lowered then."""
    wrong = Finite._wrong_loss
    told: list[int] = []

    def once(self: Finite, trainer: Trainer) -> str:
        if trainer.current_epoch == 1 and not told:
            told.append(1)
            return "the loss is NaN."
        return wrong(self, trainer)

    cycle = ["--model.scheduler", "OneCycleLR", "--model.scheduler.total_steps", "9"]
    decay = ["--model.optimizer.weight_decay", "0.02"]
    fit = ["fit", *words, *OWN, *decay, *cycle, "--model.scheduler.max_lr", "1e-3"]
    main([*fit, "--name", "whole", "--trainer.max_epochs", "4"])
    monkeypatch.setattr(Finite, "_wrong_loss", once)
    main([*fit, "--name", "parts", "--rollbacks", "1", "--trainer.max_epochs", "2"])
    resume = ["fit", "--ckpt_path", "lightning_logs/parts/version_0", "--trainer.max_epochs"]
    main([*resume, "3"])
    main([*resume, "4", "--model.optimizer", "AdamW", "--model.optimizer.lr", "5e-4"])
    whole, parts = ([line.lr for line in read_history(path(name))] for name in ("whole", "parts"))
    assert len(set(whole)) == 4
    shares = [part / one for part, one in zip(parts, whole, strict=True)]
    assert shares == pytest.approx([1, 0.5, 0.5, 0.25])


def path(name: str) -> Path:
    return Path(f"lightning_logs/{name}/version_0/metrics.csv")


SCHEDULERS: dict[str, Callable[[Optimizer], LRScheduler]] = {
    "constant": lambda sgd: rates.ConstantLR(sgd, 0.5, 4),
    "cosine": lambda sgd: rates.CosineAnnealingLR(sgd, 9),
    "restarts": lambda sgd: rates.CosineAnnealingWarmRestarts(sgd, 3),
    "cycle": lambda sgd: rates.OneCycleLR(sgd, 0.1, 9),
    "cyclic": lambda sgd: rates.CyclicLR(sgd, 0.01, 0.1, 2),
    "exponential": lambda sgd: rates.ExponentialLR(sgd, 0.9),
    "lambda": lambda sgd: rates.LambdaLR(sgd, lambda epoch: 1 / (1 + epoch)),
    "product": lambda sgd: rates.MultiplicativeLR(sgd, lambda _: 0.9),
    "step": lambda sgd: rates.StepLR(sgd, 2),
    "sequential": lambda sgd: rates.SequentialLR(
        sgd, [rates.LinearLR(sgd, 0.1, 1, 3), rates.PolynomialLR(sgd, 5)], [3]
    ),
    "chained": lambda sgd: rates.ChainedScheduler(
        [rates.LinearLR(sgd, 0.1, 1, 3), rates.ExponentialLR(sgd, 0.9)]
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_halved_rates_stay_halved(name: str) -> None:
    """With every scheduler of PyTorch, and in one that is resumed."""

    def series(factor: float) -> list[float]:
        found, state = list[float](), dict[str, Any]()
        for step in range(8):
            if step in (0, 5):  # made, or made again and resumed
                weight = torch.zeros(1, requires_grad=True)
                sgd = prepare_optimizer(torch.optim.SGD([weight], 0.1, momentum=0.9))
                scheduler = SCHEDULERS[name](sgd)
            if state:
                sgd.load_state_dict(state["optimizer"])
                scheduler.load_state_dict(state["scheduler"])
            if step == 2:
                change_rates(sgd.param_groups, factor)
            sgd.step()
            with nominal_rates(sgd):
                scheduler.step()
            state = {"optimizer": sgd.state_dict(), "scheduler": scheduler.state_dict()}
            found.append(sgd.param_groups[0]["lr"])
        return found

    whole, halved = series(1), series(0.5)
    shares = [1, 1, *[0.5] * 6]
    expected = [rate * share for rate, share in zip(whole, shares, strict=True)]
    assert halved == pytest.approx(expected)


def test_transforms_by_class_path(words: list[str]) -> None:
    flip = ["--data.transforms+", "torchvision.transforms.v2.RandomHorizontalFlip"]
    main(["fit", *words, *flip, "--trainer.max_epochs", "1"])
    kept = last("custom")["datamodule_hyper_parameters"]["transforms"]
    assert [one["class_path"].split(".")[-1] for one in kept] == ["RandomHorizontalFlip"]
    main(["test", "--ckpt_path", "lightning_logs/custom/version_0"])


def test_a_loaded_model_goes_on_with_its_own_optimizer(words: list[str]) -> None:
    main(["fit", *words, *OWN, *COSINE, "--trainer.max_epochs", "1"])
    best = Path("lightning_logs/custom/version_0/checkpoints/best.ckpt")
    model = Classifier.load_from_checkpoint(best)
    model.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    made: Any = model.configure_optimizers()
    assert type(made["optimizer"]) is torch.optim.AdamW
    assert made["optimizer"].param_groups[0]["full_rate"] == 1e-3
    assert made["lr_scheduler"]["scheduler"].T_max == 3
    for other in ("os.system", "lightning.pytorch.cli.instantiate_class", "mine.AdamW"):
        with pytest.raises(InputError, match=rf"optimizer={other} cannot be restored from a check"):
            restored("optimizer", {"class_path": other, "init_args": {}})


def test_the_rate_of_an_old_state_is_changed_once() -> None:
    """Of a checkpoint from before the groups had a full rate, resumed with half of it."""
    weight = torch.zeros(1, requires_grad=True)
    state = torch.optim.SGD([weight], 0.1).state_dict()
    checkpoint = {"hyper_parameters": {"lr": 0.1}, "optimizer_states": [state]}
    keep_rate(checkpoint, {"lr": 0.05})
    resumed = prepare_optimizer(torch.optim.SGD([weight], 0.05))
    resumed.load_state_dict(state)
    (group,) = resumed.param_groups
    assert group["lr"] == pytest.approx(0.05)
    assert group["full_rate"] * group["rate_factor"] == pytest.approx(0.05)


def test_the_rate_of_an_epoch_is_that_of_its_steps(words: list[str]) -> None:
    steps = ["--model.scheduler", "StepLR", "--model.scheduler.step_size", "1"]
    main(["fit", *words, "--model.lr", "1e-3", *steps, "--trainer.max_epochs", "2"])
    assert [line.lr for line in read_history(path("custom"))] == pytest.approx([1e-3, 1e-4])
