"""The one exception that means "you can fix this": its text is shown as it is, with exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable


class UserError(Exception):
    """A mistake in a user's file, key or command line, told in one sentence that names the remedy."""


class NotHereYet(UserError):
    """A file, folder or hub repository that is named but not at hand; a dry run goes on without it."""


class BadRow(Exception):
    """One row of a data file that can't be read; counted and kept out until too many share its fate."""


class LeftOut(Exception):
    """One row of a data file that was not asked for, of another language for example; counted by its reason."""


def told(action: Callable[[], object]) -> str | None:
    """The sentence of the UserError in which an action ends, for ranks that have to agree on it; None where it ends well."""
    try:
        action()
    except UserError as error:
        return str(error)
    return None


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> UserError:
    """The error for a name that is not in a registry, naming the nearest valid one."""
    names = sorted(valid)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"valid: {', '.join(names)}"
    return UserError(f"unknown {kind} '{name}': {hint}")


class Interrupted(Exception):
    """Work was stopped from outside by a signal or a time limit; everything done is saved, the same command goes on."""

    def __init__(self, reason: str, signal_number: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.exit_code = 128 + signal_number if signal_number else 0
        """As a shell would say of a process that the signal ended; 0 of a limit that was set."""
