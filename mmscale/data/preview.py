"""Exactly what a model will see: a packed row taken apart again, segment by segment, decoded."""

from __future__ import annotations

from typing import Any

from mmscale.data.packing import IGNORED, PackedRow

STYLES = {"bos": "bold magenta", "encoder": "green", "boundary": "bold magenta", "prompt": "cyan", "target": "yellow"}
Segment = tuple[str, str]
"""(kind, text)"""


def segments(row: PackedRow, tokenizer: Any, encoder_tokenizer: Any = None) -> list[list[Segment]]:
    """(kind, decoded text) of every segment of every example of a packed row, read back from its tensors."""
    examples = []
    tokens = dict(zip(row.token_rows.tolist(), row.token_ids.tolist(), strict=True))
    labels = row.labels.tolist()
    encoder_parts = row.encoder.token_ids.split(row.encoder.lengths) if row.encoder is not None else None
    begin = 0
    for number, length in enumerate(row.lengths):
        places = range(begin, begin + length)
        first_label = next((p for p in places if labels[p] != IGNORED), begin + length - 1)
        prompt = [tokens[p] for p in range(begin + 1, first_label + 1) if p in tokens]
        target = [labels[p] for p in places if labels[p] != IGNORED]
        parts: list[Segment] = [("bos", str(tokenizer.convert_ids_to_tokens(tokens[begin])))]
        if encoder_parts is not None:
            parts += [("encoder", encoder_tokenizer.decode(encoder_parts[number])), ("boundary", "<boundary>")]
        parts += [("prompt", tokenizer.decode(prompt)), ("target", tokenizer.decode(target))]
        examples.append([part for part in parts if part[1]])
        begin += length
    return examples
