"""The verbs and their options, declared once for parsing, defaults, help pages and hints."""

import argparse
import math
from collections.abc import Callable
from typing import Any, NamedTuple

MAX_EPOCHS = 30  # default of --trainer.max_epochs
Option = tuple[str, dict[str, Any]]  # names, joined by `/`, and keywords of `add_argument`


def _text(given: str) -> str:
    if not given:
        raise argparse.ArgumentTypeError("expected one argument")
    return given


def _number(kind: type, least: float, most: float, rule: str) -> Callable[[str], Any]:
    """Makes the reader of a number from `least` to `most`."""

    def read(given: str) -> Any:
        try:
            value = kind(_text(given))
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"={given} cannot be used: it must be {rule}")
        return value

    return read


_COUNT = _number(int, 1, math.inf, "a whole number over 0")


def _option(name: str, metavar: str, text: str, **how: Any) -> Option:
    return name, {"metavar": metavar, "help": text, "type": _text} | how


def _flag(name: str, text: str) -> Option:
    return name, {"action": "store_true", "help": text}


_CONFIG = _option(
    "-c/--config", "NAME", "a YAML file, or the name of a shipped one, e.g. d8.yaml; of several, "
    "the last one wins", action="append", default=[],
)  # fmt: skip
_PRINT = _option(
    "--print_config", "HOW", "print all settings as they would be used, and stop", nargs="?",
    const="", type=str,
)  # fmt: skip
_ALL = _flag("--help-all", "list every option, including all of Lightning's")
_CHECKPOINT = _option("--ckpt_path", "RUN", "a run folder (its best checkpoint) or a .ckpt file")
_FIT = (
    _option("--ckpt_path", "RUN", "continue a run: a run folder, a .ckpt file, or `last` for the "
    "newest run of this name"),
    _option("--resume", "auto", "continue the newest run of this name, or begin one if there is no "
    "checkpoint; a finished run is left alone: one command for a job that is restarted until it is "
    "done"),
)  # fmt: skip
_IMAGES = (
    "images",
    {
        "nargs": "*",
        "metavar": "IMAGES",
        "help": "files, folders, .zip files, folders in one (x.zip/folder), patterns, or - to read "
        "a path from each line of the standard input",
    },
)
_BUNDLED = "(default: the model that is part of bloodcell)"
_MODEL = _option("--model", "RUN", f"a run folder, a .ckpt or a .safetensors file {_BUNDLED}")


class Verb(NamedTuple):
    """One verb of the command line.

    Attributes:
        summary: what it does.
        options: what it takes.
        remarks: more lines of its help page.
        groups: sections of settings (`bloodcell.cli.settings`) that LightningCLI reads.
    """

    summary: str
    options: tuple[Option, ...] = ()
    remarks: str = ""
    groups: tuple[str, ...] = ()


