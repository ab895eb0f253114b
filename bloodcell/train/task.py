"""The LightningModule: loss, metrics and optimizer around the network."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional as F

from bloodcell.data.augment import random_bits, seed_device
from bloodcell.data.batches import NOT_COUNTED, Batch, as_batch
from bloodcell.errors import InputError
from bloodcell.hparams import make_plain
from bloodcell.model.compiled import Compile
from bloodcell.model.description import RECIPE
from bloodcell.model.find import NONE, find_teachers
from bloodcell.model.gallery import Gallery
from bloodcell.model.network import BACKBONE, Pool, PretrainedConfig, build_network, describe
from bloodcell.model.pretrained import load_trunk, read_pretrained_config
from bloodcell.train import optimizers
from bloodcell.train.compiling import compile_for
from bloodcell.train.metrics import Metrics
from bloodcell.train.optimizers import DEFAULT_LR, Schedule
from bloodcell.train.outputs import Outputs
from bloodcell.train.teachers import Teachers, load_teachers

SO_FAR = "epoch_so_far"  # key in a checkpoint
_DROPOUT = 2**40  # greater than every row number: independent of the augmentation


class Classifier(LightningModule):
    """A timm trunk with a small dense head that classifies blood cells.

    It accepts the batches of `BloodCells`, and those of any other DataLoader that yields tuples
    (image, target): pixels (B, 3, H, W), 0 to 255, uint8 or float, and labels (B,).

    Args:
        class_names: names of the classes in output order; the command line uses those of the data.
        image_size: side of the images in pixels; the command line uses that of the data.
        backbone: name of a timm model, used as the trunk.
        weights: initial weights: `imagenet` (from timm), `bundled` (of the model shipped with
            bloodcell), `none`, or a file (.safetensors, .pth, .pth.tar, .ckpt, Keras' .h5). Of
            several sets of weights in a file, EMA weights are preferred; FILE#ENTRY selects one.
        hidden: widths of the hidden dense layers; [] for a linear head.
        dropout: probability after each hidden dense layer, or, without one, before the last layer.
        pool: `flatten` flattens the trunk's feature map, as published; `avg` averages it.
        freeze: freeze the trunk and train only the head.
        lr: learning rate of Adam; `optimizer` has its own.
        schedule: learning rate schedule: `constant`, or `cosine`, which warms up over the first
            tenth of all steps and then decays to 0.
        weight_decay: decoupled weight decay per step, multiplied by the learning rate.
        bn_momentum: momentum of BatchNorm's running statistics, above 0, at most 1; null keeps
            that of the pretrained weights (Keras: 0.01, which needs a thousand steps to adapt).
        smoothing: label smoothing of the training loss, 0 to under 1.
        teachers: trained networks whose mean answer is learned together with the labels: run
            folders, folders of run folders, or .ckpt files.
        white_balance: divide each image by the colour of its clear slide, for several laboratories.
        compile: `auto` compiles the network on a GPU, and on a CPU if it has a C++ compiler and
            more than AVX2, and training takes long; `default`, `reduce-overhead` and
            `max-autotune` (modes of torch.compile) always compile; false never compiles.
        optimizer: a class of torch.optim, such as AdamW, instead of Adam with Keras' epsilon, with
            its options: `--model.optimizer AdamW --model.optimizer.lr 1e-3`.
        scheduler: a class of torch.optim.lr_scheduler, such as CosineAnnealingLR, instead of
            `schedule`; it steps once per epoch. ReduceLROnPlateau follows the metric `monitor`.
        seed: seed of dropout; the command line uses seed_everything.

    Attributes:
        network: maps uint8 pixels to logits.
        pretrained_config: preprocessing and options that belong to the trunk's weights.
        outputs: outputs for all images of the last validation or test, sorted by row.
        ensemble: the networks of the teachers; None: only the labels are learned.
        gallery: gives evaluated images their distance from the training images; None: it is NaN.
    """

    gallery: Gallery | None = None
    outputs: Outputs | None = None
    ensemble: Teachers | None = None

    def __init__(
        self,
        class_names: list[str],
        image_size: int = 224,
        backbone: str = BACKBONE,
        weights: str = "imagenet",
        hidden: list[int] = [8],  # noqa: B006  never changed; --help shows it
        dropout: float = 0.5,
        pool: Pool = "flatten",
        freeze: bool = False,
        lr: float = DEFAULT_LR,
        schedule: Schedule = "constant",
        weight_decay: float = 0.0,
        bn_momentum: float | None = None,
        smoothing: float = 0.0,
        teachers: str | list[str] = [],  # noqa: B006  never changed; --help shows it
        white_balance: bool = False,
        compile: Compile = "auto",
        optimizer: OptimizerCallable | None = None,
        scheduler: LRSchedulerCallable | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        optimizers.check_settings(self.hparams)
        make_plain(self.hparams)
        self.own_optimizer, self.own_scheduler, self.compile_how = optimizer, scheduler, compile
        self.class_names, self.image_size, self.freeze_trunk = class_names, image_size, freeze
        self.lr, self.smoothing, self.seed, self.schedule = float(lr), smoothing, seed, schedule
        config = read_pretrained_config(backbone, weights := self.hparams["weights"])
        self.pretrained_config = replace(config, white_balance=white_balance)
        self.network = build_network(self.hparams, self.pretrained_config)
        if taken := load_trunk(self.network.trunk, backbone, weights):
            self.pretrained_config = replace(self.pretrained_config, source=taken)
        self.network.trunk.requires_grad_(not freeze)
        self.train_metrics = Metrics()
        self.val_metrics, self.test_metrics = (Metrics(len(class_names)) for _ in range(2))
        self._so_far, self._kept, self._n_kept = list[Tensor](), list[Outputs](), 0
        self.training_pass: Callable[[Tensor], Tensor] = self.forward

    def forward(self, images: Tensor) -> Tensor:
        """Maps pixels (B, 3, H, W), 0 to 255, to logits (B, classes)."""
        return cast(Tensor, self.network(images))

    def train(self, mode: bool = True) -> "Classifier":
        """Sets the training mode; a frozen trunk stays in evaluation mode."""
        super().train(mode)
        if self.freeze_trunk:
            self.network.trunk.eval()
        return self

    def on_fit_start(self) -> None:
        """Loads the teachers."""
        self.hparams["teachers"] = find_teachers(self.hparams["teachers"])
        self.ensemble = load_teachers(self.hparams, vars(self.trainer).get("datamodule"))

    def on_train_start(self) -> None:
        """Compiles the network, which a checkpoint may have rebuilt; restores the metrics.

        Raises:
            InputError: if the schedule needs a last step and the run has none.
        """
        optimizers.check_ends(self.trainer, self.schedule)
        compiled = compile_for(self.trainer, self.network, self.compile_how, self.image_size)
        self.training_pass = compiled
        if self.ensemble:
            self.ensemble.start(self.device, compiled)
        self.train_metrics.reset()  # of an epoch that was interrupted
        if self._so_far and self._within_epoch():
            self.train_metrics.load_sums(self._so_far, *self._place())
        self._so_far = []

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seeds dropout with (seed, epoch, step, rank), and sets the learning rate of the step.

        Neither depends on earlier steps, so a resumed run equals an uninterrupted one.
        """
        trainer = self.trainer
        place = torch.tensor([_DROPOUT + batch_idx * trainer.world_size + trainer.global_rank])
        seed_device(int(random_bits(place, self.seed, trainer.current_epoch)), self.device)
        if self.schedule == "cosine" and not trainer.lr_scheduler_configs:  # a callback may set one
            optimizers.follow_schedule(trainer, batch_idx)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Returns the mean loss of a batch."""
        batch = as_batch(batch)
        logits = self.training_pass(batch["image"])
        loss = self._loss(logits, batch, "train", self.train_metrics)
        return self.ensemble.blend(loss, logits, batch) if self.ensemble else loss

    def on_validation_epoch_start(self) -> None:
        """Forgets the images of an evaluation that was interrupted."""
        self._kept, self._n_kept = [], 0
        (self.test_metrics if self.trainer.testing else self.val_metrics).reset()

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Adds a batch to the validation metrics and keeps its outputs."""
        self._evaluate(as_batch(batch, (self._n_kept, *self._place())), "val", self.val_metrics)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Adds a batch to the test metrics and keeps its outputs."""
        self._evaluate(as_batch(batch, (self._n_kept, *self._place())), "test", self.test_metrics)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Returns the probabilities (B, classes) of a batch, in the order of its images.

        On n devices, each predicts every n-th image; padding rows are left out.
        """
        images, target = batch, None
        if not isinstance(batch, Tensor):
            named: Any = as_batch(batch)
            images, target = named["image"], named.get("target")
        probability: Tensor = self(images).float().softmax(1)
        return probability if target is None else probability[target != NOT_COUNTED]

    def on_train_epoch_end(self) -> None:
        """Steps a scheduler that depends on a metric, before the checkpoint is written."""
        optimizers.step_plateaus(self.trainer)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Steps a scheduler; one that follows a metric was stepped before the checkpoint."""
        if not optimizers.follows_metric(scheduler):
            with optimizers.nominal_rates(self.trainer.optimizers[0]):
                super().lr_scheduler_step(scheduler, metric)

    def on_validation_epoch_end(self) -> None:
        """Gathers the outputs of all devices, each image once, and logs the scores."""
        outputs, self._kept = Outputs.join(self._kept), []
        testing = self.trainer.testing
        part, metrics = ("test", self.test_metrics) if testing else ("val", self.val_metrics)
        metrics.update_scores(outputs.probability, outputs.target)
        for name, metric in metrics.scores.items():
            self.log(f"{part}/{name}", metric)
        if self.trainer.world_size > 1:  # (world, n, ...) -> (world * n, ...)
            gathered = (cast(Tensor, self.all_gather(column)) for column in outputs)
            outputs = Outputs(*(column.flatten(0, 1) for column in gathered))
        self.outputs = outputs.sorted()

    on_test_epoch_end = on_validation_epoch_end

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Returns Adam with Keras' epsilon or the given optimizer, with the given scheduler."""
        trained = [p for p in self.parameters() if p.requires_grad]
        fused = not self.trainer.gradient_clip_val  # Lightning cannot clip with fused Adam
        decay = self.hparams["weight_decay"]
        adam = partial(optimizers.build_adam, lr=self.lr, weight_decay=decay, fused=fused)
        own = optimizers.restored("optimizer", self.own_optimizer)
        optimizer = optimizers.prepare_optimizer((own or adam)(trained))
        return optimizers.with_scheduler(optimizer, self.own_scheduler)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the network's configuration, so that loading needs no pretrained weights."""
        checkpoint[RECIPE] = self.pretrained_config.as_dict()
        checkpoint["hyper_parameters"]["weights"] = NONE
        if self._within_epoch():
            sums = [one.clone() for one in self.train_metrics.sums()]
            checkpoint[SO_FAR] = [self.all_gather(one) for one in sums]  # each (devices,)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Rebuilds the network if the checkpoint's weights need another configuration.

        A learning rate other than that of the checkpoint takes effect on a resumed run.

        Raises:
            InputError: if the checkpoint's classes differ from those of the data.
        """
        classes = checkpoint["hyper_parameters"]["class_names"]
        if classes != self.class_names:
            raise InputError(
                f"The checkpoint has the classes {classes}, but the data has {self.class_names}. "
                "Give data.root a folder with the checkpoint's classes, or start a new run."
            )
        self._so_far = checkpoint.get(SO_FAR, [])
        optimizers.keep_rate(checkpoint, self.hparams)
        before, now = self.pretrained_config, PretrainedConfig.from_dict(checkpoint[RECIPE])
        self.pretrained_config = now
        if replace(before, source="") != replace(now, source=""):
            self.network = build_network(self.hparams, now).to(self.device)
            self.network.trunk.requires_grad_(not self.freeze_trunk)

    def summary(self) -> str:
        """Returns a description of the network in one line."""
        return describe(self.network, self.hparams, self.pretrained_config.source)

    def _place(self) -> tuple[int, int]:
        """Returns the world size and the rank."""
        return self.trainer.world_size, self.trainer.global_rank

    def _within_epoch(self) -> bool:
        epochs: Any = self.trainer.fit_loop.epoch_progress.current
        return bool(epochs.started > epochs.processed)

    def _evaluate(self, batch: Batch, part: str, metrics: Metrics) -> None:
        outputs = Outputs.of(self.network, batch, self.gallery)
        self._loss(outputs.logits, batch, part, metrics)
        self._kept.append(outputs)
        self._n_kept += len(outputs.target)

    def _loss(self, logits: Tensor, batch: Batch, part: str, metrics: Metrics) -> Tensor:
        """Returns the mean loss and updates the metrics without synchronising the device."""
        logits, target = logits.float(), batch["target"]
        count = (target != NOT_COUNTED).sum()
        smoothing = self.smoothing if part == "train" else 0.0
        total = F.cross_entropy(
            logits, target, ignore_index=NOT_COUNTED, reduction="sum", label_smoothing=smoothing
        )
        metrics.loss.update(total.detach(), count)
        metrics.acc.update((logits.argmax(1) == target).sum(), count)
        if metrics.loss.update_count == 1:  # Lightning computes them after the epoch
            logger = False if part == "train" else None  # `History` does, before the checkpoint
            for name, metric in metrics.means.items():
                key = f"{part}/{name}"
                self.log(key, metric, logger=logger, on_step=False, on_epoch=True, batch_size=1)
        return total / count.clamp(min=1)
