"""A connector that is trained on the task alone, and then the language model behind it."""

from mmscale.methods.base import Method, StageSpec

METHOD = Method(
    name="reading_in",
    title="Reading in",
    paper="",
    stages=(
        StageSpec("joining", prompt="dialogue", trains=("connector",)),
        StageSpec("tuning", prompt="dialogue", trains=("language_model",)),
    ),
)
