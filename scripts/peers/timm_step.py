# /// script
# requires-python = ">=3.11"
# dependencies = ["timm", "torch", "torchvision"]
# ///
"""The d8 training step with the data loader and the step of timm's training program."""

import os
import time
from contextlib import nullcontext
from functools import partial

import timm
import torch
from clock import Clock, read_arguments
from timm.data import create_dataset, create_loader
from timm.optim import create_optimizer_v2
from torch import nn


def main() -> None:
    given = read_arguments(__doc__)
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    dataset = create_dataset("", root=given.root, is_training=True)
    loader = create_loader(
        dataset,
        input_size=(3, given.size, given.size),
        batch_size=given.batch,
        is_training=True,
        no_aug=True,
        use_prefetcher=cuda,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        num_workers=os.cpu_count() or 1,
        pin_memory=cuda,
        device=device,
    )
    trunk = timm.create_model(
        "mobilenetv1_100",
        num_classes=0,
        global_pool="",
        pad_type="same",
        bn_eps=1e-3,
        bn_momentum=0.01,
    )
    features = trunk(torch.zeros(1, 3, given.size, given.size)).numel()
    network = nn.Sequential(
        trunk, nn.Flatten(), nn.Linear(features, 8), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(8, len(dataset.reader.class_to_idx)),
    ).to(device, memory_format=torch.channels_last)  # fmt: skip
    optimizer = create_optimizer_v2(network, opt="adam", lr=1e-5, weight_decay=0.0)
    mixed = cuda or given.bfloat16
    autocast = partial(torch.autocast, device.type, torch.bfloat16) if mixed else nullcontext
    loss_fn = nn.CrossEntropyLoss()
    network.train()
    if given.compiled:
        network.compile()

    def now() -> float:
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    clock = Clock(given.seconds, now, torch=torch.__version__)
    while True:
        for pixels, targets in loader:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
            with autocast():
                loss = loss_fn(network(pixels), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            clock.step(len(targets))


if __name__ == "__main__":
    main()
