"""mmscale: give an LLM that reasons in English the same ability in other languages."""

__version__ = "0.1.0"
