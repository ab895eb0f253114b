"""How fast each stage is, and how much of a training step is not the network's.

Everything is measured inside of one real `fit`, in turns, so that a machine whose speed varies
gives all stages their share of good and bad moments. Medians of the rounds are compared.
"""

import copy
import time
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.nn import functional as F

from bloodcell.data.batches import Batch
from bloodcell.data.cache import open_cached
from bloodcell.data.datamodule import BloodCells
from bloodcell.data.source import cache_folder
from bloodcell.errors import require
from bloodcell.model.compiled import CompiledPass
from bloodcell.report import machine
from bloodcell.report.speeds import Speeds, print_speeds, write_speeds
from bloodcell.train.classifier import Classifier
from bloodcell.train.trainer import device_name

BENCHMARKED = {  # arguments of its Trainer
    "devices": 1,
    "max_epochs": -1,
    "min_epochs": 0,
    "limit_val_batches": 0,
    "enable_progress_bar": False,
    "enable_checkpointing": False,
}
ROUNDS = 5
_WARM_UP = 8  # steps; a compiler's first is left out too
_DECODED = 2_000  # images are enough to tell the speed of decoding


class BenchmarkTrainer(Trainer):
    """Lightning's Trainer with one more verb."""

    def benchmark(
        self,
        model: Classifier,
        datamodule: BloodCells,
        batch_sizes: list[int] = [32],  # noqa: B006  never changed; --help shows it
        seconds: float = 15.0,
        out: str | None = None,
    ) -> None:
        """Measures images per second of each stage.

        Args:
            model: what is trained; its weights are spoilt.
            datamodule: what it is trained on.
            batch_sizes: each is measured, e.g. [32,128].
            seconds: how long each stage is measured.
            out: a JSON file for the figures, besides the table.
        """
        most = len(datamodule.parts["train"])
        for size in batch_sizes:
            rule = f"1 to {most}, the number of training images"
            require(0 < size <= most, "--batch_sizes", size, rule)
        require(seconds > 0, "--seconds", seconds, "over 0, e.g. 15")
        cache_build = measure_cache_build(datamodule)
        found = []
        for size in batch_sizes:
            datamodule.batch_size = size
            stopwatch = Stopwatch(seconds)
            self.callbacks.append(stopwatch)  # type: ignore[attr-defined]  # undeclared
            self.fit(model, datamodule)
            self.callbacks.remove(stopwatch)  # type: ignore[attr-defined]
            assert stopwatch.found
            found.append(stopwatch.found)
        device = device_name(self.strategy.root_device)
        side = datamodule.image_size
        title = f"{model.hparams['backbone']}, {side} pixels, {self.precision}, {device}"
        print_speeds(title, cache_build, found)
        if out:
            settings = {
                "model": dict(model.hparams),
                "data": dict(datamodule.hparams),
                "precision": str(self.precision),
                "machine": machine.describe(device),
            }
            write_speeds(Path(out), settings, cache_build, found)


class Stopwatch(Callback):
    """Measures while a fit runs, and ends it.

    Args:
        seconds: how long each stage is measured, over all rounds.

    Attributes:
        found: the result, once the fit has ended.
    """

    def __init__(self, seconds: float) -> None:
        self._slice = seconds / ROUNDS
        self._steps = self._images = 0
        self._start = 0.0
        self._rates: dict[str, list[float]] = {"training": []}
        self._others: dict[str, Callable[[], int]] = {}
        self.found: Speeds | None = None

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Ends a slice of training when its time is over, and gives the other stages theirs."""
        assert isinstance(pl_module, Classifier)
        self._steps += 1
        self._images += len(batch["target"])
        if self._steps < _WARM_UP:
            return
        if self._steps == _WARM_UP:
            self._others = _stages(trainer, pl_module)
            for step in self._others.values():
                for _ in range(_WARM_UP):
                    step()
        else:
            if time.perf_counter() - self._start < self._slice:
                return
            self._rates["training"].append(self._images / self._elapsed(trainer))
            for name, step in self._others.items():
                self._rates.setdefault(name, []).append(self._rate(trainer, step))
        self._images, self._start = 0, self._now(trainer)
        if len(self._rates["training"]) == ROUNDS:
            trainer.should_stop = True
            self.found = self._result(trainer)

    def _rate(self, trainer: Trainer, step: Callable[[], int]) -> float:
        images, self._start = 0, self._now(trainer)
        while time.perf_counter() - self._start < self._slice:
            images += step()
        return images / self._elapsed(trainer)

    def _elapsed(self, trainer: Trainer) -> float:
        return self._now(trainer) - self._start

    def _now(self, trainer: Trainer) -> float:
        """The time when all that was asked of the device is done."""
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def _result(self, trainer: Trainer) -> Speeds:
        device = trainer.strategy.root_device
        rates = {name: median(of) for name, of in self._rates.items()}
        pairs = zip(self._rates["training"], self._rates["network"], strict=True)
        cuda = device.type == "cuda"
        return Speeds(
            trainer.datamodule.batch_size,  # type: ignore[attr-defined]  # undeclared
            **rates,
            not_network=median(1 - training / network for training, network in pairs),
            memory_gib=torch.cuda.max_memory_allocated(device) / 2**30 if cuda else None,
        )


def measure_cache_build(data: BloodCells) -> float:
    """Builds a cache beside the real one and removes it.

    Args:
        data: its first images are decoded.

    Returns:
        Images a second.
    """
    names = [row.path for row in data.table.rows][:_DECODED]
    cache_folder().mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=cache_folder()) as home:
        start = time.perf_counter()
        open_cached(data.source, names, data.image_size, data.cache_gib or 1e3, Path(home))
        return len(names) / (time.perf_counter() - start)


def _stages(trainer: Trainer, model: Classifier) -> dict[str, Callable[[], int]]:
    """The other stages: each a function that does one step of it and returns its images."""
    data: BloodCells = trainer.datamodule  # type: ignore[attr-defined]  # undeclared
    size, device = data.batch_size, trainer.strategy.root_device
    context = trainer.precision_plugin.forward_context
    network = copy.deepcopy(model.network)  # trained on noise, it must not be the model's own
    training_pass = CompiledPass(network, model.compile_how, device)
    optimizer = trainer.optimizers[0]
    parameters = [p for p in network.parameters() if p.requires_grad]
    alone = type(optimizer)(parameters, **optimizer.defaults)
    shape = (size, data.image_size, data.image_size, 3)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=device).permute(0, 3, 1, 2)
    targets = torch.randint(0, len(data.class_names), (size,), device=device)

    answering = copy.deepcopy(network).eval()

    def batches(loader: Any) -> Iterator[Batch]:
        for batch in chain.from_iterable(repeat(loader)):
            yield trainer.strategy.batch_to_device(batch, dataloader_idx=0)

    seen, asked = batches(data.train_dataloader()), batches(data.val_dataloader())

    def pick() -> int:
        return len(next(seen)["target"])

    def train_alone() -> int:
        alone.zero_grad()
        with context():
            loss = F.cross_entropy(training_pass(pixels).float(), targets)
        torch.autograd.backward(loss)
        alone.step()
        return size

    def infer() -> int:
        batch = next(asked)
        with torch.no_grad(), context():
            answering(batch["image"]).float().softmax(1)
        return len(batch["target"])

    return {"data": pick, "network": train_alone, "inference": infer}
