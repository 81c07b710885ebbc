"""How programs that a model wrote are run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mmscale.config.base import Config


class ExecutionConfig(Config):
    """Programs of a model run in isolation: rule `program` and `mmscale bench programs`."""

    isolation: Literal["bubblewrap", "none"] = "bubblewrap"
    """`bubblewrap` puts each program in a sandbox without network, files or other processes; `none` runs it as you, with limits
    alone: a program can then read every file that you can. Without bubblewrap installed, only `none` runs any."""
    seconds: float = Field(default=5.0, ge=0.1, le=3600)
    """Processor time that a program may take, whole seconds counted; by the clock it may take twice that and a second more."""
    memory_mib: int = Field(default=1024, ge=64, le=1 << 20)
    """Address space a program may take beyond that of the interpreter, in MiB."""
    workers: int | None = Field(default=None, ge=1, le=1024)
    """Programs run at once, by each process that scores; null is one for each processor it may use."""
