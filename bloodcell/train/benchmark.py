"""Measures the speed of each stage, and the share of a training step spent outside the network.

All stages are measured in turns within one real `fit`, so that changes in the machine's speed
affect all of them equally.
"""

import copy
import gc
import math
import time
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from pathlib import Path
from statistics import mean, median, stdev
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.nn import functional as F

from bloodcell import machine
from bloodcell.data.batches import Batch
from bloodcell.data.cache import open_cached
from bloodcell.data.datamodule import BloodCells
from bloodcell.data.splits import spread
from bloodcell.errors import InputError, require
from bloodcell.evaluate.speeds import Speeds, print_speeds, write_speeds
from bloodcell.files import cache_folder, check_place
from bloodcell.memory import is_full
from bloodcell.model.compiled import CompiledPass
from bloodcell.train.optimizers import build_like
from bloodcell.train.runs import data_of
from bloodcell.train.task import Classifier
from bloodcell.train.traffic import add_traffic
from bloodcell.train.trainer import device_name

BENCHMARKED = {  # arguments of the Trainer: only training steps, until `Stopwatch` ends the fit
    "devices": 1,
    "max_epochs": -1,
    "min_epochs": 0,
    "max_steps": -1,
    "max_time": None,
    "fast_dev_run": False,
    "overfit_batches": 0.0,
    "limit_train_batches": None,
    "limit_val_batches": 0,
    "callbacks": None,  # of the user; they may need a validation
    "accumulate_grad_batches": 1,
    "gradient_clip_val": None,
    "enable_progress_bar": False,
    "enable_checkpointing": False,
}
DECODED = 2_000  # images decoded to measure the speed of decoding
ROUNDS = 15  # enough for a standard error
_WARM_UP = 8  # steps that are not measured, including the compilation


def check_benchmark(config: Any) -> None:
    """Checks the settings of `benchmark` before any data is read, and drops the schedule.

    Raises:
        InputError: if a setting is out of range.
    """
    sizes, rule = config.batch_sizes, "a list of batch sizes over 0, e.g. [32,128]"
    require(min(sizes, default=1) > 0, "--batch_sizes", sizes, rule)
    require(config.seconds > 0, "--seconds", config.seconds, "over 0, e.g. 15")
    check_place("--out", config.out, ".json")
    devices, rule = config.trainer.devices, "1: one device is measured"
    require(devices in ("auto", 1, "1"), "trainer.devices", devices, rule)
    config.model.schedule = "constant"  # a cosine has no end here, and costs no time


class BenchmarkTrainer(Trainer):
    """Lightning's Trainer with the additional verb `benchmark`."""

    def benchmark(
        self,
        model: Classifier,
        datamodule: BloodCells,
        batch_sizes: list[int] = [],  # noqa: B006  never changed; --help shows it
        seconds: float = 15.0,
        out: str | None = None,
    ) -> None:
        """Measures the images per second of each stage, medians of 15 rounds, and prints them.

        For a compiled network it also prints the number of kernels of a forward and backward pass,
        and how much they read and write beside the least that a network of this shape needs.

        Args:
            model: the model to train; its weights are changed.
            datamodule: the data to train on.
            batch_sizes: batch sizes to measure, e.g. [32,128]; [] for `data.batch_size` alone.
            seconds: least measuring time of each of the four stages; a round has one step or more.
            out: a JSON file for the results; it is rewritten after each batch size, so that an
                interrupted benchmark keeps its results.
        """
        batch_sizes = batch_sizes or [datamodule.batch_size]
        most = len(datamodule.parts["train"])
        rule = f"at most {most}, the number of training images"
        require(max(batch_sizes) <= most, "--batch_sizes", batch_sizes, rule)
        device = device_name(self.strategy.root_device)
        side = datamodule.image_size
        settings = self._settings(model, datamodule) | {"seconds": seconds}
        cache_build = measure_cache_build(datamodule)
        found: list[Speeds] = []
        for size in batch_sizes:
            try:
                found.append(self._measure(model, datamodule, size, seconds))
            except RuntimeError as error:
                if not is_full(error):
                    raise
                print(f"--batch_sizes: {size} images do not fit into the device's memory")
                continue
            print(f"batch {size}: {found[-1].training:,.1f} training images per second", flush=True)
            if out:
                write_speeds(Path(out), settings, cache_build, found)
        if not found:
            raise InputError(
                f"--batch_sizes={batch_sizes}: none fits into memory. Use smaller ones."
            )
        title = f"{model.hparams['backbone']}, {side} pixels, {self.precision}, {device}"
        if self.strategy.root_device.type == "cpu":
            n = torch.get_num_threads()
            title += f", {n} thread{'s' * (n > 1)}"
        print_speeds(title, cache_build, found)

    def _settings(self, model: Classifier, data: BloodCells) -> dict[str, Any]:
        return {
            "model": dict(model.hparams),
            "data": {k: v for k, v in data.hparams.items() if k != "batch_size"},
            "precision": str(self.precision),
            "rounds": ROUNDS,
            "machine": machine.describe(device_name(self.strategy.root_device)),
            "threads": torch.get_num_threads(),
        }

    def _measure(self, model: Classifier, data: BloodCells, size: int, seconds: float) -> Speeds:
        torch.compiler.reset()  # the compiler caches only a few versions of a function
        gc.collect()  # frees the networks of the previous batch size
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        data.batch_size = size
        stopwatch = Stopwatch(seconds)
        callbacks: list[Callback] = vars(self)["callbacks"]  # Lightning declares no type for it
        callbacks.append(stopwatch)
        try:
            self.fit(model, data)
        finally:
            callbacks.remove(stopwatch)
        if stopwatch.found is None:
            raise InputError("the benchmark was stopped before its first measurement.")
        found = stopwatch.found
        del stopwatch  # frees its networks
        return add_traffic(found, self, model, data.image_size)


