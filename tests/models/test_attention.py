"""Which attention packed rows take, and how each library is called."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    AttentionInterface,
)

from mmscale.data.segments import SpecialTokens
from mmscale.errors import UserError
from mmscale.models import attention, varlen
from mmscale.models.attention import choose
from mmscale.models.language_model import LanguageModel
from mmscale.models.packed_layout import PackedLayout
from mmscale.models.varlen import flash_3, padded_sdpa, torch_varlen
from tests.conftest import random_causal_lm


def test_pytorchs_own_variable_length_attention_is_called_as_it_asks():
    """Shapes of output and gradients on the meta device; there is no CPU kernel."""
    layout = PackedLayout((6, 1, 3), torch.device("meta"))
    rows = [torch.empty(10, heads, 64, device="meta", dtype=torch.bfloat16, requires_grad=True) for heads in (4, 2, 2)]
    for window in (None, 4):
        out = torch_varlen(*rows, layout, 0.125, 0.0, window)  # type: ignore[call-arg]
        assert (out.shape, out.dtype) == (rows[0].shape, torch.bfloat16)
        gradients = torch.autograd.grad(out.sum(), rows)
        assert [g.shape for g in gradients] == [r.shape for r in rows]
    with pytest.raises(UserError, match="computes in 16 bits and without dropout, not with float32: set dtype"):
        torch_varlen(*(row.float() for row in rows), layout, 0.125, 0.0, None)  # type: ignore[call-arg]
    with pytest.raises(UserError, match="not with dropout"):
        torch_varlen(*rows, layout, 0.125, 0.1, None)  # type: ignore[call-arg]


@pytest.mark.parametrize("window", [None, 4])
def test_grouped_heads_are_spread_where_pytorchs_own_attention_knows_none(monkeypatch, window):
    """A stand-in with the signature of torch 2.11's, which no CPU can run."""
    layout = PackedLayout((6, 1, 3), torch.device("cpu"))

    def varlen_attn(
        query,
        key,
        value,
        cu_seq_q,
        cu_seq_k,
        max_q,
        max_k,
        *,
        return_aux=None,
        scale=None,
        window_size=(-1, -1),
    ):
        assert query.shape == key.shape == value.shape and cu_seq_q.tolist() == [0, 6, 7, 10] and window_size[1] == 0
        return padded_sdpa(query, key, value, layout, scale, 0.0, None if window is None else window_size[0] + 1)

    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", SimpleNamespace(varlen_attn=varlen_attn))
    rows = [torch.randn(10, heads, 8, dtype=torch.bfloat16, requires_grad=True) for heads in (4, 2, 2)]
    upstream = torch.randn(10, 4, 8)
    out, right = torch_varlen(*rows, layout, 0.3, 0.0, window), padded_sdpa(*rows, layout, 0.3, 0.0, window)  # type: ignore[call-arg]
    assert torch.equal(out, right)
    for found, exact in zip(*(torch.autograd.grad(one, rows, upstream.to(one)) for one in (out, right)), strict=True):
        assert torch.allclose(found, exact, rtol=2e-2, atol=2e-2)


def test_every_attention_gets_16_bits_under_autocast():
    """Also of a float32 model, whose rotations make float32 queries and keys; SDPA would cast them itself, others refuse."""
    seen = []

    def attends(query, key, value, *more):
        seen.append({query.dtype, key.dtype, value.dtype})
        return padded_sdpa(query, key, value, *more)

    AttentionInterface.register("of_a_test", attention._attend(attends))
    model = LanguageModel(random_causal_lm("llama", "of_a_test").float(), None, SpecialTokens(1, 2))
    places = torch.arange(5)
    for precise in (True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not precise):
            model.hidden(model.embed(places), places, PackedLayout((5,), torch.device("cpu")))
        assert set.union(*seen) == {torch.float32 if precise else torch.bfloat16}
        seen.clear()


