"""Valid and hostile files of each kind of input, and the functions that read them."""

import io
import os
import struct
import sys
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import tifffile
import torch
from PIL import Image
from safetensors.torch import save_file

from bloodcell.cli.main import main as bloodcell
from bloodcell.data.cache import open_cached
from bloodcell.data.crop import InputFormat
from bloodcell.data.decode import decode
from bloodcell.data.image_files import READ_ERRORS, read_file
from bloodcell.data.source import open_source
from bloodcell.data.table import build_table
from bloodcell.datasets import photos
from bloodcell.datasets.drawn.smears import write_smears
from bloodcell.errors import InputError
from bloodcell.evaluate.runs import read_runs
from bloodcell.infer.open import open_model
from bloodcell.model.network import PretrainedConfig, create_trunk
from bloodcell.model.pretrained import load_trunk, read_pretrained_config, read_trained_on

TRUNK = "test_efficientnet"


class Kind(NamedTuple):
    """One kind of input.

    Attributes:
        samples: valid and hostile files, by name.
        read: reads a file as bloodcell does.
    """

    samples: dict[str, bytes]
    read: Callable[[Path], object]


def read_image(path: Path) -> object:
    try:
        return decode(read_file(path), InputFormat(32))
    except READ_ERRORS as error:  # `predict` writes it into the row of the image
        raise InputError(str(error)) from error


def read_archive(path: Path) -> object:
    source = open_source(str(path))
    table = build_table(source)
    names = [row.path for row in table.rows]
    return open_cached(source, names, InputFormat(32), 1.0, path.parent / "cache")


def read_settings(path: Path) -> object:
    return run(["fit", "--config", str(path), "--data.root", "nowhere", "--print_config"])


def read_trunk(path: Path) -> object:
    recipe = read_pretrained_config(TRUNK, str(path))
    read_trained_on(str(path))
    load_trunk(create_trunk(TRUNK, PretrainedConfig()), TRUNK, str(path))
    return recipe


def read_model(path: Path) -> object:
    pixels = np.zeros((1, 32, 32, 3), np.uint8)
    model = open_model(str(path), "cpu")
    if model.description.image_size != 32:
        return None
    return model.classify(pixels)


def read_run(path: Path) -> object:
    """The other files of the run folder are valid."""
    runs, left_out = read_runs([path.parent])
    assert len(runs) + len(left_out) == 1
    return runs


def run(words: list[str]) -> object:
    """Runs a command; status 2 is raised as InputError."""
    out, err = sys.stdout, sys.stderr
    sys.stdout = sys.stderr = io.StringIO()
    try:
        bloodcell(words)
    except SystemExit as stopped:
        if stopped.code == 2:
            raise InputError(sys.stderr.getvalue()) from None
        if stopped.code:
            raise RuntimeError(f"status {stopped.code}") from None
    finally:
        sys.stdout, sys.stderr = out, err
    return None


