"""Checkpoints of other programs turned into what mmscale and transformers load: one file a format."""
