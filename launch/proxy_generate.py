"""What a launcher starts to answer with a proxy-tuned model on several ranks: mmscale generate, in this process.

    torchrun --nproc-per-node 8 launch/proxy_generate.py BASE --proxy TUNED UNTUNED \\
        --tensor-parallel-size 8 --input questions.txt --output answers.jsonl

`python -m mmscale.launch.proxy_generate` is the same for an installed mmscale.
"""

from __future__ import annotations

import sys

from mmscale.cli.main import program

if __name__ == "__main__":
    # the deepspeed launcher adds --local_rank=N to what it also says in LOCAL_RANK
    program(["generate", *(word for word in sys.argv[1:] if not word.startswith("--local_rank="))])
