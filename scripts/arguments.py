"""Arguments of the scripts: help that keeps the lines of a docstring, and numbers over 0."""

from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter


def make_parser(doc: str | None) -> ArgumentParser:
    """Returns a parser whose help starts with a script's docstring."""
    return ArgumentParser(description=doc, formatter_class=RawDescriptionHelpFormatter)


def count(text: str) -> int:
    """Returns a whole number, 1 or more."""
    if not text.isdecimal() or not int(text):
        raise ArgumentTypeError(f"{text} must be a whole number, 1 or more")
    return int(text)
