"""The help pages, made from signatures and docstrings, which are read as text.

So help comes at once: importing what it describes would take seconds. `--help-all` does import it
and lists every option of Lightning's Trainer as well.
"""

import ast
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import docstring_parser

VERBS = {
    "fit": "train, then test the best checkpoint",
    "validate": "score a run folder or a checkpoint on the validation part",
    "test": "score a run folder or a checkpoint on the test part",
    "verify": "test a run again, and compare with what it claims (exit status 1: it is not so)",
    "compare": "table of runs: seeds pooled, intervals by photograph, which can be told apart",
    "reproduce": "the seven published experiments, each beside its honest twin; can be resumed",
    "predict": "what a model says of images: a table, a row an image",
    "explain": "images beside what in them decided",
    "export": "a model as one file, .onnx or other, checked on real images",
    "serve": "a page on this machine: drop images, see class, evidence and likeness",
    "audit": "what is really in a folder: copies, leaks, label conflicts, unreadable images",
    "benchmark": "measure images per second of each stage, and the time outside the network",
    "cache": "list the decoded images kept on disk; --empty deletes them",
    "download": "get the Kaggle set Blood Cells, and check it file by file",
}
_SET_BY_THE_PROGRAM = {"data.seed", "model.class_names", "model.image_size"}
_COMMON = {
    "--config NAME": "a YAML file, or the name of a shipped one: d8.yaml",
    "--seed_everything N": "decides every random choice (default: 0)",
    "--print_config": "show all settings as they would be used, and stop",
    "--help-all": "every option there is, Lightning's included",
}
_CHECKPOINT = {"--ckpt_path RUN": "a run folder (its best checkpoint) or a .ckpt file; required"}
_FIT = {
    "--name NAME": "folder of the run below lightning_logs (default: the config's name)",
    "--ckpt_path last": "go on with the newest run of this name; or a run folder, or a .ckpt file",
    "--resume auto": "the same, or begin if the newest run has no checkpoint; nothing if it is "
    "finished: one command for a job that is started again until it is done",
    "--save_every_minutes M": "also within an epoch, besides its end (default: 10; null: never)",
    "--save_every_n_steps N": "likewise (default: none)",
    "--monitor NAME": "metric that chooses the best checkpoint; min:NAME or max:NAME if its name "
    "does not tell which is better (default: val/loss)",
    "--rollbacks N": "how often a loss that is no number takes the run back to its last "
    "checkpoint, each time with half the learning rate, before it stops it (default: 0)",
}
_BENCHMARK = {
    "--batch_sizes [32,128]": "each is measured (default: data.batch_size alone)",
    "--seconds S": "how long each stage is measured (default: 15); compiling comes on top, a "
    "minute or two for each batch size on a CPU, none with --model.compile false",
    "--out FILE": "a JSON file for the figures, besides the table (default: none)",
}
_COMPARE = {
    "RUN...": "run folders, or folders that hold some (default: lightning_logs)",
    "--out FILE": "also write the table to a .csv or .md file, or draw it as .png",
}
_AUDIT = {
    "FOLDER": "a folder of class folders, or a .zip of one",
    "--photos FILE": "CSV with columns file, photo and, if known, cell, to compare with",
    "--out FILE": "a .json file for all that was found (default: none)",
    "--write_photos FILE": "a .csv file of the photographs that were found, for --data.photos",
}
_REPRODUCE = {
    "--seeds N": "how many of them, from 0 (default: 3)",
    "--splits seed,photo": "as published, and by photograph (default: both)",
    "--jobs N": "runs at a time (default: one for each GPU, or one)",
    "--fast": "for CPUs: 128 pixels, 24 epochs at most, batches and learning rates to suit; says "
    "so in all that comes of it",
    "--out DIR": "folder of the runs, tables and figures (default: reproduced, reproduced-fast)",
    "--OPTION VALUE": "any other option of fit, for all runs, e.g. --data.root blood-cells.zip",
}
_IMAGES = {
    "IMAGES...": "files, folders, .zip files, places in one (x.zip/folder), patterns, or - to read "
    "a path a line from the standard input",
}
_MODEL = "a run folder, a .ckpt or a .safetensors (default: the model that comes with bloodcell)"
_EXPLAIN = _IMAGES | {
    "--model RUN": _MODEL,
    "--out PLACE": "a .png file for all images, 60 at most, or a folder for a figure each "
    "(default: explained.png)",
}
_EXPORT = {
    "IMAGES...": "real images, as of predict, which both are asked about (2,500 at most)",
    "--model RUN": _MODEL,
    "--out FILE": "a .onnx, a .pt2 for PyTorch, or a .safetensors for bloodcell, in half precision "
    "(default: the run's name, .onnx)",
    "--int8 IMAGES": "also write NAME.int8.onnx, which works in 8 bits: calibrated on 200 of these "
    "images, which should be of the training part",
}
_PREDICT = _IMAGES | {
    "--model RUN": "a run folder, a .ckpt, a .safetensors or an exported .onnx, which needs no "
    "PyTorch (default: the model that comes with bloodcell)",
    "--out FILE": "a .csv, .jsonl or .parquet file (default: CSV on the standard output)",
    "--abstain P": "leave images unnamed whose most probable class is less probable than P",
    "--tta": "average over flips and quarter turns: eight times the work",
    "--cells": "find every white cell of each picture: a row a cell, and the differential count",
    "--field N": "with --cells: how many times as wide a field the pictures show as those of the "
    "Kaggle set, about 8 red cells (default: 1)",
    "--draw FOLDER": "with --cells: write each picture with its cells boxed and named",
    "--batch_size N": "images the model takes at a time (default: 32)",
    "--devices NAMES": "cpu, cuda, cuda:0,cuda:1 ... (default: all GPUs, or what there is)",
}
_SERVE = {
    "--model RUN": _MODEL,
    "--data ROOT": "the data it was trained on, a folder or a .zip, to show the nearest training "
    "photographs (default: where the run was trained, if that folder or archive is still there)",
    "--host ADDRESS": "to listen at (default: 127.0.0.1, which only this machine reaches)",
    "--port N": "port to listen at; 0 takes a free one (default: 7860)",
}
_ALONE = {  # verbs that take no settings of data and model: usage, remarks, options
    "compare": ("[RUN...] [--out FILE]", "", _COMPARE),
    "audit": (
        "FOLDER [options]",
        "Copies of a photograph are found from pixels, also if rotated, sheared or mirrored.\n"
        "Exit status: 1 if images of one photograph or scene lie in two parts, else 0.\n",
        _AUDIT,
    ),
    "cache": ("[--empty]", "", {"--empty": "delete them"}),
    "download": ("", "", {}),
    "explain": (
        "IMAGES... [options]",
        "In colour, and within the line: what spoke for the class that the image is given.\n",
        _EXPLAIN,
    ),
    "export": (
        "IMAGES... [options]",
        "Pixels of any size go in, probabilities come out: resizing, normalisation, softmax and\n"
        "class names are inside. A file that answers differently is not kept; in 8 bits a tenth of "
        "the\nimages may be named otherwise, in a .safetensors (16 bits) a hundredth.\n",
        _EXPORT,
    ),
    "predict": (
        "IMAGES... [options]",
        "Probabilities are calibrated if the run fitted a temperature, as fit does.\n"
        "Exit status: 1 if an image could not be read (its row says why), else 0.\n",
        _PREDICT,
    ),
    "serve": (
        "[options]",
        "Not for diagnosis. Nothing is sent anywhere; uploads are deleted at the end.\n"
        "For programs: curl -F image=@a.jpeg http://127.0.0.1:7860/api/predict, and GET /health.\n",
        _SERVE,
    ),
    "reproduce": (
        "[options]",
        "Finished runs are kept; the same command goes on after a kill.\n",
        _REPRODUCE,
    ),
}
_TRAINER = {
    "--trainer.max_epochs N": "how long to train (default: 30)",
    "--trainer.accelerator NAME": "auto, cpu, gpu, mps (default: auto)",
    "--trainer.devices N": "how many of them (default: auto)",
    "--trainer.strategy NAME": "how several work together, e.g. ddp (default: auto)",
    "--trainer.precision NAME": "default: bf16-mixed where the GPU or CPU is made for it, 16-mixed "
    "on older GPUs, 32-true elsewhere",
    "--trainer.fast_dev_run true": "one batch of training and validation, nothing is written",
    "--trainer.default_root_dir DIR": "where lightning_logs lies (default: here)",
}
_SCORE_TRAINER = {flag: text for flag, text in _TRAINER.items() if "epochs" not in flag}
_BENCHMARK_TRAINER = {
    flag: text for flag, text in _TRAINER.items() if "accelerator" in flag or "precision" in flag
}