class Evil:
    """A pickle that creates a file when it is loaded."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch evil",)


def make_kinds(folder: Path, trained: Path | None = None) -> dict[str, Kind]:
    """Makes the samples of each kind.

    Args:
        folder: an empty folder.
        trained: a run of a small model; None trains one.
    """
    smears = folder / "smears"
    write_smears(smears, train_photos=8, test_photos=5, copies=1, workers=1)
    trained = trained or train(folder, smears)
    table = (smears / "photos.csv").read_bytes()
    config = (trained / "config.yaml").read_bytes()
    weights = make_weights(folder)
    models = make_models(folder, trained)
    files = {name: (trained / name).read_bytes() for name in ("scores.json", "predictions.csv")}
    return {
        "images": Kind(make_images(), read_image),
        "archives": Kind(make_archives(smears), read_archive),
        "configs": Kind(make_configs(config), read_settings),
        "photo tables": Kind({"photos.csv": table}, lambda path: photos.read(path)),
        "weights": Kind(weights, read_trunk),
        "models": Kind(models, read_model),
        "run folders": Kind({**files, "config.yaml": config}, read_run),
    }


def train(folder: Path, smears: Path) -> Path:
    """Trains a run of one epoch and returns its folder."""
    words = (
        f"fit --name asked --data.root {smears}/images --data.photos {smears}/photos.csv "
        f"--data.image_size 32 --model.backbone {TRUNK} --model.weights none "
        "--trainer.accelerator cpu --trainer.max_epochs 1 --trainer.enable_progress_bar false "
        f"--trainer.default_root_dir {folder}"
    )
    run(words.split())
    return folder / "lightning_logs" / "asked" / "version_0"


def make_images() -> dict[str, bytes]:
    """Makes images of each format, and unusual ones."""
    noise = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    image = Image.fromarray(noise)
    made: dict[str, bytes] = {}

    def add(name: str, picture: Image.Image, **options: Any) -> None:
        file = io.BytesIO()
        picture.save(file, Image.registered_extensions()[Path(name).suffix], **options)
        made[name] = file.getvalue()

    for suffix in (".png", ".jpeg", ".bmp", ".tif", ".webp"):
        add(f"a{suffix}", image)
    add("animated.webp", image, save_all=True, append_images=[image.rotate(90)] * 3)
    add("progressive.jpg", image, progressive=True)
    add("cmyk.jpg", image.convert("CMYK"))
    add("palette.png", image.convert("P"))
    add("one.png", image.resize((1, 1)))
    add("sixteen.png", Image.fromarray(np.full((9, 9), 40_000, np.uint16)))
    deep = (noise.astype(np.uint16) * 16, noise.astype(np.float32) / 255)
    for name, pixels, options in (
        ("deep.tif", deep[0], {"photometric": "rgb"}),
        ("zipped.tif", deep[0], {"photometric": "rgb", "compression": "zlib", "tile": (16, 16)}),
        ("float.tif", deep[1], {"photometric": "rgb"}),
        ("channels.tif", deep[0].transpose(2, 0, 1), {"ome": True, "metadata": {"axes": "CYX"}}),
        ("imagej.tif", deep[0].transpose(2, 0, 1), {"imagej": True, "metadata": {"axes": "CYX"}}),
    ):
        tiff = io.BytesIO()
        tifffile.imwrite(tiff, pixels, **options)
        made[name] = tiff.getvalue()
    lzw = (cv2.IMWRITE_TIFF_COMPRESSION, cv2.IMWRITE_TIFF_COMPRESSION_LZW)
    made["lzw.tif"] = cv2.imencode(".tif", deep[0], lzw)[1].tobytes()
    made["deep.png"] = cv2.imencode(".png", deep[0])[1].tobytes()
    made["program.png"] = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    made["svg.jpg"] = b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>'
    made["empty.png"] = b""
    made["wrong.bmp"] = made["a.png"]
    # a header that claims 60,000 x 60,000 pixels
    made["bomb.png"] = made["a.png"][:16] + struct.pack(">II", 60_000, 60_000) + made["a.png"][24:]
    return made


def make_archives(smears: Path) -> dict[str, bytes]:
    """Makes archives of class folders, and hostile ones."""
    images = sorted(smears.rglob("*.jpeg"))
    picture = images[0].read_bytes()
    made: dict[str, bytes] = {}

    def add(name: str, entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> None:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as archive:
            for path, data in entries.items():
                archive.writestr(path, data)
        made[name] = file.getvalue()

    plain = {p.relative_to(smears / "images").as_posix(): p.read_bytes() for p in images[::2]}
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        add(f"whole{method}.zip", plain, method)
    for place, path in enumerate(("../../evil.png", "/tmp/evil.png", "a/../../evil.png")):
        add(f"slip{place}.zip", plain | {path: picture})
    add("bomb.zip", plain | {"a/bomb.png": bytes(400_000_000)})
    add("nested.zip", plain | {"a/inside.zip": made["whole8.zip"]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for path in ("a/0.png", "a/0.png", "b/0.png"):
                archive.writestr(path, picture)
            link = zipfile.ZipInfo("b/link.png")
            link.external_attr = 0o120777 << 16
            archive.writestr(link, "/etc/passwd")
    made["twice.zip"] = file.getvalue()
    locked = bytearray(made["whole8.zip"])  # every entry is marked as encrypted
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        place = locked.find(mark)
        while place >= 0:
            locked[place + offset] |= 1
            place = locked.find(mark, place + 4)
    made["locked.zip"] = bytes(locked)
    return made


def make_configs(config: bytes) -> dict[str, bytes]:
    """Makes settings, and hostile ones."""
    laughs = "a0: &a0 [x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
    )
    return {
        "whole.yaml": config,
        "code.yaml": b"model: !!python/object/apply:os.system ['touch evil']\n",
        "new.yaml": b"data: !!python/object/new:subprocess.Popen [['touch', 'evil']]\n",
        "laughs.yaml": laughs.encode(),
        "itself.yaml": b"model: &m {hidden: [*m]}\n",
        "deep.yaml": b"model: " + b"[" * 5_000 + b"]" * 5_000 + b"\n",
        "types.yaml": b"model: 3\ndata: [1, 2]\ntrainer: null\nseed_everything: {}\n",
        "callback.yaml": b"trainer: {callbacks: [{class_path: os.system}]}\n",
    }


def make_weights(folder: Path) -> dict[str, bytes]:
    """Makes weights of a trunk, and hostile ones."""
    state = create_trunk(TRUNK, PretrainedConfig()).state_dict()
    torch.save(state, folder / "w.pth")
    torch.save({"state_dict": Evil()}, folder / "evil.pth")
    torch.save({k: v.flatten()[:1] for k, v in state.items()}, folder / "shapes.pth")
    metadata = {"mean": "0.5", "std": "[0.5, 0.5, 0.5]", "bn_eps": "1e-3"}
    save_file(state, folder / "w.safetensors", metadata)
    save_file(state, folder / "odd.safetensors", metadata | {"mean": "zero", "std": "0"})
    entries = {"state_dict": {f"module.{k}": v for k, v in state.items()}, "state_dict_ema": state}
    torch.save(entries | {"args": Namespace(lr=0.1), "epoch": 3}, folder / "w.pth.tar")
    torch.save({"recipe": 3, "BloodCells": "all", "state_dict": state}, folder / "odd.ckpt")
    names = (
        "w.pth.tar",
        "odd.ckpt",
        "w.pth",
        "evil.pth",
        "shapes.pth",
        "w.safetensors",
        "odd.safetensors",
    )
    return {name: (folder / name).read_bytes() for name in names}


def make_models(folder: Path, trained: Path) -> dict[str, bytes]:
    """Makes models of a run in each format, and hostile ones."""
    best = trained / "checkpoints" / "best.ckpt"
    images = str(folder / "smears" / "images" / "TEST")
    for suffix in ("safetensors", "onnx"):
        run(["export", images, "--model", str(trained), "--out", f"{folder}/m.{suffix}"])
    checkpoint = torch.load(best, weights_only=True)
    made = {"m.ckpt": best.read_bytes()}
    for name, change in {
        "size": {"image_size": 10**9},
        "wide": {"hidden": [10**9]},
        "hub": {"backbone": "hf-hub:nobody/nothing"},
        "classes": {"class_names": "abcd"},
    }.items():
        settings = checkpoint["hyper_parameters"] | change
        torch.save(checkpoint | {"hyper_parameters": settings}, folder / "x.ckpt")
        made[f"{name}.ckpt"] = (folder / "x.ckpt").read_bytes()
    options = {"options": {"checkpoint_path": "/etc/passwd"}}
    torch.save(checkpoint | {"recipe": checkpoint["recipe"] | options}, folder / "x.ckpt")
    made["options.ckpt"] = (folder / "x.ckpt").read_bytes()
    torch.save(checkpoint | {"trained_on": Evil()}, folder / "x.ckpt")
    made["evil.ckpt"] = (folder / "x.ckpt").read_bytes()
    for key in checkpoint:
        torch.save({k: v for k, v in checkpoint.items() if k != key}, folder / "x.ckpt")
        made[f"without_{key}.ckpt"] = (folder / "x.ckpt").read_bytes()
    for suffix in ("safetensors", "onnx"):
        made[f"m.{suffix}"] = (folder / f"m.{suffix}").read_bytes()
    return made
