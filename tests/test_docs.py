"""Pages lead somewhere, every page is in the site's navigation, and docstrings begin with what a thing is."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
import yaml

import mmscale
from benchmarks import gpu_tables, published_predictions

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / ".github").rglob("*.md")])
FOLDERS = ("mmscale", "kernels", "launch", "benchmarks", "configs", "examples", "tests")
PATH = re.compile(
    r"(?<![\w/])(?:(?:FOLDERS)/[\w/-]+\.\w+|[a-z_]+/[a-z_]+\.py|test_[a-z_]+\.py)".replace(
        "FOLDERS", "|".join((*FOLDERS, "tests"))
    )
)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def targets(page: Path) -> list[str]:
    return [
        link for link in LINK.findall(page.read_text(encoding="utf-8")) if not link.startswith(("http", "mailto:", "#"))
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_to_a_file(page):
    missing = [link for link in targets(page) if not (page.parent / link.split("#")[0]).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_that_a_page_names_is_there(page):
    """With a folder in front, or as the last part of a path that this project has."""
    named = set(PATH.findall(page.read_text(encoding="utf-8")))
    files = [str(file.relative_to(ROOT)) for folder in (*FOLDERS, "tests") for file in (ROOT / folder).rglob("*")]
    missing = [path for path in named if not any(f"/{file}".endswith(f"/{path}") for file in files)]
    assert not missing


def test_every_page_is_in_the_navigation():
    words = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    named = re.findall(r"[\w-]+\.md", str(words))
    assert sorted(named) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))


def test_the_python_interface_is_documented():
    described = re.findall(r"^::: \S+\.(\w+)$", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(described) == set(mmscale.__all__) - {"__version__", "Record"}


def test_tables_are_those_of_their_result_files():
    for page, text in gpu_tables.pages():
        assert page.read_text(encoding="utf-8") == text, f"{page.name}: mmscale bench gpu-tables writes it anew"
    pages = "".join(page.read_text(encoding="utf-8") for page in gpu_tables.PAGES)
    assert sorted(gpu_tables.MARKED.findall(pages)) == sorted(gpu_tables.TABLES)
    scored = json.loads((ROOT / "benchmarks" / "results" / "published_predictions.json").read_text(encoding="utf-8"))
    assert published_predictions.table(scored["files"]) in (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")


def docstrings(file: Path) -> list[tuple[int, str]]:
    """(line, text) of every text that stands for itself: those of modules, classes, functions and attributes."""
    return [
        (node.lineno, node.value.value.strip())
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]


def test_no_docstring_begins_with_of():
    files = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")]
    found = [
        f"{file}:{line}: {text[:60]}" for file in files for line, text in docstrings(file) if text.startswith("Of ")
    ]
    assert not found, "\n".join(found)
