"""Single bits that flip in a file, as a bad disk or cable makes them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path


def flips(path: Path, count: int, seed: int = 0) -> Iterator[int]:
    """The place of each flip while it is in the file: at both ends, in the header, anywhere; afterwards it is whole."""
    whole = path.read_bytes()
    generator = random.Random(seed)
    places = [0, 7, 8, min(60, len(whole) - 1), len(whole) - 1]
    places += [generator.randrange(min(len(whole), 600)) for _ in range(count // 2)]
    places += [generator.randrange(len(whole)) for _ in range(count // 2)]
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 1 << generator.randrange(8)
        path.write_bytes(bytes(changed))
        yield place
    path.write_bytes(whole)
