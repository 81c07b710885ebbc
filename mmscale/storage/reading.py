"""Text from outside: lines, JSON and YAML, each complaint one sentence that names file and line."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import IO, Any

import yaml

from mmscale.errors import NotHereYet, UserError

KeyPath = tuple[int | str, ...]
"""Keys and list indices that lead to a value."""
_BLOCK_BYTES = 1 << 20
_MAX_DEPTH = 100
"""Most levels of values inside values in a YAML file; a configuration has eight."""
_MAX_NODES = 100_000
"""Values of a YAML file with every alias written out."""
_LONE_SURROGATE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F]"
)
_LONG_NUMBER = re.compile(r"\d{4301}")  # what Python converts without being asked, CPython's int_max_str_digits


class NotJson(ValueError):
    """Text that is no JSON a program can use; `line` counts from 1."""

    def __init__(self, reason: str, line: int) -> None:
        super().__init__(reason)
        self.line = line


def cannot_read(path: Path, error: OSError) -> UserError:
    """What to tell when a file cannot be opened."""
    return UserError(f"cannot read {path}: {error.strerror or error}; check its path and permissions")


def is_file(path: Path) -> bool:
    """Whether there is a regular file; UserError where nobody may look, or for a name that no file system takes."""
    try:
        return path.is_file()
    except OSError as error:
        raise cannot_read(path, error) from error


def existing_file(path: Path, what: str) -> Path:
    """`path` itself, or a UserError that says which file is looked for."""
    if not is_file(path):
        kind = UserError if path.exists() else NotHereYet  # a folder or a device will not become a file
        raise kind(f"{what} not found: {path} is not a file; check the path in the configuration")
    return path


def open_bytes(path: Path) -> IO[bytes]:
    """A regular file opened for reading; UserError when it is none or may not be read."""
    try:
        return open(existing_file(path, "data file"), "rb")
    except OSError as error:
        raise cannot_read(path, error) from error


def _decoded(path: Path, number: int, raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}:{number} is not UTF-8 (byte {error.start + 1} of the line): convert the file, "
            f"for example with iconv -f ISO-8859-1 -t UTF-8"
        ) from error


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    r"""(line number from 1, text without its newline) for each line of a UTF-8 file, a BOM removed.

    Only `\n` and `\r\n` end a line: U+2028 and friends occur inside published questions.
    Raises UserError naming file and line when a line is not UTF-8.
    """
    with open_bytes(path) as handle:
        lines = enumerate(handle, start=1)
        while True:
            try:
                number, raw = next(lines)
            except StopIteration:
                return
            except OSError as error:  # a disk that fails, a folder or device that opens and cannot be read
                raise cannot_read(path, error) from error
            yield number, _text(path, number, raw)


def line_pieces(
    path: Path, size: int, wanted: Callable[[int], bool]
) -> Iterator[tuple[int, Iterator[tuple[int, str]]]]:
    """(number, `numbered_lines` of it) of each piece that is wanted; a piece is the lines that begin within `size` bytes.

    What stands between is passed over for its number of lines alone, and what stands behind is not read.
    """
    with open_bytes(path) as handle:
        line = 1
        for piece in range(-(-os.fstat(handle.fileno()).st_size // size)):
            if not wanted(piece):
                continue
            try:
                line += _skip_lines(handle, piece * size)
                lines = _raw_lines(handle, (piece + 1) * size)
            except OSError as error:
                raise cannot_read(path, error) from error
            yield piece, _texts(path, line, lines)
            line += len(lines)


def count_lines(path: Path) -> int:
    """How many lines a file has, a last one without its newline too."""
    count, last = 0, b"\n"
    with open_bytes(path) as handle:
        try:
            while block := handle.read(_BLOCK_BYTES):
                count, last = count + block.count(b"\n"), block[-1:]
        except OSError as error:
            raise cannot_read(path, error) from error
    return count + (last != b"\n")


def _skip_lines(handle: IO[bytes], begin: int) -> int:
    """Go to the first line that begins at this byte or behind it; how many lines were passed over."""
    left, passed = begin - 1 - handle.tell(), 0
    if left < 0:
        return 0
    while left and (block := handle.read(min(left, _BLOCK_BYTES))):
        passed += block.count(b"\n")
        left -= len(block)
    return passed + bool(handle.readline())


def _raw_lines(handle: IO[bytes], end: int) -> list[bytes]:
    lines, at = [], handle.tell()
    while at < end and (line := handle.readline()):
        lines.append(line)
        at += len(line)
    return lines


def _texts(path: Path, first: int, lines: list[bytes]) -> Iterator[tuple[int, str]]:
    for number, raw in enumerate(lines, first):
        yield number, _text(path, number, raw)


def _text(path: Path, number: int, raw: bytes) -> str:
    return _decoded(path, number, raw).rstrip("\n").removesuffix("\r")


def read_text(path: Path) -> str:
    r"""A whole UTF-8 file, a BOM removed, `\r\n` as `\n`; UserError naming the first line that is not UTF-8."""
    return "\n".join(text for _, text in numbered_lines(path))


def _too_deep_at(text: str) -> int:
    """The line on which brackets first stand deeper than any data needs, strings not told apart."""
    depth = 0
    for bracket in re.finditer(r"[\[{\]}]", text):
        depth += 1 if bracket[0] in "[{" else -1
        if depth > _MAX_DEPTH:
            return text.count("\n", 0, bracket.start()) + 1
    return 1


class _Twice(ValueError):
    """A key that an object holds twice."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of its pairs; ValueError where a key stands twice, of which a reader would take either."""
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise _Twice(key)
        content[key] = value
    return content


