"""The options that commands share, and the targets that they name."""

import os
import shlex
from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.cli import pods
from agent.cli.manual import PAGES, Command
from agent.errors import ConfigError, PermissionMissing
from agent.sources import DEFAULT_FILE

if TYPE_CHECKING:
    from agent.sources.file import TargetFile
    from agent.targets import Target

LONGEST = 31_536_000.0  # seconds, a year: what `select` and the loop's timers can wait for, and the daemon takes


class Output(StrEnum):
    """How results are written."""

    TEXT = "text"
    JSON = "json"


def _targets_that_begin(context: typer.Context, incomplete: str) -> list[str]:
    """Return the targets of the file that begin so, for completion; nothing where it can't be read."""
    from agent.errors import WeirError

    try:
        given = context.params.get("file")
        file = (given[-1] if isinstance(given, list | tuple) and given else given) or daemons_file()
        return [target.name for target in _load(file and Path(file)).targets if target.name.startswith(incomplete)]
    except WeirError:
        return []


def _namespaces_that_begin(incomplete: str) -> list[str]:
    """Return the namespaces that have a name and begin so, for completion."""
    from agent.kernel.netns import named
    from agent.targets import HOST

    return [name for name in (HOST, *map(str, named())) if name.startswith(incomplete)]


# Hidden from the list of options, where typer would show its Python type: the page of each command explains it.
_TARGET = {"hidden": True, "autocompletion": _targets_that_begin}
Names = Annotated[list[str] | None, typer.Argument(metavar="[TARGET]...", **_TARGET)]
OneName = Annotated[str | None, typer.Argument(metavar="[TARGET]", **_TARGET)]
File = Annotated[
    Path | None,
    typer.Option(
        "--file", "-f", help=f"The target file; by default a running daemon's, or {DEFAULT_FILE}.", metavar="FILE"
    ),
]
_NETNS = {"metavar": "NETNS", "autocompletion": _namespaces_that_begin}
Netns = Annotated[
    list[str] | None, typer.Option("--netns", help="A namespace instead of a name. May be repeated.", **_NETNS)
]
# A list all the same: a second one is refused, rather than put in the place of the first.
OneNetns = Annotated[list[str] | None, typer.Option("--netns", help="A namespace instead of a name.", **_NETNS)]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A setting for this run, as the file has it: --set dns=false. May be repeated.",
    ),
]


def _differences_that_begin(incomplete: str) -> list[str]:
    """Return the wanted differences whose name begins so, for completion."""
    from rulesets.equivalence import WANTED

    return [slug for slug in WANTED if slug.startswith(incomplete)]


def expected(text: str) -> Any:
    """Return the option that names wanted differences; `text` says what becomes of them."""
    return typer.Option("--expect", metavar="SLUG", help=text, autocompletion=_differences_that_begin)


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="text for people, json for programs.")]


def add(app: typer.Typer, *commands: Callable[..., None]) -> None:
    """Add commands to the command line, each with its page."""
    for command in commands:
        app.command(short_help=PAGES[command.__name__].short, cls=Command)(command)


def need_root(command: str) -> None:
    """Refuse to go on without the privileges that the kernel will ask for."""
    if os.geteuid():
        raise PermissionMissing(
            statement=f"weir {command}",
            said=f"needs root (this is user {os.geteuid()}): it enters namespaces and speaks to nftables",
            hint=f"sudo weir {command}; `weir render` needs no root",
        )


def targets(
    names: list[str] | None,
    netns: list[str] | None,
    file: Path | None,
    settings: list[str] | None,
    *,
    empty: bool = False,
) -> tuple["Target", ...]:
    """Return the targets that a command line means. Raises `ConfigError`, `TargetError`.

    A file without a target, as an agent of Kubernetes has it, means none where it may be `empty`.
    """
    pods.refuse(names)
    overrides = settings_given(settings)
    file = file or daemons_file()
    if names and netns:
        raise ConfigError(f"target {names[0]!r} and --netns {netns[0]!r}: name targets, or namespaces, not both")
    if netns:
        written = _load(file) if file is not None or DEFAULT_FILE.exists() else None
        return tuple(_of_namespace(each, written, overrides) for each in dict.fromkeys(netns))
    found = with_settings(_load(file).targets, overrides)
    if not names:
        if not found and not empty:
            raise ConfigError(f"{file or DEFAULT_FILE}: has no target", hint="add a [[target]], or use --netns")
        return found
    by_name = {target.name: target for target in found}
    return tuple(_named(name, by_name, file) for name in dict.fromkeys(names))


