"""Targets from a TOML file: ``[defaults]``, and a ``[[target]]`` each with `name`, `netns`, and settings.

A file is good as a whole or not at all: the first error names file, line, target and setting, and nothing is taken.
"""

import pwd
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from agent.errors import ConfigError, TargetError
from agent.kernel.netns import Netns
from agent.targets import HOST, Captured, Observation, Target
from rulesets.capture import Capture
from rulesets.settings import CaptureError, boolean, choices, shown

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
# A plain host captures what its own processes open; ssh inwards stays as it is, and its resolver too.
_HOST_DEFAULTS: Mapping[str, object] = {"inbound": False, "dns": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetFile:
    """What a file says. `defaults` are its ``[defaults]``, which a namespace that it doesn't name has too."""

    targets: tuple[Target, ...] = ()
    defaults: Mapping[str, object] = field(default_factory=dict)


def load(path: Path) -> TargetFile:
    """Return what a file says, which is read once: it may be a pipe. Raises `ConfigError`."""
    return parse(read(path), str(path))


def read(path: Path) -> str:
    """Return a file's text. Raises `ConfigError`."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: there is no such file", hint="name one with --file, or a namespace with --netns"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start})") from None


def parse(text: str, where: str) -> TargetFile:
    """Return what a file's text says; `where` is its name for errors."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}:{_with_line(str(error), text)}") from None
    except RecursionError:
        raise ConfigError(f"{where}: is nested too deeply") from None
    for key, value in document.items():
        if key not in ("defaults", "target"):
            raise ConfigError(
                f"{where}:{_line(text, key)}: {key} = {shown(value)}: only [defaults] and [[target]] stand at the top"
            )
    defaults, tables = document.get("defaults", {}), document.get("target", [])
    if not isinstance(defaults, dict):
        raise ConfigError(f"{where}:{_line(text, 'defaults')}: defaults = {shown(defaults)}: wants a [defaults] table")
    if not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
        raise ConfigError(f"{where}:{_line(text, 'target')}: target = {shown(tables)}: wants [[target]] tables")
    _check_defaults(text, where, defaults)
    targets: dict[str, Target] = {}
    for number, table in enumerate(tables):
        target = _target(text, where, number, table, defaults)
        for other in targets.values():
            for key, ours, theirs in (("name", target.name, other.name), ("netns", target.netns, other.netns)):
                if ours == theirs:
                    line = _line(text, key, number)
                    raise ConfigError(f"{where}:{line}: target {target.name!r}: {key} = {ours!r}: is used twice")
        targets[target.name] = target
    return TargetFile(targets=tuple(targets.values()), defaults=defaults)


def target(name: str, netns: str, settings: Mapping[str, object]) -> Target:
    """Return the target of a namespace with these settings over the defaults. Raises `CaptureError`, `TargetError`."""
    where = Netns(netns)
    own, rest = _apart(settings)
    values = {**(_HOST_DEFAULTS if where.text == HOST else {}), **rest}
    wish = _captured(Capture.parse(_with_numeric_user(values)))
    return Target(name=name, netns=where.text, wish=wish, migrate=own.migrate, observe=own.observe)


def changed(target: Target, settings: Mapping[str, object]) -> Target:
    """Return a target with some settings of its capture replaced. Raises `CaptureError`."""
    if not isinstance(target.wish, Captured):
        return target
    own, rest = _apart({"migrate": target.migrate, "observe": target.observe, **settings})
    capture = target.wish.capture.changed(_with_numeric_user(rest))
    return replace(target, wish=Captured(capture=capture), migrate=own.migrate, observe=own.observe)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Own:
    """The settings of a target that say nothing of its rules."""

    migrate: bool
    observe: tuple[Observation, ...]


def _apart(settings: Mapping[str, object]) -> tuple[_Own, dict[str, object]]:
    """Return the settings that say nothing of the rules, and the others."""
    rest = dict(settings)
    migrate = boolean("migrate", rest.pop("migrate", False))
    return _Own(migrate=migrate, observe=choices(Observation)("observe", rest.pop("observe", ()))), rest


@lru_cache(maxsize=256)
def _captured(capture: Capture) -> Captured:
    """Return the wish for a capture: one for all that are alike."""
    return Captured(capture=capture)


def _target(text: str, where: str, number: int, table: dict[str, object], defaults: dict[str, object]) -> Target:
    settings = {**defaults, **table}
    for key in ("name", "netns"):
        if key not in table:
            line = _line(text, None, number)
            raise ConfigError(f"{where}:{line}: target number {number + 1}: {key} is missing")
        value = settings.pop(key)
        if not isinstance(value, str):
            line = _line(text, key, number)
            raise ConfigError(f"{where}:{line}: target number {number + 1}: {key} = {shown(value)}: wants a text")
    name, netns = str(table["name"]), str(table["netns"])
    if not _NAME.fullmatch(name):
        reason = "wants 1 to 63 letters, digits, dots, dashes and underscores, not beginning with a mark"
        raise ConfigError(f"{where}:{_line(text, 'name', number)}: name = {shown(name)}: {reason}")
    try:
        return target(name, netns, settings)
    except CaptureError as error:
        in_target = error.setting in table or error.setting not in defaults
        line = _line(text, error.setting, number if in_target else None)
        raise ConfigError(f"{where}:{line}: target {name!r}: {error}") from None
    except TargetError as error:
        raise ConfigError(f"{where}:{_line(text, 'netns', number)}: target {name!r}: {error}") from None


def _check_defaults(text: str, where: str, defaults: dict[str, object]) -> None:
    for key in ("name", "netns"):
        if key in defaults:
            raise ConfigError(f"{where}:{_line(text, key)}: defaults: {key} belongs into each [[target]]")
    try:
        Capture.parse(_with_numeric_user(_apart(defaults)[1]))
    except CaptureError as error:
        raise ConfigError(f"{where}:{_line(text, error.setting)}: defaults: {error}") from None


def _with_numeric_user(values: Mapping[str, object]) -> dict[str, object]:
    """Return the settings with `proxy_user` as a number, looked up where it is a name."""
    user = values.get("proxy_user")
    if not isinstance(user, str):
        return dict(values)
    try:
        return {**values, "proxy_user": pwd.getpwnam(user).pw_uid}
    except (KeyError, ValueError):
        raise CaptureError("proxy_user", user, "there is no such user on this machine") from None


def _with_line(said: str, text: str) -> str:
    """Return the TOML reader's words with the line in front."""
    found = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", said, re.DOTALL)
    if found is None:
        return f" {said}"
    if found[2] is None:
        return f"{max(1, len(text.splitlines()))}: {found[1]} at the end of the file"
    return f"{found[2]}: {found[1]} (column {found[3]})"


def _line(text: str, key: str | None, number: int | None = None) -> int:
    """Return the line of a key: in the target of this number, or in whatever is no target.

    The TOML reader doesn't keep lines; this finds them for error messages, and falls back on the target's own.
    """
    seen, inside, table = -1, number is None, 1
    for at, line in enumerate(text.splitlines(), start=1):
        if re.match(r"\s*\[\[\s*[\"']?target[\"']?\s*\]\]", line):
            seen += 1
            inside = seen == number
            table = at if inside else table
        elif re.match(r"\s*\[", line):
            # A table of a target's own goes with the target.
            mine = re.match(r"\s*\[+\s*target\s*\.", line) is not None
            inside = (mine and seen == number) if number is not None else not mine
            table = at if number is None and re.match(r"\s*\[\s*defaults\s*\]", line) else table
        if key is not None and inside and re.match(rf"\s*\[*\s*[\"']?{re.escape(key)}[\"']?\s*[=.\]]", line):
            return at
    return table
