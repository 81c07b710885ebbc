"""What a launcher starts: one stage of one method, in this process.

    python launch/train.py configs/quickstart.yaml mindmerger.mapping [key=value …]

`python -m mmscale.launch.train` is the same for an installed mmscale.
"""

from __future__ import annotations

import sys

from mmscale.cli.main import program

if __name__ == "__main__":
    # the deepspeed launcher adds --local_rank=N to what it also says in LOCAL_RANK
    program(["train", *(word for word in sys.argv[1:] if not word.startswith("--local_rank="))])
