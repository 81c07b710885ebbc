"""Intervals and consistency against numbers worked out by hand."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from mmscale.errors import UserError
from mmscale.evaluation.answers import rule
from mmscale.evaluation.consistency import consistency
from mmscale.evaluation.statistics import gap_closed, paired_bootstrap, wilson_interval


def test_wilson_interval_by_hand():
    """8 of 10, z = 1.96: centre (0.8 + 0.19208) / 1.38416, half-width as in Wilson (1927)."""
    low, high = wilson_interval(8, 10)
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
def test_wilson_interval_is_scipys(confidence):
    for correct, n in ((0, 1), (1, 1), (0, 250), (3, 250), (249, 250), (250, 250), (1, 10**6), (527, 1319)):
        theirs = binomtest(correct, n).proportion_ci(confidence, method="wilson")
        assert wilson_interval(correct, n, confidence) == pytest.approx((theirs.low, theirs.high), rel=1e-12, abs=1e-15)


def test_paired_bootstrap_sees_a_real_gain_and_no_false_one():
    before = [False] * 60 + [True] * 40
    after = [True] * 30 + [False] * 30 + [True] * 40
    gain = paired_bootstrap(before, after)
    assert gain.difference == pytest.approx(0.3)
    assert 0.2 < gain.interval[0] < 0.3 < gain.interval[1] < 0.4 and gain.p_value < 0.001
    mixed = [not value if i % 2 else value for i, value in enumerate(before)]
    assert paired_bootstrap(before, before).p_value == 1.0
    assert paired_bootstrap([False] * 99, [True] * 99).p_value == pytest.approx(2 / 10_001), (
        "10,000 samples show no zero"
    )
    assert paired_bootstrap(before, mixed).interval[0] < 0.1
    with pytest.raises(ValueError, match="same rows"):
        paired_bootstrap([True], [True, False])


def test_consistency_by_hand():
    """Four questions: both right; both wrong alike; both wrong unlike; only a right."""
    a = [("1", True), ("7", False), ("8", False), ("4", True)]
    b = [("1", True), ("7", False), ("9", False), ("5", False)]
    found = consistency({"de": a, "fr": b}, rule("mcot"))
    cc, ic = found.cc, found.ic
    assert cc["de"]["fr"] == cc["fr"]["de"] == 1 / 4
    assert ic["de"]["fr"] == ic["fr"]["de"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert cc["de"]["de"] == 2 / 4 and ic["de"]["de"] == 1.0 and found.wrong == {"de": 2, "fr": 3}


@pytest.mark.parametrize("name", ["default", "last_number", "mcot", "proxy_gsm", "exact"])
def test_no_answer_is_nobodys_equal(name):
    chosen = rule(name)
    silent = "" if name == "exact" else "I do not know."
    verdicts = [chosen.correct(silent, "7", "de")] * 3
    assert consistency({"de": verdicts, "fr": verdicts}, chosen).ic["de"]["fr"] == 0


def test_nothing_wrong_leaves_no_share_of_it():
    right = [("1", True)] * 3
    assert consistency({"de": right, "fr": right}, rule("mcot")).ic["de"]["fr"] is None


def test_unequal_rows_are_refused():
    with pytest.raises(UserError, match="same questions in every language"):
        consistency({"de": [("1", True)], "fr": []}, rule("mcot"))


def test_the_gap_that_is_closed():
    base, steered, tuned = [False] * 80 + [True] * 20, [False] * 40 + [True] * 60, [False] * 20 + [True] * 80
    found = gap_closed(base, steered, tuned)
    assert found.share == pytest.approx(40 / 60) and found.interval[0] < 40 / 60 < found.interval[1]
    assert found.interval[0] > 0.5 and found.interval[1] < 0.85
    assert gap_closed(base, tuned, tuned).share == 1 and gap_closed(base, base, tuned).share == 0
    assert gap_closed(tuned, base, base) is None
