from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from bloodcell.train.compiling import compile_for
from bloodcell.train.sync_norm import SyncNorm


def test_synchronised_layers_are_compiled_only_if_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.compile", lambda forward, **_: forward)
    monkeypatch.setattr("bloodcell.model.compiled._best_mode", lambda *_: "default")
    trainer: Any = SimpleNamespace(
        train_dataloader=None, callbacks=[], accumulate_grad_batches=1, print=print,
        estimated_stepping_batches=9, strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )  # fmt: skip
    network = nn.Sequential(nn.BatchNorm2d(3))
    assert compile_for(trainer, network, "auto", 32).mode == "default"
    SyncNorm().apply(network)
    assert compile_for(trainer, network, "auto", 32).mode is False
    assert compile_for(trainer, network, "default", 32).mode == "default"
    SyncNorm().revert(network)
    assert compile_for(trainer, network, "auto", 32).mode == "default"
