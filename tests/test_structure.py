"""Imports run downhill, and no installed package may be called `kernels`."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1] / "mmscale"
LAYERS = (
    {"errors", "languages", "progress", "registry", "transfer", "versions"},
    {"logs", "storage"},
    {"config"},
    {"data"},
    {"parallel"},
    {"models"},
    {"training", "decoding", "conversion"},
    {"methods"},
    {"answering"},
    {"evaluation"},
    {"runs"},
    {"reporting", "planning", "serving"},
    {"cli", "__main__", "api"},
)
INTERFACE = ROOT / "__init__.py"
"""It names what mmscale.api has, and imports it when it is used."""
GRAMMAR = "tinyworld.grammar"
"""Word problems are data; the rest of tinyworld trains models."""
EXCEPTIONS = {"tinyworld": 10}


def level(module: str) -> int:
    name = module.removeprefix("mmscale.")
    if name.startswith(GRAMMAR) or name == "tinyworld":
        return 1
    top = name.split(".")[0]
    return EXCEPTIONS.get(top, next((i for i, layer in enumerate(LAYERS) if top in layer), -1))


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mmscale."):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_imports_run_downhill():
    wrong = []
    for file in set(ROOT.rglob("*.py")) - {INTERFACE}:
        module = "mmscale." + ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for imported in imports(file):
            assert level(imported) >= 0, f"{imported} (imported by {module}) is in no layer"
            if level(imported) > level(module):
                wrong.append(f"{module} imports {imported}")
    assert not wrong


def test_no_function_is_long():
    long = []
    for file in ROOT.rglob("*.py"):
        assert len(file.read_text(encoding="utf-8").splitlines()) <= 400, file
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno > 80:
                long.append(f"{file}: {node.name}")
    assert not long
