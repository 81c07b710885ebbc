"""Imports run downhill, and no installed package may be called `kernels`."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1] / "mmscale"
KERNELS = Path(__file__).resolve().parents[1] / "kernels" / "mmscale_kernels"
BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
LAYERS = (
    {"cldr", "errors", "languages", "progress", "registry", "transfer", "versions"},
    {"logs", "storage"},
    {"config"},
    {"data", "execution"},
    {"parallel"},
    {"models"},
    {"training", "decoding", "conversion", "translation"},
    {"methods"},
    {"answering"},
    {"evaluation"},
    {"corpus"},
    {"runs"},
    {"reporting", "planning", "serving"},
    {"cli", "__main__", "api"},
)
INTERFACE = ROOT / "__init__.py"
"""It names what mmscale.api has, and imports it when it is used."""
GRAMMAR = "tinyworld.grammar"
"""Word problems are data; the rest of tinyworld trains models."""
EXCEPTIONS = {"tinyworld": 11}


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


def module_graph() -> dict[str, set[str]]:
    """module -> modules it imports, anywhere in its file, of mmscale and of the kernels."""
    files = {}
    for root in (ROOT, KERNELS):
        for file in root.rglob("*.py"):
            name = ".".join(file.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__")
            files[name] = file
    graph: dict[str, set[str]] = {name: set() for name in files}
    for name, file in files.items():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for_types = [
            node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        ]
        ignored = {id(inner) for node in for_types for inner in ast.walk(node)}
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.ImportFrom)
                and id(node) not in ignored
                and node.module
                and node.module.split(".")[0] in ("mmscale", "mmscale_kernels")
            ):
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    graph[name].add(whole if whole in files else node.module)
    return {name: found - {name} for name, found in graph.items()}


def test_no_modules_import_each_other_in_a_circle():
    graph = module_graph()
    order = graphlib.TopologicalSorter(graph)
    order.prepare()  # graphlib.CycleError names the circle


def test_no_function_is_long():
    long = []
    for file in ROOT.rglob("*.py"):
        assert len(file.read_text(encoding="utf-8").splitlines()) <= 400, file
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno > 80:
                long.append(f"{file}: {node.name}")
    assert not long


VERBS = {
    ("cli/convert.py", "convert"),
    ("cli/data.py", "stats"),
    ("cli/evaluate.py", "evaluate"),
    ("cli/generate.py", "generate"),
    ("cli/plan.py", "plan"),
    ("cli/serve.py", "serve"),
    ("cli/translate.py", "translate"),
}
"""Verbs, whose parameters are the options that users type."""
MANY_PARAMETERS = VERBS | {
    ("models/attention.py", "attention"),  # as transformers calls every attention function
}


def test_no_function_takes_more_than_seven_parameters():
    """Beside self; what belongs together has a name."""
    many = set()
    for file in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                taken = node.args
                named = [*taken.posonlyargs, *taken.args, *taken.kwonlyargs, taken.vararg, taken.kwarg]
                if len([one for one in named if one is not None and one.arg not in ("self", "cls")]) > 7:
                    many.add((str(file.relative_to(ROOT)), node.name))
    assert many == MANY_PARAMETERS, "and none stands here that does not need to"


VAGUE = {"found", "stuff", "data2", "info", "res"}


def test_variables_say_what_they_are():
    vague = []
    for file in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Name, ast.arg)):
                name = node.id if isinstance(node, ast.Name) else node.arg
                if name in VAGUE:
                    vague.append(f"{file}:{node.lineno} {name}")
    assert not vague


def test_a_class_name_means_one_class():
    """In the package, the kernels and the benchmarks."""
    defined: dict[str, list[str]] = {}
    for file in [*ROOT.rglob("*.py"), *KERNELS.rglob("*.py"), *BENCHMARKS.rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                defined.setdefault(node.name, []).append(str(file))
    assert not {name: files for name, files in defined.items() if len(files) > 1}
