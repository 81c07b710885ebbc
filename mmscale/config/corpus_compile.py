"""How checked rows become a corpus for training."""

from __future__ import annotations

from mmscale.config.base import Config


class CompileConfig(Config):
    """Mixture, splits and shards of the compiled corpus."""
