"""Multilingual chain-of-thought tuning, mCoT (Lai & Nissim 2024, arXiv 2406.02301): full fine-tuning, one stage."""

from mmscale.methods.base import Method, StageSpec

METHOD = Method(
    name="multilingual_cot",
    title="Multilingual CoT",
    paper="arXiv 2406.02301",
    stages=(StageSpec("tuning", prompt="mcot", trains=("language_model",)),),
)
