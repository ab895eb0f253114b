"""Memory that runs out: a GPU is imitated, whose memory ends at some number of images."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from bloodcell.cli.main import main
from bloodcell.memory import is_full
from bloodcell.model.compiled import Compile
from bloodcell.model.network import Network
from bloodcell.train.batch_size import largest

Refused = Callable[..., str]


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for ten images in training."""
    forward = Network.forward

    def limited(self: Network, images: Tensor) -> Tensor:
        if self.training and len(images) > 10:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
        return forward(self, images)

    monkeypatch.setattr(Network, "forward", limited)
    for module in ("failures", "batch_size"):  # the former imports from the latter
        monkeypatch.setattr(f"bloodcell.train.{module}.is_gpu", lambda _: True)


@pytest.mark.usefixtures("little")
def test_the_batch_size_that_fits_is_found_and_kept(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["fit", *words, "--data.batch_size", "auto", "--trainer.max_epochs", "1"])
    assert "data.batch_size=auto: 8\n" in capsys.readouterr().out
    run = Path("lightning_logs/custom/version_0")
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["batch_size"] == 8
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["datamodule_hyper_parameters"]["batch_size"] == 8
    assert last["global_step"] == 6  # of 44 images


@pytest.mark.usefixtures("little")
def test_a_batch_that_does_not_fit_says_which_would(words: list[str], refused: Refused) -> None:
    said = refused("fit", *words, "--data.batch_size", "40")
    assert "cpu has too little memory for data.batch_size=40. --data.batch_size 8 fits" in said
    assert "and auto finds it." in said


@pytest.mark.parametrize(
    ("says", "full"),
    [
        ("MPS backend out of memory (MPS allocated: 17.2 GB, max allowed: 18.1 GB).", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", True),
        ("GET was unable to find an engine to execute this computation", True),
        ("Failed to allocate memory for requested buffer of size 4096", True),
        ("std::bad_alloc", True),
        ("CUDA error: an illegal memory access was encountered", False),
    ],
)
def test_words_for_memory_that_runs_out(says: str, full: bool) -> None:
    assert is_full(RuntimeError(says)) is full


@pytest.mark.parametrize(
    ("compile_how", "device", "size"),
    [
        ("auto", "cuda", 32),
        ("max-autotune", "cuda", 32),
        ("default", "cuda", 64),
        ("auto", "mps", 64),
    ],
)
def test_cuda_graphs_keep_the_memory_of_a_step(
    compile_how: Compile, device: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last batch of an epoch runs beside them. A GPU is imitated: 100 images fit."""
    monkeypatch.setattr("bloodcell.train.batch_size._fits", lambda *given: given[-1] <= 100)
    strategy = SimpleNamespace(root_device=torch.device(device))
    given: Any = SimpleNamespace(strategy=strategy, compile_how=compile_how, input_format=None)
    assert largest(given, given, given, 512) == size


def test_an_operation_without_a_deterministic_version(
    words: list[str], refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("x_backward_cuda does not have a deterministic implementation, but you")

    monkeypatch.setattr(Network, "forward", fails)
    said = refused("fit", *words)
    assert "deterministic implementation, but you. Use --trainer.deterministic warn" in said


def test_memory_of_a_cpu(
    words: list[str],
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["fit", *words, "--data.batch_size", "auto", "--trainer.fast_dev_run", "true"])
    assert "data.batch_size=auto: 32\n" in capsys.readouterr().out

    def full(*_: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr(Network, "forward", full)
    said = refused("fit", *words)
    assert "too little memory for data.batch_size=32. Use a smaller batch, or a smaller" in said
    monkeypatch.setattr("bloodcell.train.batch_size._fits", lambda *_: False)
    monkeypatch.setattr("bloodcell.train.batch_size.is_gpu", lambda _: True)
    said = refused("fit", *words, "--data.batch_size", "auto")
    assert "data.image_size=32: not even a batch of one image fits into cpu" in said


def test_several_devices_are_told_the_number(words: list[str], refused: Refused) -> None:
    several = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    said = refused("fit", *words, "--data.batch_size", "auto", *several)
    assert "data.batch_size=auto cannot be used: it must be a number if several devices" in said
    said = refused("fit", *words, "--data.batch_size", "0")
    assert "data.batch_size=0 cannot be used: it must be 1 or more, e.g. 32, or auto." in said
