"""MindMerger-Hard (Huang et al. 2024, arXiv 2405.17386): an LLM that is not trained reads a translation beside the question."""

from mmscale.methods.base import Method

METHOD = Method(
    name="mindmerger_hard",
    title="MindMerger-Hard",
    paper="arXiv 2405.17386",
    stages=(),
    prompt="mindmerger_hard",
)
