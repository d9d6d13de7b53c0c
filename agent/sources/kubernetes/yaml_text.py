"""YAML as Kubernetes reads it: documents with the line of each field, within bounds.

Built from the reader's events rather than by its constructor: no tag makes an object, nesting is counted before it is
followed, and an alias costs what it stands for, so that a few lines can't become a gigabyte. Words are understood as
kubectl does (YAML 1.1: `yes` and `on` are true); a time stays a text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rulesets.settings import shown

DEEPEST = 100  # levels; the deepest schemas of custom resources have some 40
MOST = 1_000_000  # values of a document, each alias counted as what it stands for
_WORDS: dict[str, object] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys("y Y yes Yes YES true True TRUE on On ON".split(), True),
    **dict.fromkeys("n N no No NO false False FALSE off Off OFF".split(), False),
}
_INTEGER = re.compile(r"[-+]?(0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)", re.ASCII)
_DECIMAL = re.compile(
    r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_STANDARD = "tag:yaml.org,2002:"
_COLLECTIONS = (None, "!", f"{_STANDARD}map", f"{_STANDARD}seq")


class YamlError(ValueError):
    """A text that is not YAML, or not within the bounds: `line` counts from 1, `reason` is in words."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A number as it was written: Kubernetes takes it for another thing than a text."""

    written: str

    def __repr__(self) -> str:
        return self.written


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One document of a file: its value, where it begins, and its place among the file's, from 1.

    The value is of dict, list, str, bool, `Number` and None. `lines` has the line of each key of each mapping, by the
    mapping's `id`.
    """

    value: object
    line: int
    number: int
    lines: dict[tuple[int, str], int] = field(repr=False)

    def line_of(self, *keys: str | int) -> int:
        """Return the line of a field; of the nearest one around it where it isn't there."""
        at, value = self.line, self.value
        for key in keys:
            if isinstance(value, dict) and isinstance(key, str) and key in value:
                at, value = self.lines.get((id(value), key), at), value[key]
            elif isinstance(value, list) and isinstance(key, int) and key < len(value):
                value = value[key]
            else:
                break
        return at


