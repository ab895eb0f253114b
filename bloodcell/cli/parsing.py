"""Parses the words of a verb and makes its help page, from the options that are declared for it."""

import argparse
import difflib
import shutil
from argparse import Namespace
from collections.abc import Sequence
from typing import NoReturn

from bloodcell.cli.arguments import TRAINER, VERBS
from bloodcell.cli.settings import settings
from bloodcell.errors import InputError

# the program sets them
_LINKED = ("data.seed", "model.seed", "model.class_names", "model.image_size")


class _Parser(argparse.ArgumentParser):
    """argparse's parser, which raises InputError."""

    def error(self, message: str) -> NoReturn:
        """Raises InputError instead of ending the process."""
        message = message.removeprefix("argument ")
        message = message.replace(": expected one argument", " stands without a value")
        message = message.replace(": =", "=")  # the value, by `_number`
        raise InputError(f"{message}. See `{self.prog} --help`.")


def front_page() -> str:
    """The page of `bloodcell --help`."""
    parser = argparse.ArgumentParser(
        "bloodcell",
        usage="bloodcell VERB [options]",
        description="Fine-tunes a MobileNet on photographs of blood cells, and scores it by "
        "photograph.",
        epilog="examples:\n"
        "  bloodcell fit --config demo.yaml                  some minutes, no data needed\n"
        "  bloodcell fit --config d8.yaml --data.root blood-cells.zip\n"
        "  bloodcell test --ckpt_path lightning_logs/d8/version_0\n"
        "  bloodcell predict my_images                       with the bundled model\n\n"
        "`bloodcell VERB --help` describes a verb; `bloodcell --version` prints the version.",
        formatter_class=_format,
        add_help=False,
    )
    verbs = parser.add_argument_group("verbs")
    for name, verb in VERBS.items():
        verbs.add_argument(name, help=verb.summary)
    return parser.format_help().rstrip()


def verb_page(name: str) -> str:
    """The page of `bloodcell VERB --help`."""
    parser = _make(name)
    groups = VERBS[name].groups
    scores = bool(groups) and "model" not in groups
    for group in groups:
        title = "data (default: as it was trained)" if scores and group == "data" else group
        section = parser.add_argument_group(title)
        for key, setting in settings(group).items():
            text = setting.text if scores else f"{setting.text} (default: {_bare(setting.default)})"
            if group == "trainer":
                text = TRAINER.get(key.removeprefix("trainer."), "")
            if text and _is_shown(name, key):
                section.add_argument(f"--{key}", metavar="VALUE", help=text.replace("%", "%%"))
    return parser.format_help().rstrip()


def _is_shown(verb: str, key: str) -> bool:
    """Whether a setting matters to a verb."""
    if verb == "benchmark" and key.startswith("trainer."):
        return key in ("trainer.accelerator", "trainer.precision")
    of_fit = key == "trainer.max_epochs" or (key in settings("run") and key != "seed_everything")
    return key not in _LINKED and (verb == "fit" or not of_fit)


def _bare(default: str | None) -> str:
    return "none" if default in (None, "None") else str(default).strip("'\"").lower()


def parse(name: str, words: Sequence[str]) -> tuple[Namespace, list[str]]:
    """Parses the words after a verb.

    Args:
        name: the verb.
        words: the words after it.

    Returns:
        The options of the verb, and the words that are left for LightningCLI: none for other verbs.

    Raises:
        InputError: naming the option or value that cannot be used.
    """
    parser = _make(name)
    if VERBS[name].groups or name == "reproduce":  # a value of `fit` must not become a positional
        return parser.parse_known_args(words)
    given, rest = parser.parse_known_intermixed_args(words)
    unknown = [word for word in rest if word.startswith("-")]
    if unknown:
        known = [option for option, _ in VERBS[name].options if option.startswith("--")]
        near = difflib.get_close_matches(unknown[0].partition("=")[0], known, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        takes = ", ".join(known) or "no options"
        raise InputError(f"{name} takes {takes} (got: {' '.join(unknown)}).{hint}")
    if rest:
        raise InputError(f"{name} takes no other words (got: {' '.join(rest)}).")
    return given, []


def _make(name: str) -> _Parser:
    verb = VERBS[name]
    places = "".join(f"{how['metavar']} " for option, how in verb.options if option[0] != "-")
    parser = _Parser(
        f"bloodcell {name}",
        usage=f"bloodcell {name} {places}[options]",
        description=f"{verb.summary[0].upper()}{verb.summary[1:]}.\n{verb.remarks}",
        formatter_class=_format,
        add_help=False,
        allow_abbrev=False,
    )
    for option, how in verb.options:
        parser.add_argument(*option.split("/"), **how)
    return parser


def _format(prog: str) -> argparse.HelpFormatter:
    width = min(shutil.get_terminal_size((100, 24)).columns, 100)
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=32, width=width)
