"""MindMerger without its first stage: the mapping is trained on the task alone."""

from mmscale.methods.base import Method, StageSpec

METHOD = Method(
    name="reading_in",
    title="Reading in",
    paper="",
    stages=(StageSpec("joining", prompt="dialogue", trains=("connector",)),),
)
