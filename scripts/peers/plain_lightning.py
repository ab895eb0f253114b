# /// script
# requires-python = ">=3.11"
# dependencies = ["lightning>=2.6.6,<3", "timm", "torch", "torchvision"]
# ///
"""The d8 training step in a plain Lightning program: ImageFolder, DataLoader, Trainer."""

import os
import time
from typing import Any

import timm
import torch
from clock import Clock, read_arguments
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2


class Plain(LightningModule):
    def __init__(self, classes: int, size: int, seconds: float, compiled: bool) -> None:
        super().__init__()
        trunk = timm.create_model(
            "mobilenetv1_100",
            num_classes=0,
            global_pool="",
            pad_type="same",
            bn_eps=1e-3,
            bn_momentum=0.01,
        )
        features = trunk(torch.zeros(1, 3, size, size)).numel()
        self.network = nn.Sequential(
            trunk, nn.Flatten(), nn.Linear(features, 8), nn.ReLU(), nn.Dropout(0.5),
            nn.Linear(8, classes),
        )  # fmt: skip
        if compiled:  # in the memory format that PyTorch recommends
            self.network = self.network.to(memory_format=torch.channels_last)
            self.network.compile()
        self.compiled = compiled
        self.clock = Clock(seconds, self.now, torch=torch.__version__)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, targets = batch
        if self.compiled:
            images = images.contiguous(memory_format=torch.channels_last)
        logits = self.network(images)
        loss = nn.functional.cross_entropy(logits, targets)
        self.log("train_loss", loss, prog_bar=True)
        self.log("train_acc", (logits.argmax(1) == targets).float().mean(), prog_bar=True)
        return loss

    def on_train_batch_end(
        self, outputs: Any, batch: tuple[Tensor, Tensor], batch_idx: int
    ) -> None:
        self.clock.step(len(batch[1]))

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-5, eps=1e-7)


def main() -> None:
    given = read_arguments(__doc__)
    steps = [
        v2.ToImage(),
        v2.Resize((given.size, given.size)),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.5] * 3, [0.5] * 3),
    ]
    images = ImageFolder(given.root, v2.Compose(steps))
    loader = DataLoader(
        images,
        batch_size=given.batch,
        shuffle=True,
        num_workers=os.cpu_count() or 1,
        persistent_workers=True,
        pin_memory=torch.cuda.is_available(),
        drop_last=True,
    )
    trainer = Trainer(
        max_epochs=-1,
        precision="bf16-mixed" if given.bfloat16 or torch.cuda.is_available() else "32-true",
        logger=False,
        enable_checkpointing=False,
    )
    plain = Plain(len(images.classes), given.size, given.seconds, given.compiled)
    trainer.fit(plain, loader)


if __name__ == "__main__":
    main()
