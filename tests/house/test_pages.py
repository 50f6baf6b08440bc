"""The pages that show the house: every file that they name is there."""

import re

import pytest

from tools import ROOT

PAGES = ("docs/architecture.md", "CONTRIBUTING.md")
#: Where a path in a page may begin.
BASES = ("", "python/rust_diffusion", "src/core/src", "src/kernels/src", "src/bindings/src", "docs")
SUFFIXES = ("rs", "py", "md", "toml", "cpp", "sh", "yml", "pyi", "ipynb")


def named(text):
    """Paths in a page: in backquotes, or in a block; braces stand for several of them."""
    blocks = re.findall(r"^```text\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    words = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    words += [line.split()[0] for block in blocks for line in block.splitlines() if line.strip()]
    for word in words:
        word = word.partition("::")[0]
        if re.fullmatch(rf"[\w./{{}},-]+(/|\.({'|'.join(SUFFIXES)}))", word) and not word.startswith("."):
            yield from spread(word)


def spread(path):
    braces = re.search(r"\{([^{}]*)\}", path)
    if not braces:
        return [path]
    return [
        whole
        for part in braces[1].split(",")
        for whole in spread(path[: braces.start()] + part + path[braces.end() :])
    ]


@pytest.mark.parametrize("page", PAGES)
def test_every_path_that_a_page_names_is_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    paths = list(named(text))
    missing = [path for path in paths if not any((ROOT / base / path).exists() for base in BASES)]
    assert len(paths) > 10 and missing == []


def test_a_path_that_is_gone_is_noticed():
    assert list(named("see `data/{load,gone}.rs` and `x` (`f()`, `.venv/bin/python`)")) == [
        "data/load.rs",
        "data/gone.rs",
    ]
    assert list(named("```text\nsrc/core/   the core\n  data/{a,b}.rs   c\n```")) == [
        "src/core/",
        "data/a.rs",
        "data/b.rs",
    ]


@pytest.mark.parametrize(
    "room", sorted(p.parent.name for p in (ROOT / "python/rust_diffusion").glob("*/__init__.py"))
)
def test_every_room_stands_in_the_tree(room):
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    tree = re.search(r"^In Python:\n\n```text\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert tree and re.search(rf"^{room}/ ", tree[1], re.MULTILINE)