class Argument(NamedTuple):
    """One argument of a constructor.

    Attributes:
        name: its name.
        type: its annotation, as written.
        default: its default, as written; None if it has none.
        text: what the docstring says of it.
    """

    name: str
    type: str
    default: str | None
    text: str


def front_page() -> str:
    """The page of `bloodcell --help`."""
    return (
        "usage: bloodcell VERB [options]\n\n"
        "Fine-tunes a MobileNet on photographs of blood cells, and scores it by photograph.\n\n"
        f"verbs:\n{_entries(VERBS)}\n\n"
        "examples:\n"
        "  bloodcell fit --config demo.yaml                  some minutes, no data needed\n"
        "  bloodcell fit --config d8.yaml --data.root blood-cells.zip\n"
        "  bloodcell test --ckpt_path lightning_logs/d8/version_0\n"
        "  bloodcell predict my_images                       with the model that comes along\n\n"
        "bloodcell VERB --help says more; bloodcell --version says which one this is."
    )


def verb_page(verb: str) -> str:
    """The page of `bloodcell VERB --help`."""
    head = f"usage: bloodcell {verb} [options]\n\n{VERBS[verb][0].upper()}{VERBS[verb][1:]}.\n"
    if verb in _ALONE:
        usage, remarks, entries = _ALONE[verb]
        return f"{head.replace('[options]', usage, 1)}{remarks}\n{_entries(entries)}".rstrip()

    here = Path(__file__).parents[1]
    data = _options("data", here / "data" / "datamodule.py", "BloodCells")
    if verb in ("fit", "benchmark"):
        model = _options("model", here / "train" / "task.py", "Classifier")
        if verb == "benchmark":
            weights = "--model.weights"
            model[weights] = model[weights].replace("default: imagenet", "default here: none")
        options = (_FIT if verb == "fit" else _BENCHMARK) | _COMMON
        trainer = _TRAINER if verb == "fit" else _BENCHMARK_TRAINER
        sections = {"options": options, "data": data, "model": model, "trainer": trainer}
    else:
        checkpoint = _CHECKPOINT
        if verb == "verify":
            head = head.replace("[options]", "RUN [options]", 1)
            checkpoint = {"RUN": "the folder of a finished run"}
        head += "The checkpoint says how the model is built and which data it was made from.\n"
        sections = {
            "options": checkpoint | _without_defaults(_COMMON),
            "data (default: as it was trained)": _without_defaults(data),
            "trainer": _SCORE_TRAINER,
        }
    pages = (f"\n{title}:\n{_entries(entries)}" for title, entries in sections.items())
    return head + "\n".join(pages)