def one_target(
    command: str, name: str | None, netns: list[str] | None, file: Path | None, settings: list[str] | None
) -> "Target":
    """Return the only target that a command line means. Raises as `targets`."""
    chosen = targets([name] if name else None, netns, file, settings)
    return only(command, chosen)


def only(command: str, chosen: tuple["Target", ...]) -> "Target":
    """Return the one target that was chosen. Raises `ConfigError` for more."""
    if len(chosen) != 1:
        some = ", ".join(target.name for target in chosen[:3]) + (", ..." if len(chosen) > 3 else "")
        raise ConfigError(f"{command}: wants one target, and these are {len(chosen)}: {some}", hint="name one")
    return chosen[0]


def refuse_unknown_slugs(command: str, slugs: Iterable[str]) -> None:
    """Refuse names that no wanted difference has. Raises `ConfigError`."""
    from rulesets.equivalence import WANTED

    for slug in slugs:
        if slug not in WANTED:
            raise ConfigError(f"{command}: --expect {slug!r}: no difference is called so", hint=", ".join(WANTED))


def pasted(targets: Iterable[str], *, netns: bool, file: Path | None, settings: list[str] | None) -> str:
    """Return the arguments that mean these targets again, ready to paste behind a command."""
    words = [word for each in targets for word in (("--netns", each) if netns else (each,))]
    words += ["--file", str(file)] if file else []
    words += [word for each in settings or () for word in ("--set", each)]
    return shlex.join(words)


def daemons_file() -> Path | None:
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


def _load(file: Path | None) -> "TargetFile":
    from agent.sources.file import load

    return load(file or DEFAULT_FILE)


def _named(name: str, found: dict[str, "Target"], file: Path | None) -> "Target":
    if name in found:
        return found[name]
    import difflib

    nearest = difflib.get_close_matches(name, found, n=1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else "a namespace without a target is named with --netns"
    raise ConfigError(f"target {name!r}: {file or DEFAULT_FILE} has no such target", hint=hint)


def _of_namespace(netns: str, written: "TargetFile | None", overrides: dict[str, object]) -> "Target":
    """Return the file's target of a namespace, or else one with the file's defaults; without a file, Weir's own."""
    from agent.sources import file as target_file
    from rulesets.settings import CaptureError

    for target in written.targets if written else ():
        if target.netns == netns:
            return with_settings((target,), overrides)[0]
    try:
        return target_file.target(netns, netns, {**(written.defaults if written else {}), **overrides})
    except CaptureError as error:
        where = "--set" if error.setting in overrides else f"--netns {netns!r}"
        raise ConfigError(f"{where}: {error}") from None


def with_settings(found: tuple["Target", ...], overrides: dict[str, object]) -> tuple["Target", ...]:
    """Return targets with settings of ``--set``. Raises `ConfigError`."""
    if not overrides:
        return found
    from agent.sources import file as target_file
    from rulesets.settings import CaptureError

    try:
        return tuple(target_file.changed(target, overrides) for target in found)
    except CaptureError as error:
        raise ConfigError(f"--set: {error}") from None


def settings_given(settings: list[str] | None) -> dict[str, object]:
    """Return the settings of ``--set``. Raises `ConfigError`."""
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


def seconds(option: typer.CallbackParam, value: float | None) -> float | None:
    """Return a time of the command line. Raises `ConfigError` for one that no clock can wait for."""
    if value is not None and not value <= LONGEST:
        raise ConfigError(f"{option.opts[0]} {value:g}: is no time to wait", hint=f"give at most {LONGEST:.0f}, a year")
    return value
