"""Compiling every Triton kernel for GPUs that are not here, and what the compiled code takes of them.

Gates: nothing spilled, shared memory within the limit, and tensor-core instructions in products of 16-bit numbers.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mmscale_kernels.gpu import matmul, proxy_logits, rotary, rows, softmax_rows, truncation

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
SHARED_LIMIT = {"sm_80": 166_912, "sm_90": 232_448, "sm_100": 232_448, "gfx942": 65_536}
"""Bytes a block may have (CUDA C++ Programming Guide, table of compute capabilities; CDNA3 ISA, LDS)."""
_TENSOR_CORES = {"sm_80": r"\bHMMA", "sm_90": r"\bHGMMA", "sm_100": r"\bUTC\w*MMA", "gfx942": r"\bv_mfma"}
_OF_ANY_KIND = r"\b(?:HMMA|HGMMA|UTC\w*MMA|v_mfma)"
"""A tile of fewer than 64 rows is too small for the instructions of a whole warp group: it takes those of sm_80."""
DTYPES = ("bf16", "fp16", "fp32")


@dataclass(frozen=True)
class Variant:
    """One compilation of a kernel."""

    name: str
    kernel: Any
    types: dict[str, str]
    """Argument -> Triton's name of its type."""
    constants: dict[str, Any]
    warps: int
    stages: int
    product: bool
    """Whether it should use tensor cores."""


@dataclass(frozen=True)
class Resources:
    """What the code of one variant takes on one target."""

    variant: str
    target: str
    registers: int
    spilled: int
    """Instructions (NVIDIA) or registers (AMD)."""
    shared: int
    tensor_cores: int
    """Instructions."""
    faults: tuple[str, ...]


_PRODUCTS: dict[str, dict[str, Any]] = {
    "adapter: hidden": {"BIAS": True, "RELU": True},
    "adapter: merged": {"BIAS": True, "C_ROWS": True},
    "adapter: d hidden": {"KEPT": True, "A_ROWS": matmul.GATHER_M},
    "adapter: d W2": {"SUMS": True, "A_ROWS": matmul.GATHER_K},
    "adapter: d W1": {"SUMS": True},
    "adapter: d states": {},
}
_UNIT_STRIDE = {
    "adapter: hidden": ("stride_ak", "stride_bk"),
    "adapter: merged": ("stride_ak", "stride_bk"),
    "adapter: d hidden": ("stride_ak", "stride_bn"),
    "adapter: d W2": ("stride_am", "stride_bn"),
    "adapter: d W1": ("stride_am", "stride_bn"),
    "adapter: d states": ("stride_ak", "stride_bn"),
}


def _product(name: str, dtype: str, tile: matmul.Tile, title: str) -> Variant:
    pointer = f"*{dtype}"
    types = {**dict.fromkeys(("A", "B", "C", "bias", "kept"), pointer), "rows": "*i64", "sums": "*fp32"}
    types |= dict.fromkeys(
        ("M", "N", "K", "stride_am", "stride_ak", "stride_bk", "stride_bn", "stride_cm", "stride_km"), "i32"
    )
    flags = {"A_ROWS": 0, "C_ROWS": False, "BIAS": False, "RELU": False, "KEPT": False, "SUMS": False}
    blocks = {"BLOCK_M": tile.m, "BLOCK_N": tile.n, "BLOCK_K": tile.k, "GROUP": matmul.GROUP}
    constants = {**flags, **_PRODUCTS[name], **blocks, "PRECISION": "ieee", **dict.fromkeys(_UNIT_STRIDE[name], 1)}
    return Variant(
        f"{name} {dtype}{title}", matmul.matmul_kernel, types, constants, tile.warps, tile.stages, dtype != "fp32"
    )


def variants(dtypes: tuple[str, ...] = DTYPES) -> Iterator[Variant]:
    """Every kernel in every dtype and tile it is launched with."""
    for dtype in dtypes:
        tiles = {"": matmul.EXACT} if dtype == "fp32" else {"": matmul.LARGE, ", small tile": matmul.SMALL}
        for name in _PRODUCTS:
            for title, tile in tiles.items():
                yield _product(name, dtype, tile, title)
        yield from _rows(dtype)
        pointer = f"*{dtype}"
        logits = {"logits": pointer, "targets": "*i64", "columns": "i32", "row_stride": "i32"}
        block = {"BLOCK": softmax_rows.BLOCK}
        kernel = softmax_rows.statistics_kernel
        types = {**logits, "found": "*fp32", "rows": "i32"}
        yield Variant(f"softmax statistics {dtype}", kernel, types, block, softmax_rows.WARPS, 2, False)
        types = {**logits, "lse": "*fp32"}
        yield Variant(
            f"softmax gradient {dtype}", softmax_rows.gradient_kernel, types, block, softmax_rows.WARPS, 2, False
        )
        yield from _rotary(dtype)
        yield from _proxy(dtype)
        yield from _truncation(dtype)


def _rows(dtype: str) -> Iterator[Variant]:
    types = {**dict.fromkeys(("source", "kept", "out"), f"*{dtype}"), "places": "*i64", "sums": "*fp32"}
    types |= dict.fromkeys(("count", "width", "stride_source", "stride_out"), "i32")
    yield Variant(f"rows {dtype}", rows.scatter_kernel, types, {"BLOCK": rows.BLOCK}, rows.WARPS, 2, False)
    tile = rows.SUM_TILE
    for title, gathers in (("gathered", True), ("cut", False)):
        flags = {"GATHERS": gathers, "CUTS": not gathers, "ROWS": tile.rows, "COLUMNS": tile.columns}
        yield Variant(f"rows {dtype}, {title} and summed", rows.sum_kernel, types, flags, tile.warps, 2, False)


