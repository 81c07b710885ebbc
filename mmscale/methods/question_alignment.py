"""Question alignment (Zhu et al. 2024, arXiv 2401.07817): full fine-tuning in two stages."""

from mmscale.methods.base import Method, StageSpec

METHOD = Method(
    name="question_alignment",
    title="Question alignment",
    paper="arXiv 2401.07817, 2405.01345",
    stages=(
        StageSpec("translation", prompt="question_translation", trains=("language_model",)),
        StageSpec("response", prompt="alpaca", trains=("language_model",)),
    ),
)
