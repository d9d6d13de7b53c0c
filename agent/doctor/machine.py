"""The machine beside its network: limits, cgroups, saved rulesets, other agents, what a Weir has left half-done."""

import resource
import shlex
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.doctor.files import SYSCTLS, number, text
from agent.doctor.findings import Finding, Level
from agent.errors import WeirError
from agent.kernel import cgroups
from agent.migration.journal import Progress

FILES_PER_TARGET = 8
"""Open files that a target takes at most (`OpenNetns`, `Handle`, subscriptions)."""

_OWN_FILES = 128  # beside targets
_FEW_INOTIFY = 128  # the kernel's own number, which a few programs of one user use up
ISTIO_SOCKETS = (Path("/var/run/istio-cni/pluginevent.sock"), Path("/var/run/istio-cni/log.sock"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What was seen. `daemon` is the running daemon's process, 0 where none runs, and `files` what it may open.

    `files` is of this process where no daemon runs, and None where it isn't told.
    """

    daemon: int = 0
    files: int | None = None
    targets: int = 0
    opened: int = 0
    openable: int = 0
    inotify: int | None = None
    no_cgroup2: str = ""
    saved: tuple[Path, ...] = ()
    istio: tuple[Path, ...] = ()
    unfinished: tuple[Progress, ...] = ()


def read(
    *,
    daemon: int,
    targets: int,
    saved: tuple[Path, ...],
    unfinished: tuple[Progress, ...],
    root: Path = Path("/"),
    sockets: Iterable[Path] = ISTIO_SOCKETS,
) -> Machine:
    """Return what the machine is like. Raises nothing."""
    opened, _, openable = ((text(root / "proc/sys/fs/file-nr") or "").split() + ["0"] * 3)[:3]
    return Machine(
        daemon=daemon,
        files=_files_of(root / f"proc/{daemon}/limits") if daemon else resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        targets=targets,
        opened=int(opened) if opened.isdigit() else 0,
        openable=int(openable) if openable.isdigit() else 0,
        inotify=number(root / SYSCTLS.relative_to("/") / "fs/inotify/max_user_instances"),
        no_cgroup2=_no_cgroup2(),
        saved=saved,
        istio=tuple(each for each in sockets if _is_socket(each)),
        unfinished=unfinished,
    )


def _no_cgroup2() -> str:
    try:
        cgroups.root()
    except (WeirError, OSError) as error:
        return str(error)
    return ""


def _files_of(limits: Path) -> int | None:
    for line in (text(limits) or "").splitlines():
        if line.startswith("Max open files"):
            soft = line.removeprefix("Max open files").split()[0]
            return int(soft) if soft.isdigit() else resource.RLIM_INFINITY
    return None


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False


def judge(found: Machine) -> Iterator[Finding]:
    """Yield what is in an agent's way on this machine."""
    yield from _limits(found)
    if found.no_cgroup2:
        yield Finding(
            check="cgroups",
            level=Level.WARNING,
            what=found.no_cgroup2,
            why="a proxy can't be told by its service (the setting proxy_cgroup): rules ask cgroup v2 alone",
            do="tell the proxy by proxy_mark or proxy_user, or boot with systemd.unified_cgroup_hierarchy=1",
        )
    for path in found.saved:
        yield Finding(
            check="saved-ruleset",
            level=Level.ERROR,
            what=f"{path} has a table of Weir's in it",
            why="while an agent owns that table the whole file is refused, and at boot it brings rules that nobody"
            " keeps: traffic sent to a proxy that isn't there",
            do=f"take Weir's table out of the file; save with `nft list table` of your own tables: {path}",
        )
    for path in found.istio:
        yield Finding(
            check="other-agent",
            level=Level.WARNING,
            what=f"{path} is there: Istio's CNI agent is on this node, or was",
            why="two agents that capture the same pods undo each other's work",
            do="take it off this node before Weir's agent captures its pods; a socket that is left over can be deleted",
        )
    for each in found.unfinished:
        yield Finding(
            check="migration",
            level=Level.ERROR,
            what=f"the migration of {each.name} (netns {each.netns}) is half-done, at the step {each.step}",
            why="rules of both agents are there, and no other command changes that target",
            do="take it up, or return with --back",
            command=f"weir migrate --netns {shlex.quote(each.netns)}{' --back' if each.back else ''}",
        )


def _limits(found: Machine) -> Iterator[Finding]:
    wanted = _OWN_FILES + FILES_PER_TARGET * found.targets
    if found.files is not None and 0 <= found.files < max(wanted, 1024):
        whose = f"the daemon (process {found.daemon})" if found.daemon else "this login, and what it starts,"
        yield Finding(
            check="file-limit",
            level=Level.ERROR if found.daemon and found.files < wanted else Level.WARNING,
            what=f"{whose} may open {found.files} files, and {found.targets} targets take up to {wanted}",
            why="a target for which no file can be opened isn't captured",
            do="raise LimitNOFILE of the unit (the one that Weir ships has enough)",
        )
    if found.openable and found.opened > 0.9 * found.openable:
        yield Finding(
            check="file-limit",
            level=Level.ERROR,
            what=f"{found.opened} files are open on this machine, of fs.file-max = {found.openable}",
            why="no program can open another one soon",
            do="find who holds them (`lsof`), and raise the limit",
            command=f"sysctl -w fs.file-max={2 * found.openable}",
        )
    if found.inotify is not None and found.inotify < _FEW_INOTIFY:
        yield Finding(
            check="inotify-limit",
            level=Level.WARNING,
            what=f"fs.inotify.max_user_instances = {found.inotify}",
            why="the agent watches its file, namespaces and CNI folder by inotify: without one left it sees no change",
            do="raise it, in /etc/sysctl.d as well",
            command="sysctl -w fs.inotify.max_user_instances=512",
        )
