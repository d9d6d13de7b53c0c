"""The namespaces of many pods, found by the cgroups of the node's processes in one pass over /proc."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from agent.errors import NamespaceMissing, WeirError
from agent.kernel.netns import Identity, identify, mounted, node_identity
from agent.sources.kubernetes.facts import MIRROR, Pod
from agent.sources.kubernetes.sandboxes.layout import plain
from agent.sources.kubernetes.sandboxes.processes import Process, Seen, processes_of
from agent.sources.kubernetes.sandboxes.runtimes import unfit
from agent.sources.kubernetes.sandboxes.sandbox import Sandbox, Unfit, Why, host_network, look, not_owned

PROC = Path("/proc")
_RUNTIMES = ("/run/netns/", "/var/run/netns/")  # where containerd and CRI-O mount theirs
_MOST_NAMESPACES = 64  # of one pod that are entered, the likeliest first: a pod can make any number
_MOST_PROCESSES = 8  # of one namespace that are tried, where one after the other ends
_NODE_PROCESSES = "let the agent see the node's processes: hostPID: true, and a /proc without hidepid"
_PTRACE = "the agent needs CAP_SYS_PTRACE to look at the processes of other users"


def find(pods: Iterable[Pod], proc: Path = PROC) -> dict[str, Sandbox | Unfit]:
    """Return the namespace of each pod, or why it has none, by the pods' uids. For a worker thread.

    `proc` is a /proc of the node's pid namespace. Of several namespaces in a pod's cgroup it is the one that has the
    pod's address; of several of those the one that is mounted somewhere, and then the one with the oldest process. The
    path is where the namespace is mounted, as far as this process sees mounts, or else the oldest process in it.

    Never raises for what a pod or a process does: a process that ends in between is passed over. Takes 0.01 ms for each
    process of the node, and 0.05 ms for each one of these pods'.
    """
    return _Search(tuple(pods), proc).answers()


class _Search:
    """One pass."""

    def __init__(self, pods: tuple[Pod, ...], proc: Path) -> None:
        self._pods = pods
        self._proc = proc
        self._node = {each for each in (node_identity(), identify(proc / "1/ns/net")) if each is not None}
        self._mounts: dict[Identity, str] | None = None

    def answers(self) -> dict[str, Sandbox | Unfit]:
        wanted = {plain(uid) for pod in self._pods if not pod.host_network for uid in _uids(pod)}
        seen = processes_of(wanted, self._proc) if wanted else Seen()
        return {pod.uid: self._answer(pod, seen) for pod in self._pods}

    def _answer(self, pod: Pod, seen: Seen) -> Sandbox | Unfit:
        if pod.host_network:
            return host_network(pod.uid, f"{pod}: hostNetwork = true: its namespace is the node's own")
        processes = [process for uid in _uids(pod) for process in seen.found.get(plain(uid), ())]
        if not processes:
            return _nothing(pod, seen)
        own = [each for each in processes if each.netns not in self._node]
        foreign = [each for each in processes if each.foreign is not None]
        if foreign and all(each.foreign is not None for each in own):
            first = min(foreign, key=lambda each: each.started)
            said = f"process {first.pid}, {first.name}"
            return unfit(pod.uid, first.foreign or Why.KATA, said, proven=bool(pod.runtime_class))
        denied = next((each for each in own if each.denied), None)
        namespaces = self._namespaces(own)
        if not namespaces and denied is not None:
            return Unfit(uid=pod.uid, why=Why.NOT_VISIBLE, reason=f"{pod}: {denied.denied}", hint=_PTRACE)
        if not namespaces:
            return _not_found(pod, f"{_named(processes)} of its cgroup: in the node's own namespace, or ending")
        if not pod.addresses:
            return Unfit(
                uid=pod.uid,
                why=Why.NO_ADDRESS,
                reason=f"{pod}: the API knows no address of it yet, by which its namespace is told from others",
                hint="it is looked for again when the API knows one",
            )
        return self._owner(pod, namespaces)

    def _namespaces(self, processes: Sequence[Process]) -> list[list[Process]]:
        """Return the processes of each namespace, the oldest first; and the namespaces, the likeliest first."""
        found: dict[Identity, list[Process]] = {}
        for each in sorted(processes, key=lambda each: (each.started, each.pid)):
            if each.netns is not None:
                found.setdefault(each.netns, []).append(each)
        return sorted(found.values(), key=lambda each: each[0].netns not in self._mounted())  # stable: the oldest first

    def _owner(self, pod: Pod, namespaces: Sequence[Sequence[Process]]) -> Sandbox | Unfit:
        """Return the first namespace that has an address of the pod's, or why there is none."""
        refused: list[Unfit] = []
        for processes in namespaces[:_MOST_NAMESPACES]:
            for path, process in self._ways(processes):
                try:
                    found = look(pod.uid, path, addresses=pod.addresses, container=process.container)
                except NamespaceMissing:
                    continue  # the process has ended
                except WeirError as error:
                    refused.append(Unfit(uid=pod.uid, why=Why.NOT_VISIBLE, reason=f"{pod}: {error}", hint=error.hint))
                    break
                if isinstance(found, Sandbox) and found.identity == process.netns:
                    return found
                if isinstance(found, Unfit):
                    refused.append(found)
                    break
        if not refused:
            return _not_found(pod, f"{_named(namespaces[0])} ended while it was looked at")
        if len(namespaces) == 1 or refused[0].why is not Why.NOT_OWNED:
            return refused[0]
        few = f"the {_MOST_NAMESPACES} likeliest of " if len(namespaces) > _MOST_NAMESPACES else ""
        addresses = ", ".join(map(str, pod.addresses))
        reason = f"none of {few}{len(namespaces)} namespaces in the cgroup of {pod} has its address {addresses}"
        return not_owned(pod.uid, reason)

    def _ways(self, processes: Sequence[Process]) -> Iterator[tuple[str, Process]]:
        """Return the paths to a namespace, the most lasting first."""
        first = processes[0]
        if first.netns is not None and (mount := self._mounted().get(first.netns)):
            yield mount, first
        for each in processes[:_MOST_PROCESSES]:
            yield (f"pid:{each.pid}" if self._proc == PROC else f"{self._proc}/{each.pid}/ns/net"), each

    def _mounted(self) -> dict[Identity, str]:
        """Return where namespaces are mounted that this process sees: a container runtime's folder before others."""
        if self._mounts is None:
            paths = sorted((each.text for each in mounted()), key=lambda path: (not path.startswith(_RUNTIMES), path))
            self._mounts = {}
            for path in paths:
                identity = identify(path)
                if identity is not None:
                    self._mounts.setdefault(identity, path)
        return self._mounts


