"""The names of classes: the common ones, under which data sets join, and their synonyms."""

import re
import unicodedata
from collections.abc import Sequence

_SHORT_NAME = 4  # letters; in names up to this length, a final s may belong to an abbreviation
_SINGULAR = ("ss", "is", "us")  # ends of names in the singular
# common names, each with the usual synonyms and abbreviations as `plain` returns them
_NAMES: dict[str, tuple[str, ...]] = {
    "basophil": ("ba", "bas", "baso", "basophil granulocyte"),
    "eosinophil": ("eo", "eos", "eosino", "eosinophil granulocyte"),
    "erythroblast": (
        *("erb", "ebo", "nrbc", "normoblast", "nucleated red blood cell"),
        "nucleated red cell",
    ),
    "immature granulocyte": (
        *("ig", "promyelocyte", "myelocyte", "metamyelocyte", "pmy", "my", "mmy"),
    ),
    "lymphocyte": ("ly", "lym", "lymph", "lympho", "lyt", "lymphocyte typical"),
    "monocyte": ("mo", "mon", "mono"),
    "neutrophil": (
        *("ne", "neu", "neut", "neutro", "neurotrophil", "neutrophil granulocyte", "pmn"),
        *("sne", "seg", "segmented neutrophil", "neutrophil segmented", "segmented", "ngs"),
        *("bne", "band", "band neutrophil", "neutrophil band", "ngb"),
    ),
    "platelet": ("plt", "plate", "thrombocyte"),
}
COMMON = tuple(_NAMES)
_COMMON_NAME = {other: name for name, others in _NAMES.items() for other in (name, *others)}


def plain(name: str) -> str:
    """Returns a name without differences of spelling: capitals, spaces, usual plurals."""
    text = unicodedata.normalize("NFKC", name).casefold().strip(" .")
    text = re.sub(r"(?<=[^\W_])[\s_-]+(?=[^\W_])", " ", text)
    if len(text) <= _SHORT_NAME or text.endswith(_SINGULAR):
        return text
    return re.sub("ies$", "y", text).removesuffix("s")


def common(name: str) -> str:
    """Returns the common name of a class; of a class without one, its `plain` name."""
    text = plain(name)
    return _COMMON_NAME.get(text) or _COMMON_NAME.get(text.removesuffix("s"), text)


def find_class(name: str, names: Sequence[str]) -> int | None:
    """Returns the index of a class in a list, by its plain or else by its common name.

    Args:
        name: the class.
        names: the list. A common name and one of its synonyms are the same class, if it is the
            only one; two synonyms are not, as they may be kinds (SNE and BNE are neutrophils).
    """
    own, joint = plain(name), common(name)
    for place, other in enumerate(names):
        if plain(other) == own:
            return place
    found = [i for i, one in enumerate(names) if plain(one) == joint or common(one) == own]
    return found[0] if len(found) == 1 else None
