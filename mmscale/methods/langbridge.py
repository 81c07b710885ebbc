"""LangBridge (Yoon et al. 2024, arXiv 2401.10695): one linear layer from a frozen encoder, trained on English alone."""

from mmscale.methods.base import Method, StageSpec

METHOD = Method(
    name="langbridge",
    title="LangBridge",
    paper="arXiv 2401.10695",
    stages=(StageSpec("alignment", prompt="langbridge", trains=("connector",)),),
    connector="langbridge",
)
