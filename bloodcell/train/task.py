"""The LightningModule: loss, metrics and optimizer around the network."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import Tensor, nn
from torch.nn import functional as F

from bloodcell.data.augment import random_bits
from bloodcell.data.batches import NOT_COUNTED, Batch
from bloodcell.data.datamodule import BloodCells
from bloodcell.data.table import PARTS
from bloodcell.errors import InputError, require
from bloodcell.model.compiled import Compile, CompiledPass
from bloodcell.model.description import RECIPE, TRAINED_ON
from bloodcell.model.network import Network, Pool, PretrainedConfig
from bloodcell.model.pretrained import NONE, load_trunk, read_pretrained_config
from bloodcell.train.metrics import Mean, Metrics
from bloodcell.train.schedule import FULL_RATE, Schedule, rate_share

# keys in a checkpoint
FINGERPRINT, FACTS, SO_FAR = "data_fingerprint", "data_facts", "epoch_so_far"
_DROPOUT = 2**40  # rows of no table: dropout draws what augmentation does not


class Classifier(LightningModule):
    """A timm trunk with a small dense head that tells blood cells apart.

    Args:
        class_names: the classes, in the order of the outputs; the data says them.
        image_size: side of the images in pixels; the data says it.
        backbone: trunk, any timm model name.
        weights: `imagenet` (timm's), `bundled` (of the model that comes with bloodcell), `none`,
            or a file (.safetensors, .pth, Keras' .h5).
        hidden: widths of the dense layers before the last; [] for a plain linear head.
        dropout: probability after each dense layer, 0 to under 1.
        pool: `flatten` the trunk's map, as published, or `avg` over it.
        freeze: leave the trunk as it came and train the head only.
        lr: learning rate of Adam.
        schedule: `constant`, or `cosine`: the rate rises over the first tenth of all steps, and
            falls to 0 along a cosine.
        weight_decay: share of each weight taken away at each step, times the rate.
        bn_momentum: weight of a batch in BatchNorm's running statistics, over 0 to 1; null: as the
            weights demand, for Keras' 0.01, which needs a thousand steps to follow.
        smoothing: share of each training label spread over all classes, 0 to under 1.
        compile: `auto` compiles the network on a GPU, and on a CPU with a C++ compiler if training
            takes long; `default`, `reduce-overhead`, `max-autotune` (modes of torch.compile)
            compile anywhere, false nowhere.

    Attributes:
        network: uint8 pixels in, logits out.
        pretrained_config: where the trunk's weights came from and what they demand.
        predicted: of the last validation or test, rows (n,), sorted, and probabilities
            (n, classes).
    """

    def __init__(
        self,
        class_names: list[str],
        image_size: int,
        backbone: str = "mobilenetv1_100",
        weights: str = "imagenet",
        hidden: list[int] = [8],  # noqa: B006  never changed; --help shows it
        dropout: float = 0.5,
        pool: Pool = "flatten",
        freeze: bool = False,
        lr: float = 1e-5,
        schedule: Schedule = "constant",
        weight_decay: float = 0.0,
        bn_momentum: float | None = None,
        smoothing: float = 0.0,
        compile: Compile = "auto",
    ) -> None:
        super().__init__()
        require(0 <= dropout < 1, "model.dropout", dropout, "0 or more and less than 1, e.g. 0.5")
        require(min(hidden, default=1) > 0, "model.hidden", hidden, "widths over 0, e.g. [8, 8]")
        require(lr > 0, "model.lr", lr, "over 0, e.g. 1e-4")
        require(
            0 <= weight_decay < 1, "model.weight_decay", weight_decay, "0 to under 1, e.g. 0.02"
        )
        require(0 <= smoothing < 1, "model.smoothing", smoothing, "0 to under 1, e.g. 0.1")
        rule = "over 0 to 1, e.g. 0.1, or null"
        require(bn_momentum is None or 0 < bn_momentum <= 1, "model.bn_momentum", bn_momentum, rule)
        self.save_hyperparameters(logger=False)
        self.class_names = class_names
        self.freeze_trunk = freeze
        self.lr, self.weight_decay = lr, weight_decay
        self.schedule: Schedule = schedule
        self.smoothing = smoothing
        self.compile_how: Compile = compile
        self.pretrained_config = read_pretrained_config(backbone, weights)
        self.network = self._build()
        load_trunk(self.network.trunk, backbone, weights)
        self.network.trunk.requires_grad_(not freeze)
        self.train_metrics, self.val_metrics, self.test_metrics = (Metrics() for _ in PARTS)
        self.training_pass: Callable[[Tensor], Tensor] = self.forward
        self._kept: list[tuple[Tensor, Tensor, Tensor]] = []
        self.predicted: tuple[Tensor, Tensor] | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Maps pixels (B, 3, H, W), 0 to 255, to logits (B, classes)."""
        return self.network(images)  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> "Classifier":
        """Switches to training; a frozen trunk keeps its BatchNorm statistics."""
        super().train(mode)
        if self.freeze_trunk:
            self.network.trunk.eval()
        return self

    def on_fit_start(self) -> None:
        """Compiles the network, which a checkpoint may have rebuilt until now."""
        trainer = self.trainer
        steps = trainer.estimated_stepping_batches
        rule = "constant where the run has no last step: give trainer.max_epochs for cosine"
        ends = self.schedule == "constant" or steps < float("inf")
        require(ends, "model.schedule", self.schedule, rule)
        data: BloodCells = trainer.datamodule  # type: ignore[attr-defined]  # undeclared
        batch = data.batch_size * data.image_size**2
        accumulates = trainer.accumulate_grad_batches != 1 or any(
            isinstance(one, GradientAccumulationScheduler)
            for one in trainer.callbacks  # type: ignore[attr-defined]
        )
        n_pixels = batch * steps
        compiled = CompiledPass(
            self.network, self.compile_how, self.device, n_pixels, accumulates, data.batch_size
        )
        self.training_pass = compiled
        if compiled.mode:
            trainer.print(
                f"compiling the network ({compiled.mode}): some time before the first step"
            )

    def on_train_start(self) -> None:
        """Lets a run go on in the middle of an epoch: on_fit_start asked how long it will be."""
        self.trainer.fit_loop._load_combined_loader_states()  # for which loaders were made too soon

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Makes dropout a function of (seed, epoch, step, device), and the rate one of the step.

        Neither depends on what ran before: a run that goes on draws and learns as it would have.
        """
        trainer = self.trainer
        place = torch.tensor([_DROPOUT + batch_idx * trainer.world_size + trainer.global_rank])
        data: BloodCells = trainer.datamodule  # type: ignore[attr-defined]  # undeclared
        torch.manual_seed(int(random_bits(place, data.seed, trainer.current_epoch)))
        if self.schedule == "cosine":
            share = rate_share(trainer.global_step, float(trainer.estimated_stepping_batches))
            for group in trainer.optimizers[0].param_groups:
                group["lr"] = group[FULL_RATE] * share

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the mean loss of a batch."""
        return self._loss(self.training_pass(batch["image"]), batch, "train", self.train_metrics)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds a batch to the validation metrics and keeps its probabilities."""
        self._evaluate(batch, "val", self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds a batch to the test metrics and keeps its probabilities."""
        self._evaluate(batch, "test", self.test_metrics)

    def on_validation_epoch_end(self) -> None:
        """Brings the predictions of all devices together, each image once."""
        columns = [torch.cat(parts) for parts in zip(*self._kept, strict=True)]
        self._kept.clear()
        if self.trainer.world_size > 1:  # (world, n, ...) -> (world * n, ...)
            columns = [self.all_gather(column).flatten(0, 1) for column in columns]  # type: ignore[union-attr]
        row, target, probability = columns
        counted = target != NOT_COUNTED
        row, probability = row[counted].cpu(), probability[counted].cpu()
        order = row.argsort()
        self.predicted = (row[order], probability[order])

    on_test_epoch_end = on_validation_epoch_end

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, with Keras' epsilon and decoupled weight decay (Loshchilov and Hutter, 2019)."""
        group = {"params": [p for p in self.parameters() if p.requires_grad], FULL_RATE: self.lr}
        return torch.optim.Adam(
            [group],
            self.lr,
            eps=1e-7,
            weight_decay=self.weight_decay,
            decoupled_weight_decay=True,
            fused=self._fused(),
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Makes the checkpoint enough: it says how to build the network, and needs no weights."""
        checkpoint[RECIPE] = self.pretrained_config.as_dict()
        data: BloodCells = self.trainer.datamodule  # type: ignore[attr-defined]  # undeclared
        checkpoint[FINGERPRINT] = data.table.fingerprint
        checkpoint[FACTS] = data.packed_facts
        checkpoint[TRAINED_ON] = data.trained_on
        checkpoint["hyper_parameters"]["weights"] = NONE
        epochs: Any = self.trainer.fit_loop.epoch_progress.current
        if epochs.started > epochs.processed:  # within one
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
        for optimizer in checkpoint["optimizer_states"] if self._trainer else []:
            for group in optimizer["param_groups"]:
                group["fused"] = self._fused()  # as the optimizer is now, not as it was
                group.setdefault(FULL_RATE, self.lr)  # the first checkpoints have none
        if SO_FAR in checkpoint and self._trainer and self.trainer.is_global_zero:
            for (metric, name), value in zip(self._train_sums(), checkpoint[SO_FAR], strict=True):
                setattr(metric, name, value.to(self.device))
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
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.momentum = hp["bn_momentum"]
        return network

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
            for name, metric in {"loss": metrics.loss, "acc": metrics.acc}.items():
                key = f"{part}/{name}"
                self.log(key, metric, logger=logger, on_step=False, on_epoch=True, batch_size=1)
        return total / count.clamp(min=1)

    def _fused(self) -> bool:
        """Whether Adam is one kernel: Lightning clips no gradients of such a one."""
        return not self.trainer.gradient_clip_val
