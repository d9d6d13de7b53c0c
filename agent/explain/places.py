"""What decides beside rules how a packet fares: interfaces and addresses, policy rules and routes, who listens."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from agent.doctor.ports import Holders
from agent.kernel.policy_rules import LOCAL, LOOKUP, Link, Route, Rtnetlink, RuleEntry
from agent.kernel.portid import Process
from agent.kernel.sockets import Listener, SocketDiag, TcpState, endpoint
from rulesets.vocabulary import Address, Family, family_of

FAR: Mapping[Family, Address] = {  # RFC 5737, RFC 3849: nobody's
    Family.IPV4: ip_address("192.0.2.1"),
    Family.IPV6: ip_address("2001:db8::1"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Who takes connections or datagrams at a port. `processes` are empty where nobody can tell, as of UDP."""

    protocol: str
    address: Address
    port: int
    v6only: bool = True
    processes: tuple[Process, ...] = ()

    def answers(self, address: Address) -> bool:
        """Whether a packet to an address reaches it."""
        one = Listener(
            protocol="tcp" if self.protocol == "tcp" else "udp",
            address=self.address,
            port=self.port,
            v6only=self.v6only,
            interface=0,
        )
        return one.answers(address)

    @property
    def who(self) -> str:
        """Whose it is, in words: ``ztunnel (pid 4711)``."""
        return " and ".join(f"{each.name} (pid {each.number})" for each in self.processes[:3]) or "somebody"

    def __str__(self) -> str:
        return f"{self.protocol} {endpoint(self.address, self.port)}: {self.who}"


def read_listening(ports: Iterable[int], holders: Holders) -> tuple[Listening, ...]:
    """Return who listens on some ports in the calling thread's namespace, in order. `holders` know whose sockets are.

    sock_diag doesn't tell the inode of a UDP socket through `Listener`, so nobody is named there.
    """
    wanted = frozenset(ports)
    with SocketDiag() as diag:
        there = [each for each in diag.listening_ports() if each.port in wanted]
        sockets = [each for each in diag.tcp_sockets({TcpState.LISTEN}) if each.local_port in wanted]
    whose = holders.of(each.inode for each in sockets)
    found = []
    for each in there:
        of = (one.inode for one in sockets if (one.local, one.local_port) == (each.address, each.port))
        processes = tuple(dict.fromkeys(holder for inode in of for holder in whose.get(inode, ())))
        found.append(
            Listening(
                protocol=each.protocol,
                address=each.address,
                port=each.port,
                v6only=each.v6only,
                processes=processes if each.protocol == "tcp" else (),
            )
        )
    order = sorted(found, key=lambda each: (each.port, each.protocol, each.address.version, each.address.packed))
    return tuple(order)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One routing decision: the policy rule that led to it where that is told by what rules ask, and the route."""

    route: Route
    rule: RuleEntry | None
    interface: str
    mark: int

    @property
    def local(self) -> bool:
        """Whether the packet is delivered in this namespace."""
        return not self.route.error and self.route.kind == LOCAL

    def __str__(self) -> str:
        by = f"{self.rule}" if self.rule is not None else f"table {self.route.table}"
        if self.route.error:
            return f"no route: {self.route.said}" + (f" ({self.rule})" if self.rule is not None else "")
        if self.local:
            return f"{by}: local, delivered in this namespace"
        via = f"via {self.route.gateway} " if self.route.gateway is not None else ""
        return f"{by}: {via}dev {self.interface}"


class Place:
    """A namespace's surroundings of a packet, read once; routes are asked one by one. In the namespace only.

    Use it in a `with` block, from the calling thread that is inside.
    """

    def __init__(self, netlink: Rtnetlink) -> None:
        """Read interfaces, addresses and policy rules."""
        self._netlink = netlink
        self.links: dict[int, Link] = {each.index: each for each in netlink.links()}
        self.rules = netlink.rules()
        self.addresses = netlink.addresses()

    def name(self, index: int) -> str:
        """Return the name of an interface."""
        return self.links[index].name if index in self.links else f"number {index}"

    def index(self, name: str) -> int:
        """Return the index of an interface; 0 where there is none of that name."""
        return next((index for index, each in self.links.items() if each.name == name), 0)

    def first_address(self, interface: str, family: Family) -> Address | None:
        """Return the first address of a family on an interface."""
        of = self.index(interface)
        return next((each for index, each in self.addresses if index == of and family_of(each) is family), None)

    def is_own(self, address: Address) -> bool:
        """Tell whether an address is one of this namespace."""
        return address.is_loopback or any(each == address for _, each in self.addresses)

    def outwards(self, destination: Address, *, source: Address | None = None, mark: int = 0) -> Decision:
        """Return how what is sent from here is routed."""
        route = self._netlink.route(destination, source=source, mark=mark)
        by = "lo" if route.kind == LOCAL else self.name(route.interface)
        return Decision(route=route, rule=self._led(destination, source, mark, "lo", route), interface=by, mark=mark)

    def inwards(self, destination: Address, source: Address, arriving_by: str, *, mark: int = 0) -> Decision:
        """Return how what arrives by an interface is routed."""
        index = self.index(arriving_by)
        route = self._netlink.route(destination, source=source, arriving_by=index, mark=mark)
        led = self._led(destination, source, mark, arriving_by, route)
        return Decision(route=route, rule=led, interface=self.name(route.interface), mark=mark)

    def _led(self, to: Address, source: Address | None, mark: int, arriving_by: str, route: Route) -> RuleEntry | None:
        """Return the rule that led to a route, or refused; None where rules ask for more than is told of them."""
        for rule in self.rules:
            if rule.family is not family_of(to):
                continue
            asks = (
                (not rule.source or (source is not None and source in rule.source))
                and (not rule.destination or to in rule.destination)
                and (not rule.in_interface or rule.in_interface == arriving_by)
                and not rule.out_interface
                and mark & rule.mask == rule.mark
            )
            if asks is rule.inverted or (route.error and rule.action in (LOOKUP, 2, 3)):
                continue
            if rule.selects:
                return None
            if rule.action != LOOKUP or rule.table == route.table:
                return rule
        return None