def takes(verb: str) -> tuple[list[str], list[str]]:
    """The options of a verb without settings: those with a value, and those without."""
    words = [entry.split() for entry in _ALONE[verb][2] if entry.startswith("--")]
    return [w[0] for w in words if len(w) == 2], [w[0] for w in words if len(w) == 1]


def read_arguments(path: Path, class_name: str) -> Iterator[Argument]:
    """Reads the arguments of a class's constructor from its source.

    Args:
        path: the module.
        class_name: a class with an `__init__` and a Google-style docstring.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    node = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == class_name)
    init = next(n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
    parsed = docstring_parser.parse(ast.get_docstring(node) or "")
    texts = {p.arg_name: p.description or "" for p in parsed.params}
    arguments = init.args.args[1:]
    defaults = [None] * (len(arguments) - len(init.args.defaults)) + [
        ast.unparse(default) for default in init.args.defaults
    ]
    for argument, default in zip(arguments, defaults, strict=True):
        annotation = ast.unparse(argument.annotation) if argument.annotation else ""
        yield Argument(argument.arg, annotation, default, texts.get(argument.arg, ""))


def _options(key: str, path: Path, class_name: str) -> dict[str, str]:
    options = {}
    for argument in read_arguments(path, class_name):
        if f"{key}.{argument.name}" not in _SET_BY_THE_PROGRAM:
            text = " ".join(argument.text.split()).rstrip(".")
            options[f"--{key}.{argument.name}"] = f"{text} (default: {_bare(argument.default)})"
    return options


def _without_defaults(options: dict[str, str]) -> dict[str, str]:
    return {flag: text.partition(" (default: ")[0] for flag, text in options.items()}


def _bare(default: str | None) -> str:
    return "none" if default in (None, "None") else default.strip("'\"").lower()


def _entries(texts: Mapping[str, str]) -> str:
    return "\n".join(_entry(left, right) for left, right in texts.items())


def _entry(left: str, right: str) -> str:
    width = min(shutil.get_terminal_size((100, 24)).columns, 100)
    indent = 32 if left.startswith("-") else 14
    lines = textwrap.wrap(right, width - indent) or [""]
    first = f"  {left:<{indent - 2}}" if len(left) < indent - 3 else f"  {left}\n{' ' * indent}"
    return first + f"\n{' ' * indent}".join(lines)
