"""The CNI chain: whether the runtime calls Weir's plugin for a new pod, or another agent's."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.cni.configurations import Configuration, configurations
from agent.cni.conflist import ISTIO_PLUGIN, PLUGIN
from agent.doctor.findings import Finding, Level
from agent.errors import ConfigError

CONFIGURATIONS, PROGRAMS = Path("/etc/cni/net.d"), Path("/opt/cni/bin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """The configurations in the order in which a runtime reads them; `fault` is why the folder can't be read.

    `there`: whether there is such a folder. `program`: whether the plugin can be executed; None: it isn't there.
    """

    folder: Path
    there: bool
    found: tuple[Configuration, ...] = ()
    fault: str = ""
    program: bool | None = None

    @property
    def used(self) -> Configuration | None:
        """The one that a runtime uses: the first good one."""
        return next((each for each in self.found if each.primary), None)


def read(folder: Path = CONFIGURATIONS, programs: Path = PROGRAMS) -> Chain:
    """Return what a container runtime would find. Raises nothing."""
    path = programs / PLUGIN
    program = os.access(path, os.X_OK) if os.path.lexists(path) else None
    try:
        os.lstat(folder)
    except (FileNotFoundError, NotADirectoryError):
        return Chain(folder=folder, there=False, program=program)
    except OSError as error:
        return Chain(folder=folder, there=True, fault=f"{folder}: can't be looked at: {error.strerror}")
    try:
        return Chain(folder=folder, there=True, found=configurations(folder), program=program)
    except ConfigError as error:
        return Chain(folder=folder, there=True, fault=str(error), program=program)


def judge(chain: Chain) -> Iterator[Finding]:
    """Yield what keeps a new pod from being captured before it runs."""
    if not chain.there:
        return  # no container runtime here: a plain host
    if chain.fault:
        yield Finding(
            check="cni-unreadable",
            level=Level.UNCHECKED,
            what=chain.fault,
            why="nobody can tell whether new pods are captured when they start",
            do="run as root, or name the folder with --cni-conf-dir",
        )
        return
    used = chain.used
    broken = [each for each in chain.found if each.fault]
    for each in broken:
        yield Finding(
            check="cni-unreadable",
            level=Level.ERROR if used is None else Level.WARNING,
            what=each.fault,
            why="no container runtime can use it"
            + (": no pod starts on this node" if used is None else ", and takes the next one, or waits"),
            do="mend the file or take it away",
        )
    if used is None:
        if not broken:
            yield Finding(
                check="cni-chain",
                level=Level.NOTE,
                what=f"{chain.folder} has no network configuration",
                why="no pod starts before a network is installed; Weir's entry follows it",
                do="install the cluster's network",
            )
        return
    yield from _agents(chain, used)
    yield from _place(chain, used)


def _agents(chain: Chain, used: Configuration) -> Iterator[Finding]:
    for each in chain.found:
        if ISTIO_PLUGIN in each.types:
            also = ", beside Weir's" if PLUGIN in each.types else ""
            yield Finding(
                check="other-agent",
                level=Level.ERROR if each == used else Level.WARNING,
                what=f"{each.path} has an entry of {ISTIO_PLUGIN}{also}",
                why="Istio's node agent captures the pods that start here, and two agents over one pod don't work",
                do="take Istio's CNI agent off this node, which ends its entry; where it no longer runs, edit the file",
            )


def _place(chain: Chain, used: Configuration) -> Iterator[Finding]:
    elsewhere = [each for each in chain.found if PLUGIN in each.types and each != used]
    if PLUGIN in used.types:
        if not chain.program:
            yield Finding(
                check="cni-program",
                level=Level.ERROR,
                what=f"{used.path} calls {PLUGIN}, which "
                + ("isn't there" if chain.program is None else "can't be executed"),
                why="every pod that is to start on this node fails",
                do="start Weir's agent, which installs it; or take the entry out of the file",
            )
    elif elsewhere:
        yield Finding(
            check="cni-chain",
            level=Level.ERROR,
            what=f"{elsewhere[0].path} has Weir's entry, and runtimes use {used.path}, which comes first by name",
            why="pods start uncaptured: the plugin is never called",
            do=f"let the file with the entry come first; Weir's agent does so while it runs: is cniConfFileName"
            f" {elsewhere[0].path.name}?",
        )
    else:
        single = f"; it is a single plugin's ({used.path.suffix}), before which a list of Weir's own has to stand"
        yield Finding(
            check="cni-chain",
            level=Level.NOTE,
            what=f"{used.path} has no entry of {PLUGIN}{single if used.single else ''}",
            why="pods are captured only after they have started, or not at all where no agent runs",
            do="start Weir's agent, which puts its entry there, where this node's pods are to be captured",
        )