class Stopwatch(Callback):
    """Measures all stages during a fit, then ends the fit.

    Args:
        seconds: measuring time of each stage, over all rounds.

    Attributes:
        found: the result; None until the fit has ended.
    """

    def __init__(self, seconds: float) -> None:
        self._slice = seconds / ROUNDS
        self._steps = self._images = self._batch_size = self._rounds = 0
        self._start = 0.0
        self._memory: float | None = None
        self._stages: dict[str, Callable[[], int]] = {}
        self._rates: dict[str, list[float]] = {}  # of each stage, in each round
        self.found: Speeds | None = None

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Measures the other stages whenever a time slice of training is over."""
        assert isinstance(pl_module, Classifier)
        self._steps += 1
        self._images += len(batch["target"])
        self._batch_size = max(self._batch_size, len(batch["target"]))
        if self._steps < _WARM_UP:
            return
        if self._steps == _WARM_UP:
            if pl_module.device.type == "cuda":
                self._memory = torch.cuda.max_memory_reserved() / 2**30
            self._stages = _make_stages(trainer, pl_module, batch)
            for step in self._stages.values():
                for _ in range(_WARM_UP):
                    step()
        elif time.perf_counter() - self._start < self._slice:
            return
        else:
            self._rounds += 1
            self._add("training", self._images, pl_module.device)
            for name, step in self._stages.items():
                images, self._start = 0, _now(pl_module.device)
                while time.perf_counter() - self._start < self._slice:
                    images += step()
                self._add(name, images, pl_module.device)
        self._images, self._start = 0, _now(pl_module.device)
        if self._rounds == ROUNDS:
            trainer.should_stop = True
            self.found = self._summarise(pl_module)

    def _summarise(self, model: Classifier) -> Speeds:
        """Returns the rates of all stages, and the share of time outside the network."""
        rates = {name: median(found) for name, found in self._rates.items()}
        pairs = zip(self._rates["training"], self._rates["network"], strict=True)
        shares = [1 - training / network for training, network in pairs]
        assert isinstance(model.training_pass, CompiledPass)
        return Speeds(
            self._batch_size,
            data=rates["data"],
            network=rates["network"],
            training=rates["training"],
            inference=rates["inference"],
            not_network=mean(shares),
            not_network_error=stdev(shares) / math.sqrt(ROUNDS),
            compiled=model.training_pass.mode,
            memory_gib=self._memory,
        )

    def _add(self, name: str, images: int, device: torch.device) -> None:
        rate = images / (_now(device) - self._start)
        self._rates.setdefault(name, []).append(rate)


def _now(device: torch.device) -> float:
    """Returns the time after the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def measure_cache_build(data: BloodCells) -> float:
    """Builds a temporary cache of `DECODED` images of all classes and removes it.

    Args:
        data: the data.

    Returns:
        Decoded images per second.
    """
    names = spread([row.path for row in data.table.rows], DECODED)
    cache_folder().mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=cache_folder()) as home:
        start = time.perf_counter()
        open_cached(data.source, names, data.input_format, data.cache_gib or 1e3, Path(home))
        return len(names) / (time.perf_counter() - start)


def _make_stages(trainer: Trainer, model: Classifier, batch: Batch) -> dict[str, Callable[[], int]]:
    """Returns, for each other stage, a function that runs one step and returns its image count."""
    data = data_of(trainer)
    context = trainer.precision_plugin.forward_context
    network = copy.deepcopy(model.network)  # a copy, because it is trained on noise
    evaluated = copy.deepcopy(network).eval()
    training_pass = CompiledPass(network, model.compile_how, model.device, math.inf)
    own_optimizer = build_like(trainer.optimizers[0], network)
    scaler = torch.amp.GradScaler(enabled=trainer.precision == "16-mixed")  # needed for fp16
    pixels = torch.randint_like(batch["image"], 0, 256)
    targets = torch.randint_like(batch["target"], 0, len(data.class_names))

    def endless(loader: Any) -> Iterator[Batch]:
        return chain.from_iterable(repeat(loader))

    train_batches = endless(data.train_dataloader())
    val_batches = endless(data.val_dataloader())

    def take_batch() -> int:
        taken = trainer.strategy.batch_to_device(next(train_batches), dataloader_idx=0)
        return len(taken["target"])

    def train_network() -> int:
        own_optimizer.zero_grad()
        with context():
            loss = F.cross_entropy(training_pass(pixels).float(), targets)
        torch.autograd.backward(scaler.scale(loss))
        scaler.step(own_optimizer)
        scaler.update()
        return len(targets)

    def infer() -> int:
        images = next(val_batches)["image"].to(model.device, non_blocking=True)
        with torch.no_grad(), context():
            evaluated(images).float().softmax(1)
        return len(images)

    return {"data": take_batch, "network": train_network, "inference": infer}
