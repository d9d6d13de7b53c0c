"""A namespace's sockets, sorted by whose connections they are: an application's, the proxy's, or its own."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from agent.kernel.activity import Activity
from agent.kernel.sockets import OPEN_STATES, TcpState
from rulesets.capture import Capture

_LOOPBACK_V6 = bytes(15) + b"\x01"


class Carried(NamedTuple):
    """A socket of a stream that the proxy carries, with the earliest keepalive of both sockets that it has here."""

    family: int
    near: bytes
    far: bytes
    silent: float | None
    keepalive: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sorted:
    """How many sockets there are, and in which states (`TcpState`'s numbers).

    `captured` and `direct` are the application's open connections. `carried` are established sockets whose streams
    depend on their conntrack entries. `silences` are seconds, of the established sockets of the application.
    """

    sockets: int
    states: Counter[int]
    captured: int
    direct: int
    carried: tuple[Carried, ...]
    silences: tuple[float, ...]


def sort(found: Iterable[Activity], capture: Capture | None) -> Sorted:
    """Return the sockets of a namespace, sorted; `capture` None has no proxy.

    The proxy's are known by their ports, their mark or their user. A connection of the application is carried by the
    proxy where the proxy has its other end: one that it accepted, or one that it dialled in a client's name, from an
    address that isn't the namespace's. One that goes to another machine otherwise is direct.
    """
    every = tuple(found)
    accepting = frozenset() if capture is None else frozenset(capture.proxy_ports.values())
    accepted = frozenset() if capture is None else accepting | {capture.hbone_port}
    clients = {each.far: each for each in every if int.from_bytes(each.near[16:], "big") in accepting}
    ends = {(each.near, each.far): each for each in every}
    own = {each.near for each in every}
    # As conntrack has them: one that the proxy accepted from here is its client's, and of two ends here one counts.
    states = Counter(
        each.state
        for each in every
        if not (int.from_bytes(each.near[16:], "big") in accepting and each.far in own)
        and not (each.near > each.far and (each.far, each.near) in ends)
    )
    captured = direct = 0
    carried, silences = [], []
    for each in every:
        if TcpState(each.state) not in OPEN_STATES:
            continue
        is_accepted = int.from_bytes(each.near[16:], "big") in accepted
        other = clients.get(each.near)
        if other is None and not is_accepted and (each.far, each.near) in ends and not _within(each):
            other = ends[each.far, each.near]
        proxys = is_accepted or _of_proxy(each, capture)
        established = each.state == TcpState.ESTABLISHED
        inwards = capture is not None and int.from_bytes(each.near[16:], "big") == capture.inbound_port
        if established and (inwards or (other is not None and not proxys)):
            keepalive = min((one.keepalive for one in (each, other) if one and one.keepalive is not None), default=None)
            carried.append(Carried(each.family, each.near, each.far, each.silent, keepalive))
        if proxys or (other is None and _within(each)):
            continue
        if established and each.silent is not None:
            silences.append(each.silent)
        if other is None:
            direct += 1
        # Where nothing tells which of two sockets is the proxy's (a cgroup isn't told of), they are counted once.
        elif each.near in clients or _of_proxy(other, capture) or each.near > each.far:
            captured += 1
    return Sorted(
        sockets=len(every),
        states=states,
        captured=captured,
        direct=direct,
        carried=tuple(carried),
        silences=tuple(silences),
    )


def _of_proxy(each: Activity, capture: Capture | None) -> bool:
    return capture is not None and (
        capture.proxy_mark.matches(each.mark) or (capture.proxy_user is not None and each.user == capture.proxy_user)
    )


def _within(each: Activity) -> bool:
    """Tell whether both ends are one address, or loopback: a connection of the namespace with itself."""
    near, far = each.near[:16], each.far[:16]
    return near == far or far.startswith(b"\x7f") or far == _LOOPBACK_V6