_COMMON = (_CONFIG, _PRINT, _ALL)
_SCORED_GROUPS = ("run", "data", "trainer")
_SCORED = "The checkpoint holds how the model is built and which data it was trained on."
_PHOTOS = "a .csv file for the photographs that are found, for --data.photos"
VERBS = {
    "fit": Verb(
        "train a model, then test its best checkpoint",
        (*_FIT, *_COMMON),
        groups=("run", "data", "model", "trainer"),
    ),
    "validate": Verb(
        "score a run folder or a checkpoint on the validation part",
        (_CHECKPOINT, *_COMMON),
        _SCORED,
        _SCORED_GROUPS,
    ),
    "test": Verb(
        "score a run folder or a checkpoint on the test part",
        (_CHECKPOINT, *_COMMON),
        _SCORED,
        _SCORED_GROUPS,
    ),
    "verify": Verb(
        "test a finished run again and compare the results with its files",
        (("run", {"metavar": "RUN", "help": "the folder of a finished run"}), *_COMMON),
        f"{_SCORED}\nExit status: 1 if the results differ from those in the folder, else 0.",
        _SCORED_GROUPS,
    ),
    "compare": Verb(
        "print a table of finished runs, with intervals over photographs",
        (
            ("runs", {"nargs": "*", "metavar": "RUN",
             "help": "run folders, or folders that hold some (default: lightning_logs)"}),
            _option("--out", "FILE", "write the table to a .csv or .md file, or draw it as .png"),
        ),
    ),
    "reproduce": Verb(
        "train the seven published experiments, each also split by photograph",
        (
            _option("--seeds", "N", "number of seeds, from 0 (default: %(default)s)", default=3,
                    type=_COUNT),
            _option("--splits", "SPLITS", "seed (as published), photo (by photograph), or both "
                    "with a comma (default: %(default)s)", default="seed,photo"),
            _option("--jobs", "N", "runs at a time (default: one for each GPU, or one)",
                    type=_COUNT),
            _flag("--fast", "for CPUs: 128 pixels, 24 epochs at most, and batch sizes and learning "
                  "rates to match; all results are marked as fast"),
            _option("--out", "DIR", "folder of the runs, tables and figures (default: reproduced, "
                    "or reproduced-fast)"),
        ),
        "Any other option of fit applies to all runs, e.g. --data.root blood-cells.zip.\n"
        "Finished runs are kept; after an interruption the same command continues.",
    ),
    "predict": Verb(
        "classify images, and write a table with a row for each image",
        (
            _IMAGES,
            _option("--model", "RUN", "a run folder, a .ckpt, a .safetensors or an exported .onnx "
                    f"file, which needs no PyTorch {_BUNDLED}"),
            _option("--out", "FILE", "a .csv, .jsonl or .parquet file (default: CSV on standard "
                    "output)"),
            _option("--abstain", "P", "name no class for images whose most probable class is less "
                    "probable than P", default=0.0,
                    type=_number(float, 0, 1, "a number from 0 to 1")),
            _flag("--tta", "average over flips and quarter turns, which takes eight times as long"),
            _flag("--cells", "find the white cells of each picture: a row for each cell, and the "
                  "differential count"),
            _option("--field", "N", "with --cells: width of the field of view relative to the "
                    "Kaggle set's, which is about 8 red cells (default: 1)",
                    type=_number(float, 0.1, 50, "a number from 0.1 to 50")),
            _option("--draw", "FOLDER", "with --cells: write each picture with its cells boxed and "
                    "named"),
            _option("--batch_size", "N", "images in a batch (default: %(default)s)", default=32,
                    type=_COUNT),
            _option("--devices", "NAMES", "cpu, cuda, cuda:0,cuda:1 ... (default: all GPUs, or the "
                    "CPU)"),
        ),
        "Probabilities are calibrated if the run has fitted a temperature, as fit does.\n"
        "Exit status: 1 if an image could not be read (its row tells why), else 0.",
    ),
    "explain": Verb(
        "draw images beside maps of the regions that decided their class",
        (
            _IMAGES,
            _MODEL,
            _option("--out", "PLACE", "a .png file for up to 60 images, or a folder for a figure "
                    "each (default: %(default)s)", default="explained.png"),
        ),
        "Colour, and the line around it, mark what supported the predicted class.",
    ),
    "export": Verb(
        "write a model as one file, and check it on real images",
        (
            _IMAGES,
            _MODEL,
            _option("--out", "FILE", "a .onnx file, a .pt2 file for PyTorch, or a .safetensors "
                    "file for bloodcell in half precision (default: the run's name, .onnx)"),
            _option("--int8", "IMAGES", "also write NAME.int8.onnx, which computes in 8 bits and "
                    "is calibrated on 200 of these images, best of the training part"),
        ),
        "The file takes pixels of any size and gives probabilities: it holds resizing,\n"
        "normalisation, softmax and class names. Both models classify up to 2,500 of the images.\n"
        "A file that disagrees is not kept: 8 bits may change the class of a tenth of the images,\n"
        "a .safetensors file (16 bits) that of a hundredth.",
    ),
    "serve": Verb(
        "serve a page on this machine that classifies images",
        (
            _MODEL,
            _option("--data", "ROOT", "the training data, a folder or a .zip, to show the nearest "
                    "training photographs (default: where the run was trained, if still there)"),
            _option("--host", "ADDRESS", "address to listen at (default: %(default)s, which only "
                    "this machine reaches)", default="127.0.0.1"),
            _option("--port", "N", "port to listen at; 0 takes a free one (default: %(default)s)",
                    default=7860, type=_number(int, 0, 65535, "0 to 65535")),
        ),
        "Not for diagnosis. Nothing is sent anywhere; uploads are deleted at the end.\n"
        "For programs: curl -F image=@a.jpeg http://127.0.0.1:7860/api/predict, and GET /health.",
    ),
    "audit": Verb(
        "find copies, leaks, label conflicts and unreadable images in a folder",
        (
            ("folder", {"nargs": "*", "metavar": "FOLDER",
             "help": "a folder of class folders, or a .zip of one"}),
            _option("--photos", "FILE", "CSV with columns file, photo and, if known, cell, to "
                    "compare with"),
            _option("--labels", "FILE", "CSV with columns file and class, for images that are not "
                    "in class folders"),
            _option("--out", "FILE", "a .json file for all findings"),
            _option("--write_photos", "FILE", _PHOTOS),
        ),
        "Copies of a photograph are found from pixels, also if rotated, sheared or mirrored.\n"
        "Exit status: 1 if images of one photograph or scene lie in two parts, else 0.",
    ),
    "benchmark": Verb(
        "measure images per second of each stage of training",
        _COMMON,
        "Compiling adds a minute or two for each batch size on a CPU, and nothing with\n"
        "--model.compile false. The weights are random unless --model.weights is given.",
        ("run", "benchmark", "data", "model", "trainer"),
    ),
    "cache": Verb(
        "list the decoded images that are kept on disk",
        (_flag("--empty", "delete them"),),
    ),
    "download": Verb("download the Kaggle data set Blood Cells, and check each file"),
}  # fmt: skip
TRAINER = {  # options of Lightning's Trainer that the help pages show
    "max_epochs": f"number of epochs (default: {MAX_EPOCHS})",
    "accelerator": "auto, cpu, gpu or mps (default: auto)",
    "devices": "number of devices (default: auto)",
    "strategy": "how several devices work together, e.g. ddp (default: auto)",
    "precision": "default: bf16-mixed where GPU or CPU computes it fast, 16-mixed on older GPUs, "
    "else 32-true",
    "fast_dev_run": "true: run one batch of training and validation, and write nothing",
    "default_root_dir": "the folder that holds lightning_logs (default: the current one)",
}
