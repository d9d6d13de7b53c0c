"""The options that commands share, and the targets that they name."""

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.errors import ConfigError, PermissionMissing

if TYPE_CHECKING:
    from agent.targets import Target

DEFAULT_FILE = Path("/etc/weir/weir.toml")


class Output(StrEnum):
    """How results are written."""

    TEXT = "text"
    JSON = "json"


def _complete(incomplete: str) -> list[str]:
    """Return the targets of the default file that begin so; nothing where it can't be read."""
    from agent.errors import WeirError
    from agent.sources.file import load

    try:
        return [target.name for target in load(DEFAULT_FILE) if target.name.startswith(incomplete)]
    except WeirError:
        return []


Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[TARGET]...", help="Targets by name; all of the file when none is given.", autocompletion=_complete
    ),
]
OneName = Annotated[str | None, typer.Argument(metavar="[TARGET]", help="A target by name.", autocompletion=_complete)]
File = Annotated[
    Path | None,
    typer.Option(
        "--file", "-f", help=f"The target file; by default a running daemon's, or {DEFAULT_FILE}.", metavar="FILE"
    ),
]
Netns = Annotated[
    list[str] | None,
    typer.Option("--netns", help="A namespace instead of a name: NAME, a path, pid:N, or host. May be repeated."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="A setting for this run, as in the file: --set dns=false. May be repeated."
    ),
]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="text for people, json for programs.")]


def need_root(command: str) -> None:
    """Refuse to go on without the privileges that the kernel will ask for."""
    if os.geteuid():
        raise PermissionMissing(
            statement=f"weir {command}",
            said=f"needs root (this is user {os.geteuid()}): it enters namespaces and speaks to nftables",
            hint=f"sudo weir {command}; `weir render` needs no root",
        )


def targets(
    names: list[str] | None, netns: list[str] | None, file: Path | None, settings: list[str] | None
) -> tuple["Target", ...]:
    """Return the targets that a command line means. Raises `ConfigError`, `TargetError`."""
    overrides = _overrides(settings)
    file = file or _daemons_file()
    if names and netns:
        raise ConfigError(f"target {names[0]!r} and --netns {netns[0]}: name targets, or namespaces, not both")
    if netns:
        return tuple(_of_namespace(each, file, overrides) for each in dict.fromkeys(netns))
    found = _with(_load(file), overrides)
    if not names:
        if not found:
            raise ConfigError(f"{file or DEFAULT_FILE}: has no target", hint="add a [[target]], or use --netns")
        return found
    by_name = {target.name: target for target in found}
    return tuple(_named(name, by_name, file) for name in dict.fromkeys(names))


def _daemons_file() -> Path | None:
    """Return the file that a running daemon reads; None where none runs."""
    from agent.errors import WeirError
    from agent.local_api import Client

    client = Client()
    if not client.is_there():
        return None
    try:
        return Path(str(client.status()["file"]))
    except (WeirError, KeyError):
        return None


def _load(file: Path | None) -> tuple["Target", ...]:
    from agent.sources.file import load

    return load(file or DEFAULT_FILE)


def _named(name: str, found: dict[str, "Target"], file: Path | None) -> "Target":
    if name in found:
        return found[name]
    import difflib

    nearest = difflib.get_close_matches(name, found, n=1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else "a namespace without a target is named with --netns"
    raise ConfigError(f"target {name!r}: {file or DEFAULT_FILE} has no such target", hint=hint)


def _of_namespace(netns: str, file: Path | None, overrides: dict[str, object]) -> "Target":
    """Return the file's target of a namespace, or else one with the file's defaults; without a file, Weir's own."""
    from agent.sources import file as target_file
    from rulesets.settings import CaptureError

    defaults: dict[str, object] = {}
    path = file or DEFAULT_FILE
    if file is not None or path.exists():
        for target in target_file.load(path):
            if target.netns == netns:
                return _with((target,), overrides)[0]
        defaults = target_file.load_defaults(path)
    try:
        return target_file.target(netns, netns, {**defaults, **overrides})
    except CaptureError as error:
        raise ConfigError(f"--netns {netns}: {error}") from None


def _with(found: tuple["Target", ...], overrides: dict[str, object]) -> tuple["Target", ...]:
    if not overrides:
        return found
    from agent.sources import file as target_file
    from rulesets.settings import CaptureError

    try:
        return tuple(target_file.changed(target, overrides) for target in found)
    except CaptureError as error:
        raise ConfigError(f"--set: {error}") from None


def _overrides(settings: list[str] | None) -> dict[str, object]:
    import tomllib

    found: dict[str, object] = {}
    for setting in settings or ():
        name, equals, value = setting.partition("=")
        if not equals or "\n" in setting:
            raise ConfigError(
                f"--set {setting!r}: wants NAME=VALUE", hint="as in --set dns=false or --set families='[\"ipv4\"]'"
            )
        try:
            found[name.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[name.strip()] = value.strip()  # a bare word: --set established=reset
    return found
