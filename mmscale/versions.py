"""Which releases of its libraries this version of mmscale works with.

pyproject.toml says how old they may be, and CI runs with the oldest and with the newest there are (.ci/versions). A release
that is newer than all of those is used; what fails with it is told in one sentence.
"""

from __future__ import annotations

import functools
from importlib import metadata

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

from mmscale.errors import UserError

TRIED = {"torch": "2.14", "transformers": "5.24", "deepspeed": "0.19", "megatron-core": "0.16", "bitsandbytes": "0.50"}
"""The newest release of each that a real run was seen to work with."""


@functools.cache
def require_known_versions(extra: str = "") -> None:
    """UserError when a library is older than pyproject.toml allows, as pip lets it be when something else asked for it later.

    With an extra, the libraries that belong to it are looked at.
    """
    for text in _requirements():
        try:
            wanted = Requirement(text)
        except InvalidRequirement:
            continue
        belongs = wanted.marker.evaluate({"extra": extra}) if wanted.marker else not extra
        installed = _version(wanted.name) if belongs else None
        if installed is not None and not wanted.specifier.contains(installed, prereleases=True):
            raise UserError(
                f"{wanted.name} {installed} is installed, mmscale needs {wanted.name}{wanted.specifier}: "
                f"pip install '{wanted.name}{wanted.specifier}'"
            )


def untried() -> list[str]:
    """Libraries newer than any that was tried, with the command that brings the newest tried one back."""
    wrong = []
    for name, tried in TRIED.items():
        version = _version(name)
        if version is not None and (version.major, version.minor) > Version(tried).release[:2]:
            major, minor = Version(tried).release[:2]
            wrong.append(
                f"{name} {version} is newer than {tried}, the newest that mmscale was tried with: "
                f"pip install '{name}<{major}.{minor + 1}'"
            )
    return wrong


def _requirements() -> list[str]:
    try:
        return metadata.requires("mmscale") or []
    except metadata.PackageNotFoundError:  # run from its folder, without having been installed
        return []


def _version(name: str) -> Version | None:
    try:
        return Version(metadata.version(name))
    except (metadata.PackageNotFoundError, InvalidVersion):
        return None
