"""What Weir has put on the node outside of namespaces: noted before it is, and swept where no agent is left to do it.

The note stands in the run directory for as long as the plugin is on the node. An agent that leaves takes both away; one
that is killed on its way out, or that the DaemonSet no longer wants on this node, leaves both to ``weir remove --all``.
That may be run on the node itself or in a container that has the node's folders elsewhere, so all paths are tried.
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from agent.cni import kubeconfig
from agent.cni.configurations import configurations
from agent.cni.conflist import PLUGIN
from agent.cni.entry import Entry
from agent.cni.installation import Installation
from agent.cni.installer import Installer
from agent.errors import ConfigError, WeirError
from agent.state import run_directory, write_whole

_NAME = "installed.json"
_SOCKETS = ("cni.sock", "weir.sock")
NODE = Path("/host")
"""Where a container has the node's root, as `kubectl debug node` mounts it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leavings:
    """Where the plugin and its entry were put, by the paths of the agent's container and of the node itself.

    `own_name` as in `Installation`.
    """

    bin_directory: Path = Path("/opt/cni/bin")
    conf_directory: Path = Path("/etc/cni/net.d")
    node_bin_directory: Path = Path("/opt/cni/bin")
    node_conf_directory: Path = Path("/etc/cni/net.d")
    own_name: str = ""

    def places(self, root: Path = NODE) -> Iterator[tuple[Path, Path]]:
        """Yield folders of programs and of configurations, as far as they are here: each pair once."""
        node = self.node_bin_directory, self.node_conf_directory
        below = root / node[0].relative_to("/"), root / node[1].relative_to("/")
        told = set()
        for programs, folder in (node, below, (self.bin_directory, self.conf_directory)):
            real = programs.resolve(), folder.resolve()
            if real not in told and (programs.is_dir() or folder.is_dir()):
                told.add(real)
                yield programs, folder


def leavings_of(wanted: Installation, *, on_node: tuple[Path, Path] | None = None) -> Leavings:
    """Return what an installation will leave. `on_node` are its two folders as the node has them, programs first."""
    node = on_node or (wanted.bin_directory, wanted.conf_directory)
    return Leavings(
        bin_directory=wanted.bin_directory,
        conf_directory=wanted.conf_directory,
        node_bin_directory=node[0],
        node_conf_directory=node[1],
        own_name=wanted.own_name,
    )


def note(leavings: Leavings, folder: Path | None = None) -> None:
    """Write down, in the run directory, what is about to be put on the node. Raises `PermissionMissing`."""
    write_whole(_path(folder), json.dumps({name: str(value) for name, value in asdict(leavings).items()}))


def noted(folder: Path | None = None) -> Leavings | None:
    """Return what a note says; None where there is none. Raises `ConfigError` for one that can't be read."""
    path = _path(folder)
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        folders = {name: _absolute(told[name]) for name in asdict(Leavings()) if name != "own_name"}
        return Leavings(own_name=str(told["own_name"]), **folders)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"{path}: can't be read: {error}", hint="take weir-cni out of the node's conflist") from None


def removed(installers: Iterable[Installer], folder: Path | None = None) -> tuple[str, ...]:
    """Take entry, program and the plugin's credentials off the node; return what could not be, each with its reason.

    The credentials stay for as long as an entry does: the plugin asks the API with them whether a pod may start. What
    is left keeps the note, too.
    """
    from agent.cni.server import AWAY_NAME  # 200 ms, which no command is to wait for that has nothing to sweep

    folder = folder or run_directory()
    left: list[str] = []
    try:
        for each in installers:
            left += each.remove()
        if not left:
            kubeconfig.remove(folder)
            (folder / AWAY_NAME).unlink(missing_ok=True)
            _path(folder).unlink(missing_ok=True)
    except WeirError as error:
        left.append(str(error))
    except OSError as error:
        left.append(f"{folder}: {error.strerror}")
    return tuple(left)


def clear(folder: Path | None = None) -> None:
    """Take from the run directory what an agent's next life would begin with, where there is to be none.

    What others keep there stays: records of targets of the node's own, and locks that commands hold. The daemon's lock
    goes last (`agent.daemon.process.alone`).
    """
    folder = folder or run_directory()
    for each in (*(folder / "sandboxes").glob("*.json"), *(folder / name for name in _SOCKETS)):
        with suppress(OSError):
            each.unlink()
    for name in ("sandboxes", "namespaces", "locks"):
        with suppress(OSError):  # it is not empty, or not there
            (folder / name).rmdir()


def sweep(folder: Path | None = None, root: Path = NODE, usual: Leavings = Leavings()) -> tuple[str, ...] | None:
    """Take off the node what a note says; return what could not be, with reasons. None where there was nothing to do.

    The run directory is empty after a boot: without a note, an entry in the usual folders is as good. `root` is where
    the node's root may be.
    """
    try:
        found = noted(folder)
    except ConfigError as error:
        return (str(error),)
    places = tuple((found or usual).places(root))
    if found is None:
        places = tuple(each for each in places if _is_entered(each[1]))
        if not places:
            return None
    elif not places:
        folders = f"{found.node_conf_directory} and {found.node_bin_directory}"
        said = f"{folders} of the node are neither here nor in {root}: run this where they are, or take {PLUGIN} out"
        return (f"{said} by hand",)
    own_name = "" if found is None else found.own_name
    return removed((Installer(_unwanted(*each, own_name)) for each in places), folder)


def _is_entered(folder: Path) -> bool:
    """Tell whether an entry of the plugin is in a folder of configurations."""
    try:
        return any(PLUGIN in each.types for each in configurations(folder))
    except ConfigError:
        return False


def _unwanted(programs: Path, folder: Path, own_name: str) -> Installation:
    """Return an installation that is only there to be removed."""
    return Installation(
        program=Path(os.devnull),
        entry=Entry(agent_socket="/", kubeconfig="/", selectors=()),
        bin_directory=programs,
        conf_directory=folder,
        own_name=own_name,
    )


def _absolute(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute():
        raise ValueError(f"{text!r} is no absolute path")
    return path


def _path(folder: Path | None) -> Path:
    return (folder or run_directory()) / _NAME
