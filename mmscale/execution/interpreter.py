"""What a sandbox shows of this machine: a Python interpreter, its standard library, a few packages and the shared libraries
that these load, all at their own paths and read-only."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from mmscale.errors import UserError

PACKAGES = ("numpy", "sympy", "mpmath", "scipy", "dateutil", "six")
"""What programs may import beside the standard library, where it is installed; models write programs with these."""
STANDARD = (
    "math",
    "datetime",
    "fractions",
    "decimal",
    "itertools",
    "collections",
    "statistics",
    "re",
    "random",
    "functools",
)
"""What every server imports, once for all programs."""
PRELOADED = (
    *("numpy.random", "sympy", "dataclasses"),
    # what sympy leaves until it solves or integrates something
    *(
        "sympy.physics.units",
        "sympy.combinatorics",
        "sympy.tensor.tensor",
        "sympy.sets.setexpr",
        "sympy.assumptions.wrapper",
    ),
    *(
        "sympy.integrals.manualintegrate",
        "sympy.integrals.risch",
        "sympy.integrals.heurisch",
        "sympy.sets.handlers.issubset",
    ),
    "sympy.codegen.ast",
)
"""What a server of programs that use packages imports as well; a process without them is forked in a third of the time."""
_NEEDED = ("numpy", "sympy")
_BESIDE = "{}.libs"
"""Where wheels keep the shared libraries of a package."""
_LOADERS = ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1")
_PROBE_SECONDS = 120
_PROBE = """
import importlib, json, pathlib, sys
for name in json.loads(sys.argv[1]):
    try:
        importlib.import_module(name)
    except Exception:
        pass
maps = [line.split(maxsplit=5) for line in open("/proc/self/maps")]
files = sorted({one[5].strip() for one in maps if len(one) == 6 and one[5].startswith("/")})
size = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize"))
print(json.dumps({"files": files, "size": size << 10}))
"""
_IN_SCIPY = (
    "optimize",
    "stats",
    "integrate",
    "linalg",
    "special",
    "interpolate",
    "spatial",
    "ndimage",
    "signal",
    "sparse.linalg",
)


@dataclass(frozen=True)
class Interpreter:
    """A Python interpreter and everything it reads."""

    executable: str
    environment: dict[str, str]
    shown: tuple[str, ...]
    """Files and folders, in an order in which each may be laid over those before."""
    hidden: tuple[str, ...]
    """Folders inside `shown` that are shown empty; `packages` are laid over them."""
    packages: tuple[str, ...]
    links: tuple[tuple[str, str], ...]
    """(where, target) of symbolic links at the root, such as /lib."""
    size: int
    """Bytes of address space with everything imported."""


@functools.cache
def interpreter() -> Interpreter:
    """This process's own Python; UserError where numpy or sympy is missing."""
    executable = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    packages = _packages()
    environment = _environment(packages)
    files, size = _probe(executable, environment)
    libraries = sorted({os.path.realpath(_standard(name)) for name in ("stdlib", "platstdlib")})
    inside = {*libraries, *packages, *(str(Path(one).parent) for one in packages)}
    loose = [file for file in files if not any(file.startswith(f"{folder}/") for folder in inside)]
    loaders = [os.path.join(os.path.realpath(folder), name) for folder, name in map(os.path.split, _LOADERS)]
    shown = [*libraries, executable, *filter(os.path.exists, loaders), *_with_aliases(loose)]
    environment["LD_LIBRARY_PATH"] = ":".join(sorted({str(Path(file).parent) for file in loose if ".so" in file}))
    hidden = [
        f"{folder}/{name}"
        for folder in libraries
        for name in ("site-packages", "dist-packages")
        if os.path.isdir(f"{folder}/{name}")
    ]
    return Interpreter(executable, environment, tuple(dict.fromkeys(shown)), tuple(hidden), packages, _links(), size)


def _standard(name: str) -> str:
    """A folder of the standard library, also where this process runs in a virtual environment."""
    bases = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
    return sysconfig.get_path(name, vars=bases)


def _packages() -> tuple[str, ...]:
    shown: list[str] = []
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            if name in _NEEDED:
                raise UserError(f"programs need {name}, which is not installed: pip install {name}")
            continue
        place = Path(spec.origin)
        place = place.parent if place.name == "__init__.py" else place
        libraries = place.with_name(_BESIDE.format(name))
        shown += [str(one) for one in (place, libraries) if one.exists()]
    return tuple(shown)


def _environment(packages: tuple[str, ...]) -> dict[str, str]:
    """All that a program finds in its environment; one hash seed, so that sets print alike every time."""
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": "/tmp",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONPATH": ":".join(dict.fromkeys(str(Path(one).parent) for one in packages)),
        "PYTHONHASHSEED": "0",
        "PYTHONUTF8": "1",
        **{f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "BLIS")},
    }


def _probe(executable: str, environment: dict[str, str]) -> tuple[list[str], int]:
    """(files that an interpreter maps once it has imported everything, bytes of its address space)."""
    extensions = Path(_standard("platstdlib")) / "lib-dynload"
    names = [file.name.split(".")[0] for file in sorted(extensions.glob("*.so"))]
    names = [name for name in names if not name.startswith(("_test", "_tkinter", "xx"))]
    wanted = [*names, *STANDARD, *PRELOADED, *PACKAGES, *(f"scipy.{name}" for name in _IN_SCIPY)]
    command = [executable, "-s", "-B", "-c", _PROBE, json.dumps(wanted)]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_PROBE_SECONDS, check=True
        )
        listing = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        raise UserError(f"cannot look at the Python that programs would run in, {executable} ({error})") from error
    return listing["files"], int(listing["size"])


def _with_aliases(files: list[str]) -> list[str]:
    """The files and, of shared libraries, the other names that they have beside them ("libz.so.1" of "libz.so.1.3")."""
    names: list[str] = []
    for file in files:
        names.append(file)
        folder, stem = os.path.dirname(file), os.path.basename(file).split(".so")[0]
        if ".so" in file:
            names += [
                entry.path
                for entry in os.scandir(folder)
                if entry.is_symlink() and entry.name.startswith(f"{stem}.so") and os.path.realpath(entry.path) == file
            ]
    return names


def _links() -> tuple[tuple[str, str], ...]:
    return tuple((f"/{name}", os.readlink(f"/{name}")) for name in ("lib", "lib64") if os.path.islink(f"/{name}"))
