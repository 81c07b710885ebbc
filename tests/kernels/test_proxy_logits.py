"""The choice of a token: equal to its definition, distributed as it should be, and the same however it is cut."""

from __future__ import annotations

import pytest
import torch
from mmscale_kernels import Parts, proxy_choose
from mmscale_kernels.noise import ACCEPT, gumbel, philox, uniform
from mmscale_kernels.proxy_logits import partials
from mmscale_kernels.proxy_parts import joined_partials
from scipy import stats

from tests.kernels.proxy_cases import SETTINGS, draws, logits, one_row


def test_philox_gives_the_authors_known_answers():
    """kat_vectors of Random123 for philox4x32-10."""

    def words(counter: tuple[int, ...], key: tuple[int, ...]) -> list[str]:
        made = philox(*(tuple(torch.tensor([value]) for value in values) for values in (key, counter)))
        return [f"{int(word):08x}" for word in made]

    assert words((0, 0, 0, 0), (0, 0)) == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]
    full = 0xFFFFFFFF
    assert words((full,) * 4, (full, full)) == ["408f276d", "41c83b0e", "a20bc7c6", "6d5451fd"]
    pi = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)
    assert words(*pi) == ["d16cfe09", "94fdcceb", "5001e420", "24126ea1"]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("combines", [True, False])
def test_equals_the_definition(settings, combines):
    parts, how = logits(6, 47, extra=3, combines=combines), draws(6, **settings)
    found = proxy_choose(parts, how)
    s = parts.base.double()
    if combines:
        s = s + 0.7 * (parts.expert[:, :47].double() - parts.antiexpert[:, :47].double())
    assert found.token.tolist() == [one_row(s[n].float(), how, n)[0] for n in range(6)]
    assert torch.allclose(found.log_sum_exp.double(), s.logsumexp(-1), atol=1e-5)
    right = s.log_softmax(-1).gather(1, found.token[:, None])[:, 0]
    assert torch.allclose(found.log_probability.double(), right, atol=1e-5)


def test_truncation_is_what_transformers_does():
    from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    parts = logits(40, 53)
    settings = {"temperature": 0.9, "top_k": 12, "top_p": 0.7, "min_p": 0.04}
    warped = parts.combined()
    for warper in (
        TemperatureLogitsWarper(0.9),
        TopKLogitsWarper(12),
        TopPLogitsWarper(0.7),
        MinPLogitsWarper(0.04),
    ):
        warped = warper(None, warped)
    how = draws(40, **settings)
    noise = gumbel(how.seed, how.row, how.position, 0, 53)
    assert proxy_choose(parts, how).token.tolist() == (warped + noise).argmax(-1).tolist()
    kept = {len(one_row(parts.combined()[n], how, n)[1]) for n in range(40)}
    assert kept == set(torch.isfinite(warped).sum(-1).tolist()) and len(kept) > 3


@pytest.mark.parametrize("settings", [SETTINGS[1], SETTINGS[2], SETTINGS[5]], ids=str)
def test_draws_follow_the_distribution(settings):
    """Chi-squared over 6000 rows of the same logits."""
    base = torch.tensor([[2.0, 1.5, 1.0, 0.2, 0.0, -1.0, -1.2, -4.0, 0.9, 0.3, 0.1, 0.7]])
    parts, how = Parts(base.repeat(6000, 1)), draws(6000, **settings)
    kept = sorted(one_row(base[0], how, 0)[1])
    expected = (base[0, kept] / settings["temperature"]).double().softmax(0) * 6000
    counts = torch.bincount(proxy_choose(parts, how).token, minlength=12)
    assert counts.sum() == counts[kept].sum() == 6000
    assert stats.chisquare(counts[kept].numpy(), expected.numpy()).pvalue > 1e-3


def test_noise_is_standard():
    values = [torch.arange(50), torch.arange(50) + 2**33, torch.arange(50)]
    found = gumbel(*values, 0, 400).flatten().double()  # type: ignore[call-arg]
    assert stats.kstest(found.numpy(), stats.gumbel_r.cdf).pvalue > 1e-3
    many = torch.arange(20_000)
    assert stats.kstest(uniform(many, many * 0, many * 0 + 5, ACCEPT).numpy(), "uniform").pvalue > 1e-3
    assert not torch.equal(gumbel(*values, 0, 4), gumbel(*values, 0, 4, stream=ACCEPT))  # type: ignore[call-arg]


@pytest.mark.parametrize("cuts", [(13, 34), (1, 2, 3, 41), (16, 31)])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_cut_vocabulary_draws_the_same_tokens(cuts, temperature):
    parts, how, found, first = logits(9, 47), draws(9, temperature=temperature), [], 0
    for size in cuts:
        cut = slice(first, first + size)
        own = Parts(parts.base[:, cut], parts.expert[:, cut], parts.antiexpert[:, cut], parts.alpha)
        found.append(partials(own, how, first))
        first += size
    assert first == 47 and found[0].element_size() * found[0].shape[1] <= 32, "bytes that a rank sends for a row"
    whole, joined = partials(parts, how), joined_partials(torch.stack(found))
    assert torch.equal(joined[:, [0, 2, 3, 4]], whole[:, [0, 2, 3, 4]])
    assert torch.allclose(joined[:, 1], whole[:, 1])


def test_a_draw_does_not_depend_on_its_batch():
    parts, settings = logits(6, 31), SETTINGS[5]
    together = proxy_choose(parts, draws(6, **settings)).token.tolist()
    for n in range(6):
        alone = Parts(parts.base[n, None], parts.expert[n, None], parts.antiexpert[n, None], parts.alpha)
        assert proxy_choose(alone, draws(1, first_row=n, **settings)).token.tolist() == together[n : n + 1]


def test_what_does_not_fit_is_refused():
    parts, how = logits(3, 8), draws(3)
    with pytest.raises(ValueError, match=r"the expert's logits are \(3, 7\), and 3 x 8 or more are needed"):
        proxy_choose(Parts(parts.base, parts.expert[:, :7], parts.antiexpert, 1.0), how)
    with pytest.raises(ValueError, match="come together"):
        proxy_choose(Parts(parts.base, parts.expert), how)
    with pytest.raises(ValueError, match="one draw a row"):
        proxy_choose(parts, draws(2))
    with pytest.raises(ValueError, match="need the whole vocabulary"):
        proxy_choose(parts, draws(3, temperature=1.0, top_k=2), group=object())
