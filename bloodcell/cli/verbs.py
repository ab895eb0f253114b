"""The verbs without settings of data and model: their words are read, then a function is called.

What they need is imported where they are called: they must not wait for what others need.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from bloodcell.cli import manual
from bloodcell.cli.words import Options
from bloodcell.errors import InputError


def _audit(given: Options) -> bool:
    from bloodcell.audit.audit import audit

    words = given.words
    if len(words) != 1:
        raise InputError(f"audit takes one folder or .zip (got: {' '.join(words) or 'none'}).")
    return not audit(words[0], *(given.get(f) for f in ("--photos", "--out", "--write_photos")))


def _cache(given: Options) -> bool:
    from bloodcell.cli import cached

    _no_words("cache", given)
    print(cached.empty() if given.has("--empty") else cached.table())
    return True


def _compare(given: Options) -> bool:
    from bloodcell.evaluate.compare import compare

    compare(given.words, given.get("--out"))
    return True


def _download(given: Options) -> bool:
    from bloodcell.datasets import kaggle

    _no_words("download", given)
    print(kaggle.download())
    return True


def _explain(given: Options) -> bool:
    from bloodcell.infer.explain import explain

    return explain(given.words, given.get("--model"), given.get("--out") or "explained.png")


def _export(given: Options) -> bool:
    from bloodcell.infer.export import export

    export(given.words, *(given.get(flag) for flag in ("--model", "--out", "--int8")))
    return True


def _predict(given: Options) -> bool:
    from bloodcell.infer.cells import Cells
    from bloodcell.infer.predict import BATCH_SIZE, predict

    draw = given.get("--draw")
    for flag in ("--field", "--draw"):
        if given.has(flag) and not given.has("--cells"):
            raise InputError(
                f"{flag} {given.get(flag)} is for --cells. Add it, or leave {flag} out."
            )
    cells = Cells(given.number("--field", 1.0, 0.1, 50.0), Path(draw) if draw else None)
    return predict(
        given.words,
        model=given.get("--model"),
        out=given.get("--out"),
        abstain=given.number("--abstain", 0.0, 0.0, 1.0),
        tta=given.has("--tta"),
        batch_size=given.whole("--batch_size", BATCH_SIZE),
        devices=given.get("--devices"),
        cells=cells if given.has("--cells") else None,
    )


def _serve(given: Options) -> bool:
    from bloodcell.serve.serve import HOST, PORT, serve

    _no_words("serve", given)
    return serve(
        given.get("--model"),
        given.get("--host") or HOST,
        given.whole("--port", PORT, least=0),
        given.get("--data"),
    )


_VERBS: dict[str, Callable[[Options], bool]] = {
    "audit": _audit,
    "cache": _cache,
    "compare": _compare,
    "download": _download,
    "explain": _explain,
    "export": _export,
    "predict": _predict,
    "serve": _serve,
}


def is_alone(verb: str) -> bool:
    """Whether a verb is one of these."""
    return verb in _VERBS


def run(verb: str, words: Sequence[str]) -> bool:
    """Runs a verb.

    Args:
        verb: which one.
        words: what stands after it on the command line.

    Returns:
        Whether all is well: if not, the exit status is 1.

    Raises:
        InputError: if a word cannot be used.
    """
    return _VERBS[verb](Options.read(verb, words, *manual.takes(verb)))


def _no_words(verb: str, given: Options) -> None:
    if given.words:
        raise InputError(f"{verb} takes no other words (got: {' '.join(given.words)}).")
