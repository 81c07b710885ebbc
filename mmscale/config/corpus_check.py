"""How rows of a corpus are checked."""

from __future__ import annotations

from mmscale.config.base import Config


class CheckConfig(Config):
    """Which checks rows go through, and what they drop."""
