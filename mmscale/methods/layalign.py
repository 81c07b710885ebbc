"""LayAlign (Ruan et al. 2025, arXiv 2502.11405): MindMerger, and every LLM layer reads a learned mix of all encoder layers."""

from mmscale.methods.base import Method, StageSpec

METHOD = Method(
    name="layalign",
    title="LayAlign",
    paper="arXiv 2502.11405",
    stages=(
        StageSpec("translation", prompt="mapping", trains=("connector",)),
        StageSpec("task", prompt="mindmerger_math", trains=("connector",)),
    ),
    connector="layalign",
)
