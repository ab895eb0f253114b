"""Parses the words of a verb and makes its help page."""

import argparse
import difflib
import shutil
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any, Literal, NoReturn, get_args, get_origin

from bloodcell.cli.arguments import TRAINER, VERBS, Function, Option, Training
from bloodcell.cli.schema import REQUIRED, Setting
from bloodcell.cli.settings import settings
from bloodcell.errors import InputError

# the program sets these itself
_LINKED = ("data.seed", "model.seed", "model.class_names", "model.image_size")
WORDS = "words"  # the argument of a function that takes all other words of the command line


class _Parser(argparse.ArgumentParser):
    """argparse's parser, which raises InputError."""

    def error(self, message: str) -> NoReturn:
        """Raises InputError instead of ending the process."""
        message = message.removeprefix("argument ")
        message = message.replace(": expected one argument", " needs a value")
        message = message.replace(": =", "=")  # the value, by `_reader`
        message = message.replace("the following arguments are required:", f"{self.prog} needs")
        raise InputError(f"{message}. See `{self.prog} --help`.")


def front_page() -> str:
    """The page of `bloodcell --help`."""
    parser = argparse.ArgumentParser(
        "bloodcell",
        usage="bloodcell VERB [options]",
        description="Fine-tunes a MobileNet on photographs of blood cells, and scores it by "
        "photograph.",
        epilog="examples:\n"
        "  bloodcell fit --config demo.yaml                  a few minutes, no data needed\n"
        "  bloodcell fit --config d8.yaml --data.root blood-cells.zip\n"
        "  bloodcell test --ckpt_path lightning_logs/d8/version_0\n"
        "  bloodcell predict my_images                       with the bundled model\n\n"
        "`bloodcell VERB --help` describes a verb; `bloodcell --version` prints the version.",
        formatter_class=_format,
        add_help=False,
    )
    verbs = parser.add_argument_group("verbs")
    for name, verb in VERBS.items():
        summary = verb.read(name).summary if isinstance(verb, Function) else verb.summary
        verbs.add_argument(name, help=summary[0].lower() + summary[1:])
    return parser.format_help().rstrip()


def verb_page(name: str) -> str:
    """The page of `bloodcell VERB --help`."""
    parser, verb = _make(name), VERBS[name]
    groups = verb.groups if isinstance(verb, Training) else ()
    scores = bool(groups) and "model" not in groups
    for group in groups:
        title = "data (default: as in training)" if scores and group == "data" else group
        section = parser.add_argument_group(title)
        for key, setting in settings(group).items():
            text = setting.text if scores else setting.help()
            if group == "trainer":
                text = TRAINER.get(key.removeprefix("trainer."), "")
            if text and _is_shown(name, key):
                section.add_argument(f"--{key}", metavar="VALUE", help=text.replace("%", "%%"))
    return parser.format_help().rstrip()


def _is_shown(verb: str, key: str) -> bool:
    """Whether a setting matters to a verb."""
    if verb == "benchmark" and key.startswith("trainer."):
        return key in ("trainer.accelerator", "trainer.precision")
    of_fit = key in ("trainer.max_epochs", "trainer.default_root_dir")
    of_fit |= key in settings("run") and key != "seed_everything"
    return key not in _LINKED and (verb == "fit" or not of_fit)


def parse(name: str, words: Sequence[str]) -> tuple[Namespace, list[str]]:
    """Parses the words after a verb.

    Args:
        name: the verb.
        words: the words after it.

    Returns:
        The options of the verb, and the remaining words, which LightningCLI or the argument `words`
        of the verb takes (none for other verbs).

    Raises:
        InputError: naming the option or value that cannot be used.
    """
    parser, verb = _make(name), VERBS[name]
    if isinstance(verb, Training) or WORDS in verb.read(name).settings:
        return parser.parse_known_args(words)  # a value of `fit` must not become a positional
    given, rest = parser.parse_known_intermixed_args(words)
    unknown = [word for word in rest if word.startswith("-")]
    if unknown:
        known = [names[-1] for names, _ in _options(name) if names[-1].startswith("--")]
        near = difflib.get_close_matches(unknown[0].partition("=")[0], known, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        takes = ", ".join(known) or "no options"
        raise InputError(f"{name} takes {takes} (got: {' '.join(unknown)}).{hint}")
    if rest:
        raise InputError(f"{name} takes no further arguments (got: {' '.join(rest)}).")
    return given, []


def _make(name: str) -> _Parser:
    verb, options = VERBS[name], _options(name)
    signature = verb.read(name) if isinstance(verb, Function) else verb
    places = "".join(f"{how['metavar']} " for names, how in options if names[0][0] != "-")
    parser = _Parser(
        f"bloodcell {name}",
        usage=f"bloodcell {name} {places}[options]",
        description=f"{signature.summary[0].upper()}{signature.summary[1:]}.\n{signature.remarks}",
        formatter_class=_format,
        add_help=False,
        allow_abbrev=False,
    )
    for names, how in options:
        parser.add_argument(*names, **how)
    return parser


def _options(name: str) -> tuple[Option, ...]:
    """Returns the options of a verb; those of a function are its arguments."""
    verb = VERBS[name]
    if isinstance(verb, Training):
        return verb.options
    found = verb.read(name).settings.items()
    return tuple(_option(key, setting) for key, setting in found if key != WORDS)


def _option(key: str, setting: Setting) -> Option:
    how: dict[str, Any] = {"help": setting.help().replace("%", "%%"), "metavar": key.upper()}
    if setting.default is REQUIRED:
        return (key,), how | ({"nargs": "*"} if setting.kind is not str else {})
    if setting.kind is bool:
        return (f"--{key}",), {"help": how["help"], "action": "store_true"}
    how |= {"default": setting.default, "type": _reader(setting)}
    return (f"--{key}",), how | ({"nargs": "+"} if _is_list(setting.kind) else {})


def _is_list(kind: Any) -> bool:
    return any(get_origin(one) is list for one in (kind, *get_args(kind)))


def _reader(setting: Setting) -> Callable[[str], Any]:
    """Makes the function that reads the value of an option."""
    every = (setting.kind, *get_args(setting.kind))
    kinds = {*every} & {int, float}
    words = [word for kind in every if get_origin(kind) is Literal for word in get_args(kind)]

    def read(given: str) -> Any:
        if not given:
            raise argparse.ArgumentTypeError("expected one argument")
        for kind in kinds if given not in words else ():
            try:
                return kind(given)
            except ValueError:
                rule = " or ".join([Setting(kind, None, "").rule(), *words])
                raise argparse.ArgumentTypeError(
                    f"={given} cannot be used: it must be {rule}"
                ) from None
        return given

    return read


def _format(prog: str) -> argparse.HelpFormatter:
    width = min(shutil.get_terminal_size((100, 24)).columns, 100)
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=32, width=width)