@pytest.mark.parametrize("returns_sums", [False, True], ids=["output", "output and log-sum-exp"])
@pytest.mark.parametrize("window", [None, 4])
def test_flash_attention_3_is_called_as_it_asks(monkeypatch, returns_sums, window):
    """A stand-in with the signature of flash-attention's hopper/flash_attn_interface.py, which no CPU can run."""

    def flash_attn_varlen_func(
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        *,
        softmax_scale,
        causal,
        window_size,
        deterministic,
    ):
        assert causal and not deterministic and (max_seqlen_q, max_seqlen_k) == (6, 6)
        assert cu_seqlens_q.tolist() == cu_seqlens_k.tolist() == [0, 6, 7, 10]
        left, right = window_size
        out = padded_sdpa(q, k, v, layout, softmax_scale, 0.0, None if left < 0 else left + 1)
        assert right == (-1 if left < 0 else 0)
        return (out, None) if returns_sums else out

    module = SimpleNamespace(flash_attn_varlen_func=flash_attn_varlen_func)
    monkeypatch.setitem(sys.modules, "flash_attn_interface", module)
    layout = PackedLayout((6, 1, 3), torch.device("cpu"))
    rows = [torch.randn(10, heads, 8) for heads in (4, 2, 2)]
    right = padded_sdpa(*rows, layout, 0.3, 0.0, window)  # type: ignore[call-arg]
    assert torch.equal(flash_3(*rows, layout, 0.3, 0.0, window), right)  # type: ignore[call-arg]
    with pytest.raises(UserError, match="flash_attention_3 has no dropout"):
        flash_3(*rows, layout, 0.3, 0.1, window)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("installed", "capability", "windows", "best"),
    [
        ({"flash_attn", "flash_attn_interface"}, 9, True, attention.PACKED_FLASH_3),
        ({"flash_attn", "flash_attn_interface"}, 8, True, attention.PACKED_FLASH),
        ({"flash_attn"}, 9, True, attention.PACKED_FLASH),
        (set(), 9, True, attention.PACKED_TORCH_OR_SDPA),
        (set(), 9, False, attention.PACKED_SDPA),
        (set(), 7, True, attention.PACKED_SDPA),
    ],
)
def test_auto_takes_the_best_that_is_installed(monkeypatch, installed, capability, windows, best):
    monkeypatch.setattr(attention, "_installed", lambda module: module in installed)
    monkeypatch.setattr(attention.varlen, "torch_has_windows", lambda: windows)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (capability, 0))
    assert choose("auto", torch.device("cuda")) == best
    assert choose("packed_sdpa", torch.device("cuda")) == attention.PACKED_SDPA


@pytest.mark.parametrize(
    ("dtype", "width", "dropout", "taken"),
    [
        (torch.bfloat16, 64, 0.0, True),
        (torch.float16, 8, 0.0, True),
        (torch.float32, 64, 0.0, False),
        (torch.float64, 64, 0.0, False),
        (torch.bfloat16, 64, 0.1, False),
        (torch.bfloat16, 20, 0.0, False),
        (torch.bfloat16, 256, 0.0, False),
    ],
)
def test_auto_takes_pytorchs_own_attention_for_rows_it_is_for(monkeypatch, dtype, width, dropout, taken):
    asked = []
    monkeypatch.setattr(varlen, "torch_varlen", lambda q, *_: asked.append("varlen") or q)
    layout = PackedLayout((6, 1, 3), torch.device("cpu"))
    rows = [torch.randn(10, heads, width, dtype=dtype) for heads in (4, 2, 2)]
    torch.manual_seed(0)
    out = varlen.torch_varlen_or_sdpa(*rows, layout, 0.3, dropout, 4)  # type: ignore[call-arg]
    assert asked == (["varlen"] if taken else [])
    torch.manual_seed(0)
    assert torch.equal(out, rows[0] if taken else padded_sdpa(*rows, layout, 0.3, dropout, 4))  # type: ignore[call-arg]


@pytest.mark.parametrize("precision", ["fp32", "autocast"])
def test_a_model_that_attends_by_auto_on_a_gpu_follows_autocast(monkeypatch, precision):
    """A float32 model's queries are 16 bits under autocast: they are decided on after that cast."""
    asked = []
    monkeypatch.setattr(varlen, "torch_varlen", lambda *rows: asked.append(rows[0].dtype) or padded_sdpa(*rows))
    model = LanguageModel(random_causal_lm("llama", attention.PACKED_TORCH_OR_SDPA).float(), None, SpecialTokens(1, 2))
    places = torch.arange(5)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "autocast"):
        model.hidden(model.embed(places), places, PackedLayout((5,), torch.device("cpu")))
    assert set(asked) == ({torch.bfloat16} if precision == "autocast" else set())


def test_no_attention_compiles_a_kernel_for_every_shape():
    """cuDNN's would; torch takes it first on Hopper and later."""
    assert not torch.backends.cuda.cudnn_sdp_enabled() and torch.backends.cuda.flash_sdp_enabled()


@pytest.mark.parametrize("wanted", ["torch_varlen", "flash_attention_2", "flash_attention_3"])
def test_an_attention_that_cannot_be_had_is_refused(wanted):
    with pytest.raises(UserError, match=f"language_model.attention={wanted} needs a (CUDA device|Hopper GPU)"):
        choose(wanted, torch.device("cpu"))
