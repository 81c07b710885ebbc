"""Where models come from and how they are held in memory."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from mmscale.config.base import Config, EncoderFamily

DType = Literal["float32", "bfloat16", "float16", "float64"]
AddedToken = Annotated[str, Field(min_length=1, max_length=64)]


DEFAULT_CONNECTOR = "mlp"
"""MindMerger's mapping."""


class LanguageModelConfig(Config):
    """A causal language model that transformers loads: LLaMA, Mistral, Qwen2 and newer of their kind."""

    path: str
    """Local folder, hub id, or `tinyworld:NAME` for an embedded model."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    dtype: DType = "float32"
    """How the weights are held."""
    quantization: Literal["none", "nf4", "int8"] = "none"
    """How the linear layers of a frozen model are held, by bitsandbytes; one that is trained stays as it is."""
    attention: Literal["auto", "packed_sdpa", "flash_attention_2", "flash_attention_3", "torch_varlen"] = "auto"
    """`auto` takes flash-attn where it is installed on a GPU (3 on Hopper, else 2), else `torch_varlen`, PyTorch's own variable-length
    flash-attention (2.11 and newer, in 16 bits, without dropout), else `packed_sdpa`, torch's SDPA on packed rows."""
    trust_remote_code: bool = False
    """Run Python code that the model's folder brings."""
    bos_token: str | None = None
    """Begin token, only where neither tokenizer nor model config names one (Qwen: taken from the model config)."""
    eos_token: str | None = None
    """End token, only where neither tokenizer nor model config names one."""


class EncoderConfig(Config):
    """A multilingual encoder: its family decides tokens, language codes and which half is loaded."""

    path: str
    """Local folder, hub id, or `tinyworld:NAME` for an embedded one."""
    family: EncoderFamily = "auto"
    """Name of a family (`mmscale list encoders`); `auto` finds it by the checkpoint's model type."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    dtype: DType = "float32"
    """How the weights are held."""
    added_tokens: tuple[AddedToken, ...] = ()
    """Tokens that its tokenizer is given, such as line breaks and runs of spaces; a stage has to train their rows."""
    trust_remote_code: bool = False
    """Run Python code that the model's folder brings."""

    @field_validator("added_tokens")
    @classmethod
    def _each_once(cls, tokens: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(tokens)) < len(tokens):
            raise ValueError("name each token once")
        return tokens