def documents(text: str) -> Iterator[Document]:
    """Return the documents of a text; those that hold nothing are left out. Raises `YamlError`."""
    import yaml  # lazy: what has no manifests to read starts without it

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # its events only: the constructor is never asked
    number = 0
    builder = _Builder()
    if text.lstrip().startswith("{"):
        text = text.replace("\t", " ")  # JSON may be indented with tabs, and holds none in its strings
    try:
        for event in yaml.parse(text, Loader=loader):
            if isinstance(event, yaml.DocumentStartEvent):
                builder = _Builder()
                number += 1
            elif isinstance(event, yaml.DocumentEndEvent):
                if builder.root is not None:
                    yield Document(value=builder.root, line=builder.first, number=number, lines=builder.lines)
            elif isinstance(event, yaml.NodeEvent):
                builder.line = event.start_mark.line + 1 if event.start_mark else builder.line
                _take(builder, event, yaml)
            elif isinstance(event, yaml.CollectionEndEvent):
                builder.close()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlError(mark.line + 1 if mark else 1, f"is not YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise YamlError(1, f"is not YAML: {' '.join(str(error).split())}") from None


def _take(builder: "_Builder", event: Any, yaml: Any) -> None:
    if isinstance(event, yaml.AliasEvent):
        builder.alias(event.anchor)
    elif isinstance(event, yaml.ScalarEvent):
        builder.put(_scalar(event, builder.line), 1, event.anchor, key=event.value)
    else:
        if event.tag not in _COLLECTIONS:
            raise YamlError(builder.line, f"has the tag {shown(event.tag)}, which Kubernetes doesn't know")
        builder.open({} if isinstance(event, yaml.MappingStartEvent) else [], event.anchor)


def _scalar(event: Any, line: int) -> object:
    written: str = event.value
    if event.tag is None and event.implicit[0]:
        if written in _WORDS:
            return _WORDS[written]
        is_number = _INTEGER.fullmatch(written) or _DECIMAL.fullmatch(written)
        return Number(written=written) if is_number else written
    kind = (event.tag or f"{_STANDARD}str").removeprefix(_STANDARD)
    if kind in ("str", "!"):
        return written
    if kind in ("null", "bool") and written in _WORDS:
        return _WORDS[written]
    if kind in ("int", "float"):
        return Number(written=written)
    raise YamlError(line, f"has the tag {shown(event.tag)}, which Kubernetes doesn't know")


@dataclass(slots=True)
class _Open:
    """A mapping or list that isn't closed yet, and the key that waits for its value."""

    value: Any
    anchor: str | None
    key: str | None = None
    size: int = 1
    merged: list[Any] = field(default_factory=list)


_MERGE = "<<"


@dataclass(slots=True)
class _Builder:
    """The document so far. Anchors keep what they stand for, and how many values that is."""

    root: object = None
    first: int = 1
    line: int = 1
    total: int = 0
    stack: list[_Open] = field(default_factory=list)
    anchors: dict[str, tuple[object, int]] = field(default_factory=dict)
    lines: dict[tuple[int, str], int] = field(default_factory=dict)
    alive: list[object] = field(default_factory=list)  # `lines` goes by identity, which must not be used again

    def open(self, value: object, anchor: str | None) -> None:
        if len(self.stack) >= DEEPEST:
            raise YamlError(self.line, f"is nested more than {DEEPEST} levels deep")
        self._begin()
        self.alive.append(value)
        self.stack.append(_Open(value, anchor))

    def close(self) -> None:
        done = self.stack.pop()
        for each in done.merged:
            for key, value in each.items():
                if key not in done.value:
                    done.value[key] = value
                    self.lines[id(done.value), key] = self.lines.get((id(each), key), self.line)
        self.put(done.value, done.size, done.anchor, counted=True)

    def alias(self, anchor: str) -> None:
        if anchor not in self.anchors:
            raise YamlError(self.line, f"refers to {shown(anchor)}, which is not anchored before")
        value, size = self.anchors[anchor]
        self.put(value, size, None, key=value if isinstance(value, str) else None)

    def put(
        self, value: object, size: int, anchor: str | None, *, key: str | None = None, counted: bool = False
    ) -> None:
        """Put a value where it belongs: at the top, into a list, or as a key or a value into a mapping."""
        if not counted:
            self._begin()
        if anchor is not None:
            self.anchors[anchor] = (value, size)
        if not counted:
            self.total += size
            if self.total > MOST:
                raise YamlError(self.line, f"holds more than {MOST} values, aliases counted as what they stand for")
        if not self.stack:
            self.root = value
            return
        inside = self.stack[-1]
        inside.size += size
        if isinstance(inside.value, list):
            inside.value.append(value)
        elif inside.key is None:
            self._key(inside, value, key)
        elif inside.key == _MERGE:
            self._merge(inside, value)
        else:
            inside.value[inside.key] = value
            inside.key = None

    def _begin(self) -> None:
        if not self.stack and self.root is None:
            self.first = self.line

    def _key(self, inside: _Open, value: object, written: str | None) -> None:
        if isinstance(value, dict | list) or written is None:
            raise YamlError(self.line, "has a key that is no text")
        if written in inside.value:
            first = self.lines[id(inside.value), written]
            raise YamlError(self.line, f"has {shown(written)} twice (first in line {first})")
        if written != _MERGE:
            inside.value[written] = None
            self.lines[id(inside.value), written] = self.line
        inside.key = written

    def _merge(self, inside: _Open, value: object) -> None:
        several = value if isinstance(value, list) else [value]
        if not all(isinstance(each, dict) for each in several):
            raise YamlError(self.line, "merges (<<) something other than fields")
        inside.merged += several
        inside.key = None
