"""The links, anchors, pictures and file names in the documents are right."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("docs", "docker", "scripts", "examples")
FILES = [
    *ROOT.glob("*.md"),
    *(file for folder in FOLDERS for file in ROOT.glob(f"{folder}/**/*.md")),
]
TEXTS = {str(file.relative_to(ROOT)): file.read_text() for file in sorted(FILES)}
LINK = re.compile(r"(!?)\[[^\]]*\]\(([^)\s]+)\)")
# A file of the project, as prose names it.
FILE = re.compile(r"(?<![\w/.])(?:trainer|tests|scripts|docs|docker)/[\w./-]*\w")


def anchors(text: str) -> set[str]:
    """Return the anchors that a Markdown viewer makes of the headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name):
    for _, target in LINK.findall(TEXTS[name]):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        file = ((ROOT / name).parent / path).resolve() if path else ROOT / name
        assert file.exists(), f"{name}: {target}"
        if anchor:
            assert anchor in anchors(file.read_text()), f"{name}: {target}"


@pytest.mark.parametrize("name", TEXTS)
def test_the_files_that_a_document_names_exist(name):
    assert [path for path in FILE.findall(TEXTS[name]) if not (ROOT / path).exists()] == []


def test_every_picture_is_shown_and_small():
    shown = {
        ((ROOT / name).parent / target).resolve()
        for name, text in TEXTS.items()
        for picture, target in LINK.findall(text)
        if picture
    }
    assert shown == set((ROOT / "docs" / "images").iterdir())
    for image in shown:
        assert image.read_bytes().startswith(b"\x89PNG")
        assert image.stat().st_size < 150_000
    readme = {target for picture, target in LINK.findall(TEXTS["README.md"]) if picture}
    assert sum("dashboard-" in target for target in readme) >= 2
