"""Where models come from and how they are held in memory."""

from __future__ import annotations

from typing import Literal

from mmscale.config.base import Config

DType = Literal["float32", "bfloat16", "float16", "float64"]


class LanguageModelConfig(Config):
    """A causal language model that transformers loads: LLaMA, Mistral, Qwen2 and newer of their kind."""

    path: str
    """Local folder, hub id, or `tinyworld:NAME` for an embedded model."""
    revision: str | None = None
    dtype: DType = "float32"
    quantization: Literal["none", "nf4", "int8"] = "none"
    """Of the linear layers of a frozen model, by bitsandbytes; one that is trained stays as it is."""
    attention: Literal["auto", "packed_sdpa", "flash_attention_2", "flash_attention_3", "torch_varlen"] = "auto"
    """`auto` takes flash-attn where it is installed on a GPU (3 on Hopper, else 2), else torch's SDPA on packed rows; `torch_varlen` is PyTorch's
    own variable-length flash-attention, for a GPU without flash-attn."""
    trust_remote_code: bool = False
    bos_token: str | None = None
    """Only where neither tokenizer nor model config names one (Qwen: taken from the model config)."""
    eos_token: str | None = None


class EncoderConfig(Config):
    """A multilingual encoder: its family decides tokens, language codes and which half is loaded."""

    path: str
    family: Literal["auto", "t5", "m2m100", "xlm_roberta", "decoder"] = "auto"
    revision: str | None = None
    dtype: DType = "float32"
    trust_remote_code: bool = False
