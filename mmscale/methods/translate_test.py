"""Translate-test (Translate-EN of Shi et al. 2022, arXiv 2210.03057): an LLM that is not trained reads a translation alone."""

from mmscale.methods.base import Method

METHOD = Method(
    name="translate_test",
    title="Translate-test",
    paper="arXiv 2210.03057",
    stages=(),
    prompt="translate_test",
)
