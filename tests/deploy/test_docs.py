"""The pictures that the README and docs/ show are there, and small."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
IMAGES = [
    text.parent / target
    for text in TEXTS
    for target in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text.read_text())
]


def test_the_readme_shows_the_dashboard():
    assert sum(image.name.startswith("dashboard-") for image in IMAGES) >= 2


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.name)
def test_a_picture_is_there_and_small(image):
    assert image.read_bytes().startswith(b"\x89PNG")
    assert image.stat().st_size < 150_000


def test_no_picture_is_left_behind():
    assert set((ROOT / "docs" / "images").iterdir()) == set(IMAGES)