_DECODER = json.JSONDecoder(object_pairs_hook=_once)


def parse_json(text: str) -> Any:
    """The value of a JSON text. Raises NotJson for anything else, and for values that no program could write again:
    nested deeper than Python follows, numbers of thousands of digits, half a surrogate pair."""
    try:
        value = _DECODER.decode(text)
        if _LONE_SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except json.JSONDecodeError as error:
        raise NotJson(f"not valid JSON ({error.msg} at column {error.colno})", error.lineno) from error
    except RecursionError as error:
        raise NotJson("nested too deep to be data", _too_deep_at(text)) from error
    except UnicodeEncodeError as error:
        fault = _LONE_SURROGATE.search(text)
        line = text.count("\n", 0, fault.start()) + 1 if fault else 1
        raise NotJson("holds half of a surrogate pair, which is no character", line) from error
    except _Twice as error:
        raise NotJson(
            f"holds the key {str(error)!r:.60} twice in one object", _second_place(text, str(error))
        ) from error
    except ValueError as error:
        fault = _LONG_NUMBER.search(text)
        line = text.count("\n", 0, fault.start()) + 1 if fault else 1
        raise NotJson("holds a number of thousands of digits", line) from error


def _second_place(text: str, key: str) -> int:
    """The line of the last place at which a key stands."""
    place = text.rfind(json.dumps(key, ensure_ascii=False))
    return text.count("\n", 0, max(place, 0)) + 1


def read_json(path: Path, remedy: str) -> Any:
    """The JSON value of a file; UserError naming file and line, with what to do about it."""
    try:
        return parse_json(read_text(path))
    except NotJson as error:
        raise UserError(f"{path}:{error.line} is {_as_predicate(error)}: {remedy}") from error


def _as_predicate(error: NotJson) -> str:
    reason = str(error)
    return reason if reason.startswith(("not", "nested")) else f"not usable JSON ({reason})"


def read_json_object(path: Path, remedy: str) -> dict[str, Any]:
    """`read_json` of a file that has to hold an object."""
    value = read_json(path, remedy)
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no JSON object: {remedy}")
    return value


