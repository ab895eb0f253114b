"""The LightningDataModule, which turns a folder of images into batches."""

from functools import cached_property
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from bloodcell.data.augment import Augment, augment_batch, transform_batch
from bloodcell.data.balance import Balance, make_order
from bloodcell.data.batches import Batch, Batches, EvenSampler, ImageDataset, InOrder, Loader, as_is
from bloodcell.data.crop import Crop, Field, InputFormat
from bloodcell.data.decode import Unreadable, check_readable
from bloodcell.data.describe import check_model, check_settings, describe
from bloodcell.data.identity import check_unchanged, data_identity, image_keys
from bloodcell.data.images import Images, make_datasets, open_images
from bloodcell.data.join import build_any_table, check_crop, hold_out, known_classes
from bloodcell.data.placement import OnDevice, check_room, place_images
from bloodcell.data.source import Source, open_source
from bloodcell.data.splits import Split, dry_run_limit, make_parts, spread
from bloodcell.data.table import PARTS, Table
from bloodcell.hparams import make_plain

_JOINED = "the last training batch has one extra image, so that no batch has only one"
_PARTS_OF = {"validate": ("val",), "test": ("test",), "predict": ("test",)}  # stage: parts


class BloodCells(LightningDataModule):
    """Images of blood cells in class folders, grouped by the photograph they were made from.

    Batches are dicts of `image` (B, 3, H, W) uint8, `target` (B,) and `row` (B,), for any
    LightningModule. On several devices, evaluations pad the last batches with rows whose target is
    -100, which cross-entropy ignores. The samplers distribute the images, so give the Trainer
    `use_distributed_sampler=False`.

    Args:
        root: a folder of class folders, a .zip of one, `kaggle`, `pbc`, `chula` or `drawn`
            (synthetic); or a list of these, joined under common names of the classes.
        split: `photo` keeps all files of a photograph in one part; `seed` splits files at random,
            as published, and leaks; `folds` is 5-fold cross-validation over the photographs,
            `train_folds` the same within the training and validation parts of `photo`; `labs`
            tests on the data sets `test_on` and trains on the others.
        fold: number of the test fold of `folds` or `train_folds`, 0 to 4.
        val_share: share of the photographs outside the test part that are used for validation: 1/n
            with n from 2 to 20, i.e. 0.5, 0.33, 0.25 ... 0.05. data.split=seed ignores it.
        photos: CSV file, for your own data, that maps each image to its photograph: columns file,
            photo and, if known, cell.
        labels: CSV file with the columns file and class, for images that are not in class folders.
        image_size: side of the network's square input in pixels, 32 to 1024.
        crop: `none` resizes the whole picture to a square; `cell` crops a square around the white
            cell. The square's side is 0.4 times the picture's longer side, divided by `field`.
        field: width of the field of view relative to the Kaggle set's, 0.1 to 50, for `crop: cell`;
            `auto` measures it in each picture, and also finds the cell in uneven light.
        margin: share of the square's side, 0 to 0.5, that training images of `crop: cell` also have
            on each side, so that rotated, shifted and reduced ones show surroundings, not black.
        batch_size: batch size on each device; `auto`: the largest power of two up to 512 that fits
            into the GPU's memory, or 32 on a CPU.
        augment: `none`; `flips`: horizontal and vertical; `full`: also rotation, shift, scale,
            shear, brightness, contrast and colour; or `stain`: as `full`, but with differences
            between laboratories (stain, light, optics) instead of brightness, contrast and colour.
        unreadable: `stop` at images that cannot be read, or `skip` and list them.
        cache_gib: limit of the decoded images on disk in GiB, for all data sets together; 0
            decodes into memory at each start.
        on_device: true keeps all decoded images in the training device's memory, false streams
            batches, `auto` keeps them there if they need at most half of a GPU's free memory.
        transforms: torchvision.transforms.v2 transforms, by class path, applied to each training
            batch (B, 3, H, W) uint8 on the device before `augment`. Random transforms draw once per
            batch and depend on seed, epoch and step.
        test_on: name of a data set of `root`, or several, for the split `labs`: pbc, for example.
        balance: `none` draws each training image once per epoch; `classes` draws all classes
            equally often, and within a class all data sets; `datasets` draws all data sets equally
            often, and within a data set all its classes.
        draws: training images drawn per epoch with `balance`; null: as many as there are.
        classes: other names for classes, e.g. {SNE: neutrophil}; capitals, spaces and plural s
            are ignored.
        split_seed: seed of the split, so that runs with several seeds share it; null: `seed`.
        seed: seed of split, order and augmentation; the command line uses seed_everything.

    Attributes:
        datasets: the images of each part that is set up.
        left_out: number of images that could not be read.
    """

    left_out = 0
    _set_up_for = (0, torch.device("cpu"))  # limit of a dry run, and device

    def __init__(
        self,
        root: str | list[str] = "kaggle",
        split: Split = "photo",
        fold: int = 0,
        val_share: float = 0.2,
        photos: str | None = None,
        labels: str | None = None,
        image_size: int = 224,
        crop: Crop = "none",
        field: Field = 1.0,
        margin: float = 0.0,
        batch_size: int | Literal["auto"] = 32,
        augment: Augment = "none",
        unreadable: Unreadable = "stop",
        cache_gib: float = 20.0,
        on_device: OnDevice = "auto",
        transforms: list[nn.Module] = [],  # noqa: B006  never changed; --help shows it
        test_on: str | list[str] | None = None,
        balance: Balance = "none",
        draws: int | None = None,
        classes: dict[str, str] | None = None,
        split_seed: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        check_settings(self.hparams)
        make_plain(self.hparams)
        self.test_on = [test_on] if isinstance(test_on, str) else test_on or []
        kept = round(margin * image_size)
        self.image_size, self.input_format = image_size, InputFormat(image_size, crop, field, kept)
        self.batch_size = 32 if batch_size == "auto" else batch_size  # until `auto` is resolved
        self.split, self.augment = split, augment
        self.unreadable, self.on_device = unreadable, on_device
        self.transforms = nn.Sequential(*(transforms or []))
        self.cache_gib, self.seed = cache_gib, seed
        self.split_seed = seed if split_seed is None else split_seed
        self.datasets: dict[str, ImageDataset] = {}

    @cached_property
    def source(self) -> Source:
        """The source of the images, which are downloaded or drawn if necessary."""
        source = open_source(self.hparams["root"])
        check_crop(source, self.hparams["crop"])
        return source

    @cached_property
    def table(self) -> Table:
        """The table of all images, with class, photograph and official part."""
        hp = self.hparams
        table = build_any_table(self.source, hp["photos"], hp["labels"], hp["classes"])
        return hold_out(table, self.test_on) if self.test_on else table

    @cached_property
    def class_names(self) -> list[str]:
        """The classes in output order; those of a named data set are known without its images."""
        hp = self.hparams
        known = known_classes(hp["root"], hp["classes"], hp["labels"])
        return list(known or self.table.class_names)

    @cached_property
    def parts(self) -> dict[str, list[int]]:
        """The row numbers of train, val and test."""
        hp, given = self.hparams, (self.split, self.hparams["fold"], self.split_seed)
        return make_parts(self.table, *given, hp["val_share"], self.test_on)

    def prepare_data(self) -> None:
        """Downloads or draws the images and decodes them into the cache, in one process."""
        most, _ = self._drop_outdated()
        _ = self.table  # opens the source
        if self.cache_gib and not most and not self.datasets:
            self._open([], self.cache_gib)

    def setup(self, stage: str) -> None:
        """Opens the decoded images; without a cache, decodes the images of the stage.

        Args:
            stage: `fit` uses all parts, so that an unreadable test image stops a run at its start;
                `validate` uses the validation part, `test` and `predict` the test part.
        """
        if self.trainer and self.trainer.lightning_module:
            check_model(self.trainer.lightning_module.hparams, self.class_names, self.image_size)
        wanted = _PARTS_OF.get(stage, PARTS)
        most, device = self._drop_outdated()
        if all(part in self.datasets for part in wanted):
            return
        parts = {part: spread(self.parts[part], most or len(self.table.rows)) for part in wanted}
        rows = [i for part_rows in parts.values() for i in part_rows]
        images = self._open(rows, 0 if most else self.cache_gib)
        report = images.report.of(self.table.rows[i].path for i in sorted(rows))
        check_readable(report, len(rows), self.unreadable)
        self.left_out = len(report.unreadable)
        check_room(images.pixels, device, self.on_device)
        gather = place_images(images.pixels, device, self.on_device)
        pin, repeats = device.type == "cuda", self.hparams["balance"] != "none"
        margin = self.input_format.margin
        self.datasets |= make_datasets(images, self.table, parts, gather, pin, repeats, margin)

    def _open(self, rows: list[int], cache_gib: float) -> Images:
        return open_images(self.source, self.table, rows, self.input_format, cache_gib)

    def _drop_outdated(self) -> tuple[int, torch.device]:
        """Drops parts that were set up for another limit or device; returns the current ones."""
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        now = dry_run_limit(self.trainer, self.batch_size), device
        if now != self._set_up_for:
            self.datasets, self._set_up_for = {}, now
        return now

    def state_dict(self) -> dict[str, Any]:
        """Returns the identity of the data for a checkpoint, from `data_identity`."""
        return dict(self._state)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Checks that a resumed run uses the data it began with, as `check_unchanged`."""
        if self.trainer and self.trainer.state.fn == "fit":
            self.check_unchanged(state_dict)

    def check_unchanged(self, state: dict[str, Any]) -> None:
        """Raises InputError if the data differ from the `state_dict` of a checkpoint."""
        check_unchanged(self.table, self.source, state)

    @cached_property
    def _state(self) -> dict[str, Any]:
        return data_identity(self.table, self.source, self.parts["train"])

    def image_keys(self, part: str) -> Tensor:
        """Returns the key of each image of a part (train, val or test)."""
        return image_keys(self.table, self.source, self.parts[part])

    def mixed(self, part: str) -> Tensor:
        """Returns the positions (n,) of a part's images, shuffled by a hash of their files.

        Any prefix of this order is a fair sample of classes and photographs.
        """
        rows = self.datasets[part].rows.tolist()
        return image_keys(self.table, self.source, rows).argsort(stable=True)

    def train_dataloader(self) -> Loader:
        """Returns the training batches, in an order that depends only on (seed, epoch)."""
        batches = self._train_batches(*self._devices())
        if batches.joined and self.trainer:
            self.trainer.print(_JOINED)
        return Loader(self.datasets["train"], batches)

    def batch_files(self, epoch: int, batch_idx: int) -> list[str]:
        """Returns the file names of a training batch on all devices; both numbers start at 0."""
        world, _ = self._devices()
        names = list[str]()
        for rank in range(world):
            batches = self._train_batches(world, rank)
            sampler: Any = batches.sampler
            sampler.set_epoch(epoch)
            train = self.datasets["train"]
            rows = train.rows[torch.tensor([*batches][batch_idx]) % len(train)]
            names += [self.table.rows[row].path for row in rows.tolist()]
        return names

    def count_batches(self) -> int:
        """Returns the number of batches of a whole training epoch on each device."""
        return len(self._train_batches(*self._devices()))

    def _train_batches(self, world: int, rank: int) -> Batches:
        trainer: Any = self.trainer
        if trainer and trainer.overfit_batches:  # Lightning cannot change this sampler
            return Batches(InOrder(self.mixed("train"), world, rank), self.batch_size, True)
        chosen = self.hparams["balance"], self.hparams["draws"]
        order = make_order(self.datasets["train"], self.table, *chosen, world, rank, self.seed)
        return Batches(order, self.batch_size, joins=True)

    def val_dataloader(self) -> Loader:
        """Returns the batches of the validation part, each image once, shuffled."""
        return self._evaluated("val")

    def test_dataloader(self) -> Loader:
        """Returns the batches of the test part, each image once, shuffled."""
        return self._evaluated("test")

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Returns the batches of the test part, in the order of `parts["test"]`.

        Lightning rebuilds this loader, so it must be a plain DataLoader with keyword arguments.
        """
        test, size = self.datasets["test"], self.batch_size
        even = EvenSampler(torch.arange(len(test)), *self._devices())
        return DataLoader(test, batch_size=size, sampler=even, collate_fn=as_is)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augments training batches on the device."""
        trainer = self.trainer
        if trainer and trainer.training:
            if self.transforms:
                world, rank = self._devices()
                step = (trainer.fit_loop.batch_idx + 1) * world + rank  # of the next batch
                batch["image"] = transform_batch(
                    batch["image"], self.transforms, self.seed, trainer.current_epoch, step
                )
            drawn = batch.get("draw", batch["row"]), self.augment, self.seed, trainer.current_epoch
            batch["image"] = augment_batch(batch["image"], *drawn, self.input_format.margin)
        return batch

    def summary(self) -> str:
        """Returns a description of the data and its split, with a warning if the split leaks."""
        return describe(self.table, self.source, self.split, self.parts)

    def _devices(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def _evaluated(self, part: str) -> Loader:
        even = EvenSampler(self.mixed(part), *self._devices())
        return Loader(self.datasets[part], Batches(even, self.batch_size))
