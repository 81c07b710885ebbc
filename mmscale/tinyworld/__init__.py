"""The embedded default: word problems in MGSM's eleven languages, a tokenizer, tiny LLMs and a tiny encoder."""
