"""What an uninstall has still to do on the node outside of namespaces: noted before it begins, and swept later.

An agent that is killed on its way out, or runs out of time, leaves a note in the run directory; ``weir remove --all``
does the rest. While there is a note, the plugin and its entry are nobody's any more.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from agent.cni import kubeconfig
from agent.cni.conflist import PLUGIN
from agent.cni.entry import Entry
from agent.cni.installation import Installation
from agent.cni.installer import Installer
from agent.errors import ConfigError, WeirError
from agent.state import run_directory, write_whole

_NAME = "uninstall.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leavings:
    """Where the plugin and its entry were put; `own_name` as in `Installation`."""

    bin_directory: Path
    conf_directory: Path
    own_name: str = ""


def leavings_of(wanted: Installation) -> Leavings:
    """Return what an installation will have left."""
    return Leavings(bin_directory=wanted.bin_directory, conf_directory=wanted.conf_directory, own_name=wanted.own_name)


def note(leavings: Leavings, folder: Path | None = None) -> None:
    """Write down, in the run directory, that an uninstall has begun. Raises `PermissionMissing`."""
    write_whole(
        _path(folder),
        json.dumps(
            {
                "bin_directory": str(leavings.bin_directory),
                "conf_directory": str(leavings.conf_directory),
                "own_name": leavings.own_name,
            }
        ),
    )


def noted(folder: Path | None = None) -> Leavings | None:
    """Return what a note says; None where there is none. Raises `ConfigError` for one that can't be read."""
    path = _path(folder)
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return Leavings(
            bin_directory=Path(told["bin_directory"]),
            conf_directory=Path(told["conf_directory"]),
            own_name=str(told["own_name"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"{path}: can't be read: {error}", hint="take weir-cni out of the node's conflist") from None


def is_noted(folder: Path | None = None) -> bool:
    """Tell whether an uninstall has begun here, and may have left something."""
    return _path(folder).exists()


def forget(folder: Path | None = None) -> None:
    """Take the note away: all is done, or the agent is there again."""
    _path(folder).unlink(missing_ok=True)


def removed(installer: Installer, folder: Path | None = None) -> tuple[str, ...]:
    """Take entry, program and the plugin's credentials off the node; return what could not be, each with its reason.

    The credentials stay for as long as an entry does: the plugin asks the API with them whether a pod may start.
    """
    from agent.cni.server import AWAY_NAME  # 200 ms, which no command is to wait for that has nothing to sweep

    folder = folder or run_directory()
    try:
        left = installer.remove()
        if not left:
            kubeconfig.remove(folder)
            (folder / AWAY_NAME).unlink(missing_ok=True)
    except WeirError as error:
        return (str(error),)
    except OSError as error:
        return (f"{folder}: {error.strerror}",)
    return left


def sweep(folder: Path | None = None) -> tuple[str, ...]:
    """Do what a note says is left to do; return what still is. Nothing where there is no note."""
    try:
        found = noted(folder)
    except ConfigError as error:
        return (str(error),)
    if found is None:
        return ()
    if not found.conf_directory.is_dir() and not found.bin_directory.is_dir():
        where = f"{found.conf_directory} and {found.bin_directory}"
        return (
            f"{where} aren't here: run this where they are, as in the agent's container, or take {PLUGIN} out by hand",
        )
    left = removed(Installer(_unwanted(found)), folder)
    if not left:
        forget(folder)
    return left


def _unwanted(found: Leavings) -> Installation:
    """Return an installation that is only there to be removed."""
    return Installation(
        program=Path(os.devnull),
        entry=Entry(agent_socket="/", kubeconfig="/", selectors=()),
        bin_directory=found.bin_directory,
        conf_directory=found.conf_directory,
        own_name=found.own_name,
    )


def _path(folder: Path | None) -> Path:
    return (folder or run_directory()) / _NAME
