"""Who listens on the ports that are the proxy's, and what else may take them."""

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.doctor.files import SYSCTLS, text
from agent.doctor.findings import Finding, Level
from agent.errors import TargetError
from agent.kernel import cgroups
from agent.kernel.portid import Process, process, sockets_of
from agent.kernel.sockets import SocketDiag, TcpState, endpoint
from rulesets.capture import Capture
from rulesets.vocabulary import Address, PortRange

_MEANING = {
    "outbound_port": "what the namespace sends",
    "inbound_port": "what it accepts",
    "hbone_port": "what comes from other proxies",
    "dns_port": "its DNS",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A TCP socket that listens on one of the proxy's ports. `inode` is 0 where the kernel doesn't tell."""

    port: int
    address: Address
    user: int
    inode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """The ports that connections leave with (ip_local_port_range), but for those that are kept free."""

    first: int
    last: int
    reserved: tuple[PortRange, ...] = ()

    def takes(self, port: int) -> bool:
        """Tell whether a connection may leave with a port."""
        return self.first <= port <= self.last and not any(each.first <= port <= each.last for each in self.reserved)


def proxy_ports(capture: Capture) -> dict[str, int]:
    """Return the ports on which a proxy listens, by setting: those to which Weir redirects, and that of its peers."""
    return {**capture.proxy_ports, **({"hbone_port": capture.hbone_port} if capture.inbound else {})}


def read_bound(capture: Capture) -> tuple[Bound, ...]:
    """Return who listens on the proxy's ports in the calling thread's namespace."""
    wanted = set(proxy_ports(capture).values())
    with SocketDiag() as diag:
        found = diag.tcp_sockets({TcpState.LISTEN})
    bound = (each for each in found if each.local_port in wanted)
    return tuple(
        Bound(port=each.local_port, address=each.local, user=each.user, inode=each.inode)
        for each in sorted(bound, key=lambda each: (each.local_port, each.local.version, each.local.packed))
    )


def read_range(root: Path = SYSCTLS) -> Range | None:
    """Return the range of ports of the calling thread's namespace; None where it isn't told."""
    try:
        first, last = map(int, (text(root / "net/ipv4/ip_local_port_range") or "").split())
        reserved = (text(root / "net/ipv4/ip_local_reserved_ports") or "").split(",")
        pairs = [each.partition("-") for each in reserved if each]
        ranges = tuple(PortRange(int(low), int(high or low)) for low, _, high in pairs)
    except ValueError:
        return None
    return Range(first=first, last=last, reserved=ranges)


class Holders:
    """Whose sockets there are. All of /proc is read for it when first asked, and once for all namespaces."""

    def __init__(self) -> None:
        """Look nowhere yet."""
        self._lock = threading.Lock()
        self._found: dict[int, tuple[Process, ...]] | None = None

    def of(self, inodes: Iterable[int]) -> dict[int, tuple[Process, ...]]:
        """Return who has these sockets, by inode; nobody where it is another user's or in another tree of processes."""
        wanted = {each for each in inodes if each}
        if not wanted:
            return {}
        with self._lock:
            if self._found is None:
                self._found = _by_inode()
            return {each: self._found[each] for each in wanted if each in self._found}


def _by_inode() -> dict[int, tuple[Process, ...]]:
    found: dict[int, tuple[Process, ...]] = {}
    for number in sorted(int(each) for each in os.listdir("/proc") if each.isdigit()):
        inodes = sockets_of(number)
        if inodes:
            holder = _named(number)
            for inode in inodes:
                found[inode] = (*found.get(inode, ()), holder)
    return found


def _named(number: int) -> Process:
    try:
        return process(number)
    except OSError:  # it has ended meanwhile
        return Process(number=number, name="?")


def judge(
    bound: Iterable[Bound], held: Mapping[int, tuple[Process, ...]], ports: Range | None, capture: Capture
) -> Iterator[Finding]:
    """Yield who has a port of the proxy's and isn't the proxy, and what may come to have one.

    The proxy is known by the user that the target names. Without one it is whoever has the most of its ports: whoever
    has another, or one alone while nobody has the others, is taken for an application.
    """
    bound = tuple(bound)
    settings = {port: setting for setting, port in proxy_ports(capture).items()}
    for each in bound:
        why = _foreign(each, bound, held, capture)
        if why:
            yield Finding(
                check="port-taken",
                level=Level.ERROR if capture.proxy_user is not None else Level.WARNING,
                what=f"{endpoint(each.address, each.port)} is listened on by {_who(each, held)}: {why}",
                why=f"{_MEANING.get(settings.get(each.port, ''), 'traffic')} would be sent to that program instead of"
                " the proxy, which can't listen there itself",
                do=f"let the program listen elsewhere, or the proxy: the setting {settings.get(each.port)}",
            )
    taken = [port for port in sorted(settings) if ports is not None and ports.takes(port)]
    if taken and ports is not None:
        listed = ",".join(map(str, taken))
        yield Finding(
            check="port-range",
            level=Level.WARNING,
            what=f"net.ipv4.ip_local_port_range = {ports.first} {ports.last} has the proxy's ports {listed} in it",
            why="an outgoing connection can have one of them at the moment when the proxy wants to listen there",
            do="keep them free",
            command=f"sysctl -w net.ipv4.ip_local_reserved_ports={listed}",
        )


def judge_cgroup(capture: Capture) -> Iterator[Finding]:
    """Yield that the proxy's cgroup isn't there, or can't be told. Raises nothing."""
    wanted = capture.proxy_cgroup
    if wanted is None or not isinstance(wanted.cgroup, str):
        return
    try:
        said = "" if cgroups.number(wanted.cgroup) is not None else f"there is no cgroup {wanted.cgroup!r}"
    except TargetError as error:
        said = str(error)
    if said:
        yield Finding(
            check="proxy-cgroup",
            level=Level.ERROR,
            what=f"proxy_cgroup = {wanted.cgroup!r}: {said}",
            why="nobody knows which connections are the proxy's own, so nothing is captured",
            do="start the proxy's service, or correct the setting (`systemctl show -p ControlGroup`)",
        )


def _foreign(each: Bound, bound: tuple[Bound, ...], held: Mapping[int, tuple[Process, ...]], capture: Capture) -> str:
    if capture.proxy_user is not None:
        return "" if each.user == capture.proxy_user else f"user {each.user}, and proxy_user is {capture.proxy_user}"
    ports: dict[object, set[int]] = {}
    for other in bound:
        ports.setdefault(_group(other, held), set()).add(other.port)
    mine = len(ports[_group(each, held)])
    most = max(map(len, ports.values()))
    needed = {port for setting, port in proxy_ports(capture).items() if setting != "dns_port"}
    if mine < most:
        return "somebody else has more of the proxy's ports"
    missing = sorted(needed - {other.port for other in bound})
    if len(ports) == 1 and mine == 1 and missing:
        return f"nobody listens on the others ({', '.join(map(str, missing))})"
    return "somebody else has as many of the proxy's ports" if list(map(len, ports.values())).count(most) > 1 else ""


def _group(each: Bound, held: Mapping[int, tuple[Process, ...]]) -> object:
    names = tuple(sorted({each.name for each in held.get(each.inode, ())}))
    return names or each.user


def _who(each: Bound, held: Mapping[int, tuple[Process, ...]]) -> str:
    processes = held.get(each.inode, ())
    return " and ".join(map(str, processes[:3])) if processes else f"a process of user {each.user} that can't be seen"
