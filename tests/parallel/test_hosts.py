"""Slurm node lists in every form: as Slurm's own program reads them, and those that only newer releases read."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmscale.errors import UserError
from mmscale.parallel import hosts

FIRST = {
    "n1": "n1",
    "n[03-05,9],m1": "n03",
    "gpu-a[1,4]": "gpu-a1",
    "a,b": "a",
    "node-1-2": "node-1-2",
    "rack[0-1]node[0-3]": "rack0node0",
    "node[1-2].cluster.local": "node1.cluster.local",
    "gpu-a[1-2]-ib": "gpu-a1-ib",
    "n[098-101]": "n098",
    "a[1-2][3-4]": "a13",
}


@pytest.mark.parametrize("nodes", FIRST)
@pytest.mark.parametrize("asked", [True, False])
def test_first_host_of_a_node_list(nodes, asked, monkeypatch):
    if not asked:
        monkeypatch.setattr(shutil, "which", lambda name: None)
    assert hosts.first_host(nodes) == FIRST[nodes]


def test_numbers_are_as_wide_as_the_first_of_their_range():
    assert hosts.expand("n[8-11,08-10]") == ["n8", "n9", "n10", "n11", "n08", "n09", "n10"]
    assert hosts.expand("r[0-1]n[1-2].c,x") == ["r0n1.c", "r0n2.c", "r1n1.c", "r1n2.c", "x"]


@pytest.mark.parametrize(
    "nodes",
    [
        "",
        "n[1-2",
        "n]1[",
        "n[2-1]",
        "n[a-b]",
        "n[1,,2]",
        "a,,b",
        "n[[1]]",
        "n[]",
        "n1 n2",
        "n[1-2] ",
        "n[١-٢]",
        "n[1-99999999999]",
        "n[1-999]m[1-999]",
    ],
)
def test_what_is_no_node_list_is_refused(nodes):
    with pytest.raises(UserError, match="cannot read the Slurm node list"):
        hosts.expand(nodes)


@st.composite
def bracket(draw: st.DrawFn) -> str:
    width = draw(st.integers(1, 4))
    first = draw(st.integers(0, 120))
    ranges = [f"{first:0{width}d}"]
    for gap, length in draw(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 12)), max_size=3)):
        first += gap
        ranges.append(f"{first:0{width}d}-{first + length:0{width}d}" if length else f"{first:0{width}d}")
        first += length
    return f"[{','.join(ranges)}]"


@st.composite
def node_list(draw: st.DrawFn) -> str:
    """As Slurm 22.05 reads them: names with up to two brackets, the last of which may end the name."""
    text = st.text("abcz-", min_size=1, max_size=4).map(lambda letters: f"n{letters}x")
    names = []
    for _ in range(draw(st.integers(1, 3))):
        parts = draw(st.lists(st.tuples(text, bracket()), max_size=2))
        names.append("".join(f"{prefix}{numbers}" for prefix, numbers in parts) or draw(text))
    return ",".join(names)


@pytest.mark.skipif(shutil.which("scontrol") is None, reason="needs the package slurm-wlm")
@settings(max_examples=60, deadline=None, derandomize=True)
@given(nodes=node_list())
def test_node_lists_are_read_as_slurm_reads_them(tmp_path_factory, nodes):
    configuration = Path(tmp_path_factory.getbasetemp()) / "slurm.conf"
    configuration.write_text("ClusterName=none\nSlurmctldHost=localhost\n")
    command = ["scontrol", "show", "hostnames", nodes]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "SLURM_CONF": str(configuration)})
    assert done.returncode == 0, done.stderr
    assert hosts.expand(nodes) == done.stdout.split()