def _rotary(dtype: str) -> Iterator[Variant]:
    names = rotary.rotary_kernel.arg_names
    types = {**dict.fromkeys(names[:6], f"*{dtype}"), **dict.fromkeys(names[6:], "i32")}
    for title, backward in (("turned", False), ("turned back", True)):
        flags = {"BACKWARD": backward, "BLOCK": 64, "HEADS": rotary.HEADS}
        yield Variant(f"rotary {dtype}, {title}", rotary.rotary_kernel, types, flags, rotary.WARPS, 2, False)


def _proxy(dtype: str) -> Iterator[Variant]:
    pointer = f"*{dtype}"
    types = dict.fromkeys(("base", "expert", "antiexpert"), pointer)
    types |= dict.fromkeys(("temperatures", "limits", "top_ps", "min_ps", "found"), "*fp32")
    types |= dict.fromkeys(("seeds", "rows", "positions", "top_ks"), "*i64")
    types |= dict.fromkeys(("columns", "span", "first", "stride_base", "stride_expert", "stride_antiexpert"), "i32")
    types["alpha"] = "fp32"
    for title, sampled, truncated in (("greedy", False, False), ("sampled", True, False), ("truncated", True, True)):
        flags = {"COMBINES": True, "SAMPLED": sampled, "TRUNCATED": truncated, "BLOCK": proxy_logits.BLOCK}
        name = f"proxy logits {dtype}, {title}"
        yield Variant(name, proxy_logits.partials_kernel, types, flags, proxy_logits.WARPS, 2, False)
    types["stretches"] = "i32"
    outputs = {"tokens": "*i64", "log_probabilities": "*fp32", "log_sums": "*fp32"}
    yield Variant(f"proxy choice {dtype}", proxy_logits.choice_kernel, types | outputs, {"PADDED": 64}, 1, 2, False)


def _truncation(dtype: str) -> Iterator[Variant]:
    types = dict.fromkeys(("base", "expert", "antiexpert"), f"*{dtype}")
    types |= dict.fromkeys(("temperatures", "top_ps", "min_ps", "tops", "masses", "listed", "found"), "*fp32")
    types |= {"top_ks": "*i64", "counts": "*i32", "alpha": "fp32"}
    types |= dict.fromkeys(("columns", "blocks", "stride_base", "stride_expert", "stride_antiexpert"), "i32")
    flags = {"COMBINES": True, "BLOCK": truncation.BLOCK}
    room = {"ROOM": truncation.ROOM, "PADDED": 64}
    search = {"BITS": truncation.BITS, "BLOCK": truncation.SEARCH_BLOCK}
    for title, kernel, more in (
        ("blocks", truncation.blocks_kernel, {}),
        ("collected", truncation.collect_kernel, room),
        ("thresholds", truncation.thresholds_kernel, room | search),
    ):
        yield Variant(f"truncation {dtype}, {title}", kernel, types, flags | more, truncation.WARPS, 2, False)


def compile_for(variant: Variant, target: str) -> Resources:
    """Compile one variant and read what it takes."""
    names = variant.kernel.arg_names
    signature = {name: "constexpr" if name in variant.constants else variant.types[name] for name in names}
    constants = {(names.index(name),): value for name, value in variant.constants.items()}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name] != "constexpr"}
    source = ASTSource(variant.kernel, signature, constants, aligned)
    options = {"num_warps": variant.warps, "num_stages": variant.stages}
    compiled = triton.compile(source, target=TARGETS[target], options=options)
    read = _amd if target.startswith("gfx") else _nvidia
    registers, spilled, code = read(compiled)
    whole = variant.constants.get("BLOCK_M", 0) >= 64
    shared = int(compiled.metadata.shared)
    tensor = len(re.findall(_TENSOR_CORES[target] if whole else _OF_ANY_KIND, code))
    faults = []
    if spilled:
        faults.append(f"{spilled} spills")
    if shared > SHARED_LIMIT[target]:
        faults.append(f"{shared:,} bytes of shared memory, {SHARED_LIMIT[target]:,} are there")
    if variant.product and not tensor:
        faults.append("no tensor-core instruction")
    return Resources(variant.name, target, registers, spilled, shared, tensor, tuple(faults))


def _nvidia(compiled: Any) -> tuple[int, int, str]:
    """(registers, spilling instructions, machine code) by NVIDIA's own tools, which Triton brings."""
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _said(tools / "cuobjdump", "--dump-resource-usage", file.name)
        code = _said(tools / "nvdisasm", "-c", file.name)
    found = re.search(r"REG:(\d+)", usage)
    return int(found[1]) if found else 0, len(re.findall(r"\b(?:STL|LDL)\b", code)), code


def _amd(compiled: Any) -> tuple[int, int, str]:
    code: str = compiled.asm["amdgcn"]
    registers = re.search(r"\.vgpr_count:\s*(\d+)", code)
    spilled = sum(int(number) for number in re.findall(r"\.[sv]gpr_spill_count:\s*(\d+)", code))
    return int(registers[1]) if registers else 0, spilled, code


def _said(*command: object) -> str:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True).stdout
