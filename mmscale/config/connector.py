"""A connector by name, or with settings of its own, which stand in the same text."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationError

from mmscale import registry
from mmscale.config.base import Config, Named
from mmscale.errors import UserError, unknown_name

_KIND = "kind"


def one_row_each(encoder_length: int) -> int:
    """Rows that most connectors make of so many encoder tokens: one for each, and the boundary."""
    return encoder_length + 1


class ConnectorSettings(Config):
    """What can be chosen of a connector: nothing, of most."""

    def prefix_length(self, encoder_length: int) -> int:
        """Rows of the LLM's input that it makes of an encoder text of so many tokens: what stands between BOS and text, the
        boundary that ends it included."""
        return one_row_each(encoder_length)


NO_SETTINGS = ConnectorSettings()


def read_settings(name: str, known: ConnectorSettings, given: dict[str, Any]) -> ConnectorSettings:
    """A connector's settings, those that are not given as they are in `known`; UserError naming one that is wrong."""
    try:
        return type(known).model_validate({**known.model_dump(), **given})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            fields = list(type(known).model_fields)
            if not fields:
                raise UserError(f"connector {name} has no settings: leave {key} out") from error
            raise unknown_name(f"setting of connector {name}", key, fields) from error
        message = first["msg"].removeprefix("Value error, ")
        got = f", got {first['input']!r:.80}" if key else ""
        raise UserError(
            f"connector {name}: {key}{': ' if key else ''}{message[0].lower()}{message[1:]}{got}"
        ) from error


def as_text(name: str, known: ConnectorSettings, settings: ConnectorSettings) -> str:
    """A connector as configurations and model folders name it: by its name where its settings are the usual ones, else as
    JSON that holds what differs, the same for the same connector."""
    usual = known.model_dump(mode="json")
    changed = {key: value for key, value in settings.model_dump(mode="json").items() if value != usual[key]}
    return json.dumps({_KIND: name, **changed}, sort_keys=True) if changed else name


def name_and_settings(text: str) -> tuple[str, dict[str, Any]]:
    """(name, settings that are given) of a connector's text; UserError where it is neither a name nor such JSON."""
    if not text.startswith("{"):
        return text, {}
    try:
        given = json.loads(text)
        return _name_and_settings(given)
    except ValueError as error:
        raise UserError(f"connector {text:.60} is neither a name nor JSON with a kind: correct it") from error


def _name_and_settings(given: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    if not isinstance(given.get(_KIND), str):
        raise UserError("a connector with settings names its kind: {kind: NAME, SETTING: VALUE}")
    return given[_KIND], {key: value for key, value in given.items() if key != _KIND}


def _checked(value: Any) -> Any:
    """A connector with settings as its text; what pydantic collects is a ValueError."""
    if not isinstance(value, dict) and not (isinstance(value, str) and value.startswith("{")):
        return value
    try:
        name, given = _name_and_settings(value) if isinstance(value, dict) else name_and_settings(value)
        return registry.get("connectors", name).with_settings(given).text
    except UserError as error:
        raise ValueError(str(error)) from error


class _NamedConnector(Named):
    """Also one with settings."""

    def _known(self, name: str) -> str:
        return name if name.startswith("{") else super()._known(name)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> Any:
        named = super().__get_pydantic_json_schema__(schema, handler)
        section = {"type": "object", "properties": {_KIND: named}, "required": [_KIND]}
        return {"anyOf": [named, section]}


ConnectorName = Annotated[str, _NamedConnector("connectors"), BeforeValidator(_checked)]
"""A name of the registry, or a mapping of `kind` and settings, which becomes its text."""
