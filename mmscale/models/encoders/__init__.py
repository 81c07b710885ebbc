"""Multilingual encoders by family: one file each, the same four answers in each."""

from mmscale.models.encoders.base import Encoder, load_encoder, load_encoder_tokenizer

__all__ = ["Encoder", "load_encoder", "load_encoder_tokenizer"]
