"""What is wanted of a namespace against what is there: the part of the story that decides, and touches nothing."""

from dataclasses import dataclass, replace

from agent.errors import TargetError
from agent.kernel.ipv6 import Ipv6
from agent.observed import Observed, Unanswered, unanswered
from agent.targets import Absent, Captured, Target, TargetPlan
from rulesets import pod
from rulesets import routing as routes
from rulesets.capture import Capture, Uncapturable
from rulesets.diff import diff
from rulesets.pod.recalled import recall
from rulesets.routing import NO_ROUTING, RoutingPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """`capture` is the wish less what the namespace can't have redirected; for an absent wish, what is there now.

    `plan` leads from what is to what is wanted. `closed` are ports to which connections would go and where nothing
    listens. `left_out` says, in words, which families of the namespace are not captured; `direct` whether any of them
    goes around the proxy instead of being refused.
    """

    capture: Capture
    plan: TargetPlan
    closed: tuple[Unanswered, ...] = ()
    left_out: tuple[str, ...] = ()
    direct: bool = False

    @property
    def whole(self) -> bool:
        """Whether, once the plan is carried out, no new connection that the wish names goes around the proxy."""
        return not self.closed and not self.direct


def compare(target: Target, observed: Observed) -> Comparison:
    """Return how a namespace differs from what is wanted of it.

    Raises `TargetError` when nothing that is wanted can be had there.
    """
    match target.wish:
        case Captured(capture=wanted):
            capture = _capturable(wanted, observed)
            redirected = tuple(each for each in capture.captured_families if each in observed.capturable)
            left_out = tuple(_left_out(wanted, capture, observed))
            return Comparison(
                capture=capture,
                plan=TargetPlan(
                    rules=diff(observed.ruleset, pod.build(capture, table=target.table)),
                    routing=RoutingPlan(actual=observed.routing, desired=routes.build(capture, observed.capturable)),
                ),
                closed=unanswered(capture, observed.listeners, redirected),
                left_out=left_out,
                direct=bool(left_out) and capture.uncapturable is Uncapturable.DIRECT,
            )
        case Absent():
            return Comparison(
                capture=recall(observed.ruleset, {}),
                plan=TargetPlan(
                    rules=diff(observed.ruleset, None),
                    routing=RoutingPlan(actual=observed.routing, desired=NO_ROUTING),
                ),
            )


def _capturable(capture: Capture, observed: Observed) -> Capture:
    """Return the capture less the families that can't be redirected in this namespace."""
    if observed.ipv6 is not Ipv6.OFF_ON_LOOPBACK:
        return capture
    left = tuple(each for each in capture.captured_families if each in observed.capturable)
    if not left:
        raise TargetError(
            f"families = {list(capture.captured_families)}: IPv6 is {observed.ipv6}, so nothing can be captured",
            hint="sysctl -w net.ipv6.conf.lo.disable_ipv6=0 in the namespace",
        )
    try:
        return replace(capture, families=left)
    except ValueError as error:  # nothing is left in the other family, say
        raise TargetError(f"IPv6 is {observed.ipv6}, and without it: {error}") from None


def _left_out(wanted: Capture, capture: Capture, observed: Observed) -> list[str]:
    """Say which families the namespace has and that are not captured, and what becomes of them."""
    fate = "refused" if capture.uncapturable is Uncapturable.REJECT else "direct, outside the mesh"
    if capture.uncapturable is Uncapturable.REJECT and observed.ipv6 is Ipv6.OFF_ON_LOOPBACK:
        # The reset for a local socket comes by lo, and a lo without IPv6 drops it (ip6_rcv).
        fate += " (processes of the namespace get no answer, since lo can't deliver one)"
    said = []
    for family in observed.families:
        if family not in wanted.captured_families:
            said.append(f"{family} is not among families: its connections are {fate}")
        elif family not in capture.captured_families:
            said.append(f"IPv6 is {observed.ipv6}, so it can't be captured: its connections are {fate}")
    if not any(each in observed.families for each in capture.captured_families):
        said.append(f"families names only {', '.join(capture.captured_families)}: IPv6 is {observed.ipv6}")
    return said
