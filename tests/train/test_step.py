"""A training step on an imagined GPU: tensors without values, which know their device."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchmetrics import Metric

from bloodcell.data.augment import Augment, augment_batch
from bloodcell.data.batches import Batch, ImageDataset
from bloodcell.data.placement import place_images
from bloodcell.train.finite import Finite
from bloodcell.train.optimizers import build_adam
from bloodcell.train.task import Classifier

GPU = torch.device("cuda")
READ = {"_local_scalar_dense", "nonzero", "masked_select", "equal"}  # operations that need values


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes each operation for which the host waits for the GPU."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        tensors = [one for one in tree_leaves((args, kwargs, result)) if isinstance(one, Tensor)]
        devices = {one.device.type for one in tensors}
        name = func.overloadpacket.__name__
        asynchronous = kwargs.get("non_blocking", False) or (name == "copy_" and True in args)
        moves = name in ("_to_copy", "copy_") and len(devices) > 1 and not asynchronous
        if moves or (name in READ and "cuda" in devices):
            self.found.append(name)
        return result


def to_gpu(module: nn.Module, mode: FakeTensorMode) -> None:
    """Replaces all tensors of a module."""

    def replaced(one: Tensor) -> Tensor:
        with mode:
            return torch.empty_strided(one.shape, one.stride(), dtype=one.dtype, device=GPU)

    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            part.register_parameter(name, nn.Parameter(replaced(parameter)))
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, replaced(buffer))
        if isinstance(part, Metric):
            for name in part.metric_state:
                setattr(part, name, replaced(getattr(part, name)))


def test_the_search_for_waits_finds_them() -> None:
    with FakeTensorMode(), Waits() as waits:
        numbers = torch.arange(4, device=GPU)
        numbers.cpu()
        torch.zeros(4).to(GPU)
        torch.zeros(4).to(GPU, non_blocking=True)
        numbers[0].add(1).eq(2)
    assert waits.found == ["_to_copy", "_to_copy"]


@pytest.mark.parametrize("augment", ["none", "flips", "full", "stain"])
def test_no_operation_of_a_step_waits_for_the_gpu(
    augment: Augment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Classifier, "log", lambda *_, **__: None)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (2**30, 2**30))
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    model = Classifier(list("abcd"), 32, "test_efficientnet", "none", compile=False)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    finite, on_gpu, mode = Finite(), SimpleNamespace(device=GPU), FakeTensorMode()
    for part in (model.network, model.train_metrics):
        to_gpu(part, mode)
    with mode:
        images = torch.empty(20, 32, 32, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
        gather = place_images(images, GPU, True)
        numbers = torch.arange(20)
        data = ImageDataset(gather, numbers, numbers % 4, numbers)
        optimizer = build_adam(model.parameters(), 1e-3, 0.0, fused=True)
        finite._first = torch.zeros((), dtype=torch.int64, device=GPU)
        with Waits() as waits:
            for step in range(2):
                batch: Any = data.__getitems__(range(8))
                for key in ("target", "row"):
                    batch[key] = batch[key].to(GPU, non_blocking=True)
                batch["image"] = augment_batch(batch["image"], batch["row"], augment, 0, step)
                assert batch["image"].is_contiguous(memory_format=torch.channels_last)
                loss = train(model, optimizer, batch)
                finite.on_train_batch_end(trainer, on_gpu, {"loss": loss}, batch, step)  # type: ignore[arg-type]
    assert waits.found == []


def train(model: Classifier, optimizer: torch.optim.Optimizer, batch: Batch) -> Tensor:
    optimizer.zero_grad()
    with torch.autocast("cuda", dtype=torch.float16, cache_enabled=False):
        loss = model.training_step(batch, 0)
    assert loss.dtype == torch.float32
    for parameter in model.parameters():  # the backward pass itself needs a real GPU
        parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    return loss.detach()
