"""What the reasons share: stages, matches that come again, and the redirect itself."""

from collections.abc import Callable, Iterator
from enum import StrEnum
from ipaddress import ip_network

from rulesets.capture import Capture, Uncapturable
from rulesets.model import (
    Rule,
)
from rulesets.vocabulary import (
    Accept,
    Action,
    Match,
    Network,
    OfFamily,
    OutIface,
    PortRange,
    Proto,
    Protocol,
    Reject,
    RejectWith,
    TcpFlag,
    TcpFlags,
)

DNS = PortRange(53, 53)
LOOPBACK: tuple[Network, ...] = (ip_network("127.0.0.1/32"), ip_network("::1/128"))

TCP = Proto(protocol=Protocol.TCP)
NOT_TCP = Proto(protocol=Protocol.TCP, negate=True)
LEAVES_BY_LOOPBACK = OutIface(name="lo")
_SYN_OF = (TcpFlag.FIN, TcpFlag.SYN, TcpFlag.RST, TcpFlag.ACK)
NOT_SYN = TcpFlags(among=_SYN_OF, set=(TcpFlag.SYN,), negate=True)


class Stage(StrEnum):
    """Where a namespace stands between direct and captured.

    `TRANSITION` redirects only connections that begin, so that open ones go on until conntrack knows them. It must not
    last: a captured stream that loses its conntrack entry would go out in plain. `DRAINING` redirects nothing and
    keeps what captured streams need to go on.
    """

    STEADY = "steady"
    TRANSITION = "transition"
    DRAINING = "draining"


Reason = Callable[[Capture, Stage], Iterator[Rule]]


def captures_inbound(capture: Capture) -> bool:
    """Tell whether connections that arrive are redirected."""
    # An ingress pod takes connections from outside the mesh as they are; its tunnelled ones still use mangle-out.
    return capture.inbound and not capture.ingress


def accept(slug: str, *matches: Match) -> Rule:
    """Return a rule that leaves what matches as it is."""
    return Rule(slug=slug, matches=matches, action=Accept())


def only_captured(capture: Capture) -> tuple[Match, ...]:
    """Return the match for the one family that is captured; nothing when both are."""
    families = capture.captured_families
    return () if len(families) == 2 else (OfFamily(family=families[0]),)


def refuses(capture: Capture) -> bool:
    """Tell whether a family is refused because it can't be captured."""
    return bool(only_captured(capture)) and capture.uncapturable is Uncapturable.REJECT


def capture_tcp(capture: Capture, slugs: tuple[str, str], action: Action, *matches: Match) -> Iterator[Rule]:
    """Redirect TCP, and refuse that of a family that can't be captured, unless it is to go direct."""
    redirected, refused = slugs
    only = only_captured(capture)
    yield Rule(slug=redirected, matches=(*matches, *only, TCP), action=action)
    if refuses(capture):
        # No match for the other family: nft would not list it back, and what comes here is of no other.
        yield Rule(slug=refused, matches=(*matches, TCP), action=Reject(reply=RejectWith.TCP_RESET))
