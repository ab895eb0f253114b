"""README.md and the pages of docs/: their links, their commands, their pictures."""

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
README = PROJECT / "README.md"
PAGES = [README, PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").glob("*.md"))]


def read_verbs() -> set[str]:
    """The verbs in the README's table."""
    table = README.read_text(encoding="utf-8").partition("## Verbs")[2].partition("\n## ")[0]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    return {verb for row in rows for verb in re.findall(r"`(\w+)`", row)}


def test_the_readme_is_short_and_names_each_verb() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150
    assert read_verbs() == {
        "fit", "validate", "test", "verify", "compare", "reproduce", "predict", "explain",
        "export", "serve", "audit", "download", "benchmark", "cache", "labs",
    }  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_commands_to_verbs(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)", text)
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).is_file()] == []
    consoles = "\n".join(re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    called = re.findall(r"^(?:for .*; do )?bloodcell (\w+)", consoles, re.MULTILINE)
    assert set(called) <= read_verbs()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_shipped_configs_are_named_rightly(page: Path) -> None:
    named = set(re.findall(r"--config (\w[\w-]*\.yaml)", page.read_text(encoding="utf-8")))
    assert named <= {path.name for path in (PROJECT / "configs").glob("*.yaml")}
