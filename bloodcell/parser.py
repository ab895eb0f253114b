"""The parser of settings, whose errors help."""

import difflib
import re
from typing import NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from bloodcell.errors import InputError


class Parser(LightningArgumentParser):
    """Lightning's parser, whose errors name the nearest key there is."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises InputError instead of printing the usage of every option."""
        message = " ".join(message.split()).replace("a typing.Literal[", "one of [")
        message = message.replace("a <class 'list'>", "a list, e.g. [8]")
        hint = self._nearest(message)
        raise InputError(f"{message.rstrip('. ')}.{hint} See `bloodcell VERB --help`.") from ex

    def _nearest(self, message: str) -> str:
        keys = {action.dest for action in self._actions}
        for parser in getattr(self._subcommands_action, "choices", {}).values():
            keys |= {action.dest for action in parser._actions}
        for name in re.findall(r"(?:--|['\"])([\w.]+)", message):
            if name in keys:  # the message is about its value
                break
            if near := difflib.get_close_matches(name, sorted(keys), n=1, cutoff=0.7):
                return f" Did you mean '{near[0]}'?"
        return ""