def _uids(pod: Pod) -> tuple[str, ...]:
    """Return the uids that a pod may have on its node: the API's and, of a static pod, the kubelet's."""
    return tuple(dict.fromkeys(filter(None, (pod.uid, pod.annotations.get(MIRROR, "")))))


def _named(processes: Sequence[Process]) -> str:
    some = ", ".join(f"{each.pid} ({each.name})" for each in processes[:4])
    more = f" and {len(processes) - 4} more" if len(processes) > 4 else ""
    return f"{'process' if len(processes) == 1 else 'processes'} {some}{more}"


def _nothing(pod: Pod, seen: Seen) -> Unfit:
    """Return why no process of a pod was seen."""
    if seen.error:
        return Unfit(uid=pod.uid, why=Why.NOT_VISIBLE, reason=f"{pod}: {seen.error}", hint=_NODE_PROCESSES)
    if seen.denied:
        reason = f"{pod}: no process of it is seen, and {seen.denied} of {seen.processes} may not be looked at"
        return Unfit(uid=pod.uid, why=Why.NOT_VISIBLE, reason=reason, hint=f"{_PTRACE}; {_NODE_PROCESSES}")
    if not seen.of_pods:
        reason = f"{pod}: none of the {seen.processes} processes that are seen is in any pod's cgroup"
        return Unfit(uid=pod.uid, why=Why.NOT_VISIBLE, reason=reason, hint=_NODE_PROCESSES)
    return _not_found(pod, "no process is in its cgroup")


def _not_found(pod: Pod, what: str) -> Unfit:
    hint = "its sandbox isn't made yet, has ended, or runs outside of the pod's cgroup; it is looked for again"
    return Unfit(uid=pod.uid, why=Why.NOT_FOUND, reason=f"{pod}: {what}", hint=hint)
