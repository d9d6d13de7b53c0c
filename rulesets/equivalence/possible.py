"""What packets there can't be. They are left out of every comparison; each reason stands beside its condition."""

from collections.abc import Iterator

from rulesets.equivalence.nodes import Node
from rulesets.equivalence.plain import BROADCAST, LOOPBACK, MULTICAST, NOBODY, UNSPECIFIED
from rulesets.equivalence.space import FirstAddress, Role, Space, Way
from rulesets.equivalence.terms import Free, Header
from rulesets.vocabulary import ConnState, Owner, Protocol


def possible_first(space: Space) -> Node:
    """Return where the first packet of a connection, or one outside any, can be."""
    return _nowhere_of(space, (*_ends(space), *_interfaces(space), *_socket(space, Role.FIRST), *_first_flags(space)))


def possible_later(space: Space, header: Header) -> Node:
    """Return where a packet can be that follows the first one."""
    lo = 1 << space.loopback.atom
    arriving = (space.is_among(header.in_interface, lo),) if header.in_interface is not None else ()
    forwarded = (space.is_among(header.out_interface, lo),) if arriving else ()
    return _nowhere_of(space, (*arriving, *forwarded, *_socket(space, Role.LATER)))


def _nowhere_of(space: Space, impossible: tuple[Node, ...]) -> Node:
    result = space.diagrams.yes
    for each in impossible:
        result = space.diagrams.without(result, each)
    return result


def _ends(space: Space) -> Iterator[Node]:
    kind, taken, among = space.kind, space.addresses.taken, space.diagrams.among
    source = space.free(Role.FIRST, "source").variable
    destination = space.free(Role.FIRST, "destination").variable
    multicast, unspecified = taken[MULTICAST[kind.family]], taken[UNSPECIFIED[kind.family]]
    loopback, broadcast = taken[LOOPBACK[kind.family]], taken.get(BROADCAST, 0)
    # Such sources are martian (net/ipv4/route.c, ip_route_input_slow); what is for no address goes to loopback's.
    yield among(source, multicast | broadcast | unspecified)
    yield among(destination, unspecified)
    if kind.protocol is Protocol.TCP:
        # A connection has one peer (net/ipv4/tcp_ipv4.c, tcp_v4_connect; tcp_v4_rcv drops what isn't PACKET_HOST).
        yield among(destination, multicast | broadcast)
    if kind.way is not Way.TO_SELF:
        # Loopback addresses don't leave the namespace, and are martian on any other interface (__mkroute_output).
        yield among(source, loopback)
        yield among(destination, loopback)
    for field in ("interface_address", "leaving_address"):
        # An interface's address is one that a packet may come from.
        yield among(space.free(Role.FIRST, field).variable, multicast | broadcast | unspecified)
    first = space.free(Role.FIRST, "first_address").variable
    if kind.way in (Way.IN, Way.THROUGH):
        another = among(first, space.first_addresses.taken[FirstAddress.ANOTHER])
        yield space.diagrams.both(another, space.alike(destination, space.interface_address().variable))
    if kind.way is Way.THROUGH:
        # What is for an address of this namespace isn't forwarded.
        yield among(first, space.first_addresses.taken[FirstAddress.ASKED_FOR])


def _interfaces(space: Space) -> Iterator[Node]:
    header, lo = space.first(), 1 << space.loopback.atom
    if space.kind.way in (Way.IN, Way.THROUGH):
        # What comes in by lo was sent here: it is what leaves by lo, and gone on with from there.
        yield space.is_among(header.in_interface, lo)
    if space.kind.way is Way.THROUGH:
        yield space.is_among(header.out_interface, lo)


def _socket(space: Space, role: Role) -> Iterator[Node]:
    user, group = space.free(role, "user").variable, space.free(role, "group").variable
    cgroups = space.free(role, "cgroups").variable
    nobody = space.diagrams.among(user, space.owners[Owner.USER].taken[NOBODY])
    no_group = space.diagrams.among(group, space.owners[Owner.GROUP].taken[NOBODY])
    # A socket has an owner with a user and a group, and a cgroup; what no socket sent has none of them.
    yield space.diagrams.without(nobody, no_group)
    yield space.diagrams.without(no_group, nobody)
    root = 1 << next(at for at, some in enumerate(space.cgroups.examples) if () in some)
    yield space.diagrams.without(nobody, space.diagrams.among(cgroups, root))


def _first_flags(space: Space) -> Iterator[Node]:
    flags = space.first().tcp_flags
    if isinstance(flags, Free):
        # What begins no connection is outside any, and the other way round (nf_conntrack_proto_tcp.c, tcp_new).
        begins = space.flags.taken["begins"]
        impossible = space.flags.all & ~begins if space.kind.state is ConnState.NEW else begins
        yield space.diagrams.among(flags.variable, impossible)
