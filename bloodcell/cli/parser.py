"""The parser of settings, whose errors help."""

import argparse
import difflib
import re
from collections.abc import Iterator
from typing import Literal, NoReturn, get_args, get_origin

from lightning.pytorch.cli import LightningArgumentParser

from bloodcell.errors import InputError


class Parser(LightningArgumentParser):
    """Lightning's parser, whose errors name the nearest key there is, and all choices."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises InputError instead of printing the usage of every option."""
        message = " ".join(message.split()).replace("a <class 'list'>", "a list, e.g. [8]")
        message = self._with_choices(message)
        hint = self._nearest(message)
        message = re.sub(r'Parser key "([\w.]+)":', r"\1:", message)
        verb = self.prog.split()[-1]  # of a subparser: bloodcell [options] VERB
        page = f"bloodcell {verb} --help" if verb != "bloodcell" else "bloodcell --help"
        raise InputError(f"{message.rstrip('. ')}.{hint} See `{page}`.") from ex

    def _all_actions(self) -> Iterator[argparse.Action]:
        yield from self._actions
        for parser in getattr(self._subcommands_action, "choices", {}).values():
            yield from parser._actions

    def _with_choices(self, message: str) -> str:
        """Lists what a key may be: jsonargparse names no choice but the last kind."""
        found = re.search(r'Parser key "([\w.]+)": (Expected .*?)\. Got', message)
        for action in self._all_actions() if found else ():
            kind = getattr(action, "_typehint", None)
            if found and action.dest == found[1] and get_origin(kind) is Literal:
                choices = ", ".join(str(choice).lower() for choice in get_args(kind))
                return message.replace(found[2], f"Expected one of {choices}")
        return message

    def _nearest(self, message: str) -> str:
        keys = {action.dest for action in self._all_actions()}
        for name in re.findall(r"(?:--|['\"])([\w.]+)", message):
            if name in keys:  # the message is about its value
                break
            if near := difflib.get_close_matches(name, sorted(keys), n=1, cutoff=0.7):
                return f" Did you mean '{near[0]}'?"
        return ""
