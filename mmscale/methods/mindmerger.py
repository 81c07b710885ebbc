"""MindMerger (Huang et al. 2024, arXiv 2405.17386): a mapping from a frozen encoder into a frozen LLM."""

from mmscale.methods.base import Method, StageSpec

METHOD = Method(
    name="mindmerger",
    title="MindMerger",
    paper="arXiv 2405.17386",
    stages=(
        StageSpec("mapping", prompt="mapping", trains=("connector",)),
        StageSpec("augmentation", prompt="mindmerger_math", trains=("connector",)),
    ),
)
