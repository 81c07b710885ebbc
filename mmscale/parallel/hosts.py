"""The hosts of a Slurm node list, such as "rack[0-1]node[08-11],login-a[1,3]-ib".

Grammar (slurm.conf(5), hostlist expressions): names divided by commas; a name may hold brackets anywhere, each with numbers
and ranges divided by commas; a range counts in as many digits as its first number is written with. The last bracket
counts fastest (with three and more, Slurm 22.05 gives the same hosts in another order).
"""

from __future__ import annotations

import itertools
import math
import re
import shutil
import subprocess

from mmscale.errors import UserError

_NAMES = re.compile(r"(?:[^,\[\]\s]|\[[^\[\]]*\])+")
_PARTS = re.compile(r"\[([^\[\]]*)\]")
_RANGE = re.compile(r"([0-9]{1,18})(?:-([0-9]{1,18}))?")
_MOST_HOSTS = 1 << 16
"""That one list may name; no cluster has more, and a damaged range would fill the memory."""
_SECONDS = 20
"""That Slurm's own program may take: it reads the cluster's configuration, and asks no controller."""


def first_host(nodes: str) -> str:
    """The first host of a node list, where the first rank runs; UserError when it cannot be read."""
    return (_told_by_slurm(nodes) or expand(nodes))[0]


def _told_by_slurm(nodes: str) -> list[str]:
    """What `scontrol show hostnames` says; nothing where it is not, as in a container, or has no answer."""
    if shutil.which("scontrol") is None:
        return []
    try:
        done = subprocess.run(
            ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.split() if done.returncode == 0 else []


def expand(nodes: str) -> list[str]:
    """Every host of a node list, in its order; UserError when it is none."""
    names = _NAMES.findall(nodes)
    if not names or ",".join(names) != nodes:
        raise _unreadable(nodes)
    return [host for name in names for host in _hosts(name, nodes)]


def _hosts(name: str, nodes: str) -> list[str]:
    """The hosts of one name with any number of brackets."""
    parts = _PARTS.split(name)  # text, inside of a bracket, text, …
    choices = [_numbers(part, nodes) if place % 2 else [part] for place, part in enumerate(parts)]
    if math.prod(map(len, choices)) > _MOST_HOSTS:
        raise _unreadable(nodes)
    return ["".join(chosen) for chosen in itertools.product(*choices)]


def _numbers(inside: str, nodes: str) -> list[str]:
    numbers: list[str] = []
    for one in inside.split(","):
        match = _RANGE.fullmatch(one)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if match is None or not 0 <= last - first < _MOST_HOSTS:
            raise _unreadable(nodes)
        numbers += [f"{number:0{len(match[1])}d}" for number in range(first, last + 1)]
    return numbers


def _unreadable(nodes: str) -> UserError:
    return UserError(f"cannot read the Slurm node list '{nodes}': set MASTER_ADDR to the host of the first rank")