class _Loader(yaml.SafeLoader):
    """Plain values only; dates stay text, and whatever a value cannot be read as is told with its line."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, AttributeError, OverflowError) as error:
            reason = "a number of thousands of digits" if "digits" in str(error) else "a value of another kind"
            raise yaml.MarkedYAMLError(problem=reason, problem_mark=node.start_mark) from error

    def construct_document(self, node: Any) -> Any:
        _check_nodes(node)
        return super().construct_document(node)


def _refuse(node: Any, problem: str) -> None:
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def _children(node: Any) -> list[Any]:
    if isinstance(node, yaml.MappingNode):
        seen: set[Hashable] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    _refuse(key, f"key '{key.value}' stands here a second time")
                seen.add(key.value)
        return [part for pair in node.value for part in pair]
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if "\0" in node.value or not _encodable(node.value):
        _refuse(node, "text with a NUL or half of a surrogate pair")
    return []


def require_text(text: str, what: str) -> str:
    """A text of the command line or standard input itself; UserError where its bytes were no UTF-8, or hold a NUL."""
    if "\0" in text:
        raise UserError(f"{what} holds a NUL byte, which no text has: take it out")
    if not _encodable(text):
        raise UserError(f"{what} is not UTF-8: convert it, for example with iconv -f ISO-8859-1 -t UTF-8")
    return text


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_nodes(root: Any) -> None:
    """MarkedYAMLError where aliases make a value endless or huge, a key comes twice, or a text is none."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()
    stack = [(root, False)]
    while stack:
        node, left = stack.pop()
        if left:
            open_nodes.discard(id(node))
            sizes[id(node)] = 1 + sum(sizes[id(child)] for child in _children(node))
            if sizes[id(node)] > _MAX_NODES:
                _refuse(node, f"aliases that stand for more than {_MAX_NODES} values")
        elif id(node) in open_nodes:
            _refuse(node, "an alias inside of what it stands for")
        elif id(node) not in sizes:
            open_nodes.add(id(node))
            if len(open_nodes) > _MAX_DEPTH:
                _refuse(node, "nested too deep")
            stack.append((node, True))
            stack += [(child, False) for child in _children(node)]


def parse_yaml(text: str, origin: str) -> Any:
    """The value of a YAML text of plain values; UserError that names `origin` and the line."""
    return _parse_yaml(text, origin)[0]


def _parse_yaml(text: str, origin: str) -> tuple[Any, dict[KeyPath, int]]:
    """The value of a YAML text, and the line of every key and list element in it."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, {}
        value = loader.construct_document(node)
        return value, dict(_lines(node, loader, ()))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, problem = (mark.line + 1 if mark else 0), error.problem or error.context
    except yaml.reader.ReaderError as error:
        line, problem = text.count("\n", 0, error.position) + 1, f"control character U+{error.character:04X}"
    except yaml.YAMLError as error:
        line, problem = 0, str(error).splitlines()[0]
    except RecursionError:
        line, problem = _too_deep_at(text), "nested too deep"
    raise UserError(f"{origin}:{line}: not valid YAML: {problem}; mend that line")


def _lines(node: Any, loader: _Loader, before: KeyPath) -> Iterator[tuple[KeyPath, int]]:
    """Key path -> line, from 1; of what an alias stands for, the lines where it is written."""
    if isinstance(node, yaml.MappingNode):  # merged keys (<<) stand before its own by now, which so win
        pairs = [(loader.construct_object(key, deep=True), key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        pairs = [(i, value, value) for i, value in enumerate(node.value)]
    else:
        pairs = []
    for key, place, value in pairs:
        yield (*before, key), place.start_mark.line + 1
        yield from _lines(value, loader, (*before, key))


def read_yaml_with_lines(path: Path) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """`read_yaml`, and the line of every key and list element."""
    value, lines = _parse_yaml(read_text(path), str(path))
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected key: value pairs at the top level")
    return value, lines


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping; UserError with file and line when it is none."""
    return read_yaml_with_lines(path)[0]
