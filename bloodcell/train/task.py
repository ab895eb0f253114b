"""The LightningModule: loss, metrics and optimizer around the network."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from bloodcell.data.augment import random_bits
from bloodcell.data.batches import NOT_COUNTED, Batch, as_batch
from bloodcell.errors import InputError, require
from bloodcell.model.compiled import Compile, CompiledPass
from bloodcell.model.description import RECIPE
from bloodcell.model.network import Network, Pool, PretrainedConfig
from bloodcell.model.pretrained import NONE, load_trunk, read_pretrained_config
from bloodcell.train.metrics import Mean, Metrics
from bloodcell.train.schedule import FULL_RATE, Schedule, rate_share

SO_FAR = "epoch_so_far"  # key in a checkpoint
_DROPOUT = 2**40  # rows of no table: dropout draws what augmentation does not
_LR = 1e-5
_PLATEAU = "val/loss"  # watched by a scheduler that needs a metric and names none


class Classifier(LightningModule):
    """A timm trunk with a small dense head that tells blood cells apart.

    It trains on the batches of `BloodCells`, and on those of any other DataLoader that gives
    tuples (image, target): pixels (B, 3, H, W) from 0 to 255, uint8 or float, and labels (B,).

    Args:
        class_names: the classes, in the order of the outputs; the command line takes them from the
            data.
        image_size: side of the images in pixels; the command line takes it from the data.
        backbone: trunk, any timm model name.
        weights: `imagenet` (timm's), `bundled` (of the model that comes with bloodcell), `none`,
            or a file (.safetensors, .pth, Keras' .h5).
        hidden: widths of the dense layers before the last; [] for a plain linear head.
        dropout: probability after each dense layer, 0 to under 1.
        pool: `flatten` the trunk's map, as published, or `avg` over it.
        freeze: leave the trunk as it came and train the head only.
        lr: learning rate of Adam; an optimizer of your own has its own.
        schedule: `constant`, or `cosine`: the rate rises over the first tenth of all steps, and
            falls to 0 along a cosine.
        weight_decay: share of each weight taken away at each step, times the rate.
        bn_momentum: weight of a batch in BatchNorm's running statistics, over 0 to 1; null: as the
            weights demand, for Keras' 0.01, which needs a thousand steps to follow.
        smoothing: share of each training label spread over all classes, 0 to under 1.
        compile: `auto` compiles the network on a GPU, and on a CPU with a C++ compiler if training
            takes long; `default`, `reduce-overhead`, `max-autotune` (modes of torch.compile)
            compile anywhere, false nowhere.
        optimizer: a class of torch.optim, such as AdamW, in place of Adam with Keras' epsilon; its
            options follow its name: `--model.optimizer AdamW --model.optimizer.lr 1e-3`.
        scheduler: a class of torch.optim.lr_scheduler, such as CosineAnnealingLR, in place of
            `schedule`; it steps once an epoch. ReduceLROnPlateau watches `monitor`.
        seed: decides what dropout draws; the command line takes it from seed_everything.

    Attributes:
        network: uint8 pixels in, logits out.
        pretrained_config: where the trunk's weights came from and what they demand.
        predicted: of the last validation or test, rows (n,), sorted, and probabilities
            (n, classes).
    """

    def __init__(
        self,
        class_names: list[str],
        image_size: int = 224,
        backbone: str = "mobilenetv1_100",
        weights: str = "imagenet",
        hidden: list[int] = [8],  # noqa: B006  never changed; --help shows it
        dropout: float = 0.5,
        pool: Pool = "flatten",
        freeze: bool = False,
        lr: float = _LR,
        schedule: Schedule = "constant",
        weight_decay: float = 0.0,
        bn_momentum: float | None = None,
        smoothing: float = 0.0,
        compile: Compile = "auto",
        optimizer: OptimizerCallable | None = None,
        scheduler: LRSchedulerCallable | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        _check(self.hparams)
        for name in ("optimizer", "scheduler"):  # a function can be called, but not be saved
            if callable(self.hparams[name]):
                self.hparams[name] = None
        self.seed = seed
        self.own_optimizer, self.own_scheduler = optimizer, scheduler
        self.class_names = class_names
        self.image_size = image_size
        self.freeze_trunk = freeze
        self.lr, self.weight_decay = lr, weight_decay
        self.schedule: Schedule = schedule
        self.smoothing = smoothing
        self.compile_how: Compile = compile
        self.pretrained_config = read_pretrained_config(backbone, weights)
        self.network = self._build()
        load_trunk(self.network.trunk, backbone, weights)
        self.network.trunk.requires_grad_(not freeze)
        self.train_metrics = Metrics()
        self.val_metrics, self.test_metrics = (Metrics(len(class_names)) for _ in range(2))
        self._so_far: list[Tensor] = []
        self.training_pass: Callable[[Tensor], Tensor] = self.forward
        self._kept: list[tuple[Tensor, Tensor, Tensor]] = []
        self.predicted: tuple[Tensor, Tensor] | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Maps pixels (B, 3, H, W), 0 to 255, to logits (B, classes)."""
        return cast(Tensor, self.network(images))

    def train(self, mode: bool = True) -> "Classifier":
        """Switches to training; a frozen trunk keeps its BatchNorm statistics."""
        super().train(mode)
        if self.freeze_trunk:
            self.network.trunk.eval()
        return self

    def on_fit_start(self) -> None:
        """Refuses a schedule that needs a last step, where the run has none."""
        trainer = self.trainer
        rule = "constant where the run has no last step: give trainer.max_epochs for cosine"
        ends = trainer.max_epochs != -1 or trainer.max_steps != -1
        require(ends or self.schedule == "constant", "model.schedule", self.schedule, rule)

    def on_train_start(self) -> None:
        """Compiles the network, which a checkpoint may have rebuilt until now."""
        trainer = self.trainer
        batches = getattr(trainer.train_dataloader, "batch_sampler", None)
        batch_size: int | None = getattr(batches, "batch_size", None)
        batch = (batch_size or 1) * self.image_size**2
        callbacks: list[Any] = vars(trainer)["callbacks"]
        accumulates = trainer.accumulate_grad_batches != 1 or any(
            isinstance(one, GradientAccumulationScheduler) for one in callbacks
        )
        n_pixels = batch * trainer.estimated_stepping_batches
        compiled = CompiledPass(
            self.network, self.compile_how, self.device, n_pixels, accumulates, batch_size
        )
        self.training_pass = compiled
        if compiled.mode:
            trainer.print(
                f"compiling the network ({compiled.mode}): some time before the first step"
            )
        if self._so_far and self._within_epoch() and trainer.is_global_zero:
            for (metric, name), value in zip(self._train_sums(), self._so_far, strict=True):
                setattr(metric, name, value.to(self.device))
        self._so_far = []

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Makes dropout a function of (seed, epoch, step, device), and the rate one of the step.

        Neither depends on what ran before: a run that goes on draws and learns as it would have.
        """
        trainer = self.trainer
        place = torch.tensor([_DROPOUT + batch_idx * trainer.world_size + trainer.global_rank])
        torch.manual_seed(int(random_bits(place, self.seed, trainer.current_epoch)))
        if self.schedule == "cosine":
            share = rate_share(trainer.global_step, float(trainer.estimated_stepping_batches))
            for group in trainer.optimizers[0].param_groups:
                group["lr"] = group[FULL_RATE] * share

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Returns the mean loss of a batch."""
        batch = as_batch(batch)
        return self._loss(self.training_pass(batch["image"]), batch, "train", self.train_metrics)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Adds a batch to the validation metrics and keeps its probabilities."""
        self._evaluate(as_batch(batch, self._place()), "val", self.val_metrics)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Adds a batch to the test metrics and keeps its probabilities."""
        self._evaluate(as_batch(batch, self._place()), "test", self.test_metrics)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Returns the probabilities (B, classes) of a batch, in the order of its images.

        On several devices each predicts every n-th image, and rows that fill up are left out.
        """
        if isinstance(batch, Tensor):
            batch = {"image": batch}
        elif not isinstance(batch, dict):
            batch = as_batch(batch)
        probability = self(batch["image"]).float().softmax(1)
        target = batch.get("target")
        return cast(Tensor, probability if target is None else probability[target != NOT_COUNTED])

    def on_train_epoch_end(self) -> None:
        """Steps a scheduler that watches a metric, before the checkpoint is written."""
        for config in self.trainer.lr_scheduler_configs:
            metric = self.trainer.callback_metrics.get(str(config.monitor))
            if config.reduce_on_plateau and metric is not None:
                plateau = cast(ReduceLROnPlateau, config.scheduler)
                plateau.step(float(metric))

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Steps a scheduler; `on_train_epoch_end` has stepped one that watches a metric.

        Lightning steps that one after the checkpoint, from which a run could not go on exactly.
        """
        if metric is None:
            super().lr_scheduler_step(scheduler, metric)

    def on_validation_epoch_end(self) -> None:
        """Brings the predictions of all devices together, each image once."""
        columns = [torch.cat(parts) for parts in zip(*self._kept, strict=True)]
        self._kept.clear()
        part, metrics = (
            ("test", self.test_metrics) if self.trainer.testing else ("val", self.val_metrics)
        )
        metrics.scores.update(columns[2], columns[1])
        for name, metric in metrics.scores.items():
            self.log(f"{part}/{name}", metric)
        if self.trainer.world_size > 1:  # (world, n, ...) -> (world * n, ...)
            columns = [self.all_gather(column).flatten(0, 1) for column in columns]  # type: ignore[union-attr]
        row, target, probability = columns
        counted = target != NOT_COUNTED
        row, probability = row[counted].cpu(), probability[counted].cpu()
        order = row.argsort()
        self.predicted = (row[order], probability[order])

    on_test_epoch_end = on_validation_epoch_end

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam, with Keras' epsilon and decoupled weight decay (Loshchilov and Hutter, 2019).

        `optimizer` and `scheduler` take its place and that of `schedule`.
        """
        trained = [p for p in self.parameters() if p.requires_grad]
        optimizer = self.own_optimizer(trained) if self.own_optimizer else self._adam(trained)
        for group in optimizer.param_groups:
            group[FULL_RATE] = group["lr"]
        optimizer.register_load_state_dict_pre_hook(self._as_now)
        if not self.own_scheduler:
            return optimizer
        scheduler: Any = self.own_scheduler(optimizer)
        monitor = getattr(scheduler, "monitor", _PLATEAU)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "monitor": monitor},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Makes the checkpoint enough: it says how to build the network, and needs no weights."""
        checkpoint[RECIPE] = self.pretrained_config.as_dict()
        checkpoint["hyper_parameters"]["weights"] = NONE
        if self._within_epoch():
            sums = [getattr(metric, name) for metric, name in self._train_sums()]
            strategy = self.trainer.strategy
            checkpoint[SO_FAR] = [strategy.reduce(one.clone(), reduce_op="sum") for one in sums]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Rebuilds the network as the checkpoint's weights demand.

        Raises:
            InputError: if the checkpoint's classes are others than the data's.
        """
        classes = checkpoint["hyper_parameters"]["class_names"]
        if classes != self.class_names:
            raise InputError(
                f"The checkpoint knows the classes {classes}, the data has {self.class_names}. "
                "Give data.root a folder with the checkpoint's classes, or train anew."
            )
        self._so_far = checkpoint.get(SO_FAR, [])
        before, self.pretrained_config = (
            self.pretrained_config,
            PretrainedConfig.from_dict(checkpoint[RECIPE]),
        )
        if replace(before, source="") != replace(self.pretrained_config, source=""):
            self.network = self._build().to(self.device)
            self.network.trunk.requires_grad_(not self.freeze_trunk)

    def forget_epoch(self) -> None:
        """Empties the training metrics of an epoch whose weights were taken back."""
        for metric, name in self._train_sums():
            getattr(metric, name).zero_()

    def summary(self) -> str:
        """Says what is trained, in one line."""
        hp = self.hparams
        trained = sum(p.numel() for p in self.parameters() if p.requires_grad)
        total = sum(p.numel() for p in self.parameters())
        return (
            f"{hp['backbone']} with weights={self.pretrained_config.source}, {hp['pool']}, dense "
            f"{hp['hidden']}, dropout {hp['dropout']}: {total:,} parameters, {trained:,} trained"
        )

    def _build(self) -> Network:
        hp = self.hparams
        network = Network(
            hp["backbone"],
            len(self.class_names),
            hp["image_size"],
            hp["hidden"],
            hp["dropout"],
            hp["pool"],
            self.pretrained_config,
        )
        if hp["bn_momentum"] is not None:
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = hp["bn_momentum"]
        return network

    def _place(self) -> tuple[int, int, int]:
        """Returns how many images this device has evaluated, the number of devices, its rank."""
        n = sum(len(kept[0]) for kept in self._kept)
        return n, self.trainer.world_size, self.trainer.global_rank

    def _within_epoch(self) -> bool:
        epochs: Any = self.trainer.fit_loop.epoch_progress.current
        return bool(epochs.started > epochs.processed)

    def _adam(self, trained: list[nn.Parameter]) -> Optimizer:
        return torch.optim.Adam(
            trained,
            self.lr,
            eps=1e-7,
            weight_decay=self.weight_decay,
            decoupled_weight_decay=True,
            fused=self._fused(),
        )

    def _as_now(self, optimizer: Optimizer, state: dict[str, Any]) -> None:
        """Adapts an optimizer's state before it is loaded: it may be of an older checkpoint."""
        for now, group in zip(optimizer.param_groups, state["param_groups"], strict=True):
            group.setdefault(FULL_RATE, now[FULL_RATE])
            if self.own_optimizer is None:
                group["fused"] = self._fused()

    def _train_sums(self) -> list[tuple[Mean, str]]:
        """What the training metrics have added up, by metric and name of the state."""
        metrics = self.train_metrics
        return [(one, name) for one in (metrics.loss, metrics.acc) for name in ("total", "count")]

    def _evaluate(self, batch: Batch, part: str, metrics: Metrics) -> None:
        logits = self(batch["image"])
        self._loss(logits, batch, part, metrics)
        self._kept.append((batch["row"], batch["target"], logits.float().softmax(1)))

    def _loss(self, logits: Tensor, batch: Batch, part: str, metrics: Metrics) -> Tensor:
        """Returns the mean loss; the metrics stay on the device until the epoch ends."""
        logits, target = logits.float(), batch["target"]
        count = (target != NOT_COUNTED).sum()
        total = F.cross_entropy(
            logits,
            target,
            ignore_index=NOT_COUNTED,
            reduction="sum",
            label_smoothing=self.smoothing if part == "train" else 0.0,
        )
        metrics.loss.update(total.detach(), count)
        metrics.acc.update((logits.argmax(1) == target).sum(), count)
        if metrics.loss.update_count == 1:  # Lightning keeps them and reads them after the epoch
            # `History` logs those of the training part, before the checkpoint is written
            logger = False if part == "train" else None
            for name, metric in metrics.means.items():
                key = f"{part}/{name}"
                self.log(key, metric, logger=logger, on_step=False, on_epoch=True, batch_size=1)
        return total / count.clamp(min=1)

    def _fused(self) -> bool:
        """Whether Adam is one kernel: Lightning clips no gradients of such a one."""
        return not self.trainer.gradient_clip_val


def _check(hp: Any) -> None:
    """Refuses settings out of range, and those that an own optimizer or scheduler replaces."""
    within = 0 <= hp["dropout"] < 1
    require(within, "model.dropout", hp["dropout"], "0 or more and less than 1, e.g. 0.5")
    widths, lr = hp["hidden"], hp["lr"]
    require(min(widths, default=1) > 0, "model.hidden", widths, "widths over 0, e.g. [8, 8]")
    require(lr > 0, "model.lr", lr, "over 0, e.g. 1e-4")
    decay, smoothing, momentum = hp["weight_decay"], hp["smoothing"], hp["bn_momentum"]
    require(0 <= decay < 1, "model.weight_decay", decay, "0 to under 1, e.g. 0.02")
    require(0 <= smoothing < 1, "model.smoothing", smoothing, "0 to under 1, e.g. 0.1")
    rule = "over 0 to 1, e.g. 0.1, or null"
    require(momentum is None or 0 < momentum <= 1, "model.bn_momentum", momentum, rule)
    rule = "{} with an optimizer of your own, which has its own: give model.optimizer.{}"
    own = hp["optimizer"] is not None
    require(not own or lr == _LR, "model.lr", lr, rule.format(_LR, "lr"))
    require(not own or decay == 0, "model.weight_decay", decay, rule.format(0, "weight_decay"))
    rule = "constant with model.scheduler, which takes its place: leave one of them out"
    free = hp["scheduler"] is None or hp["schedule"] == "constant"
    require(free, "model.schedule", hp["schedule"], rule)
