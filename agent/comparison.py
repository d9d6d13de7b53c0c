"""What is wanted of a namespace against what is there: the part of the story that decides, and touches nothing."""

from dataclasses import dataclass, replace

from agent.errors import TargetError
from agent.kernel.ipv6 import Ipv6
from agent.observed import Observed, Unanswered, in_words, unanswered
from agent.targets import Absent, Captured, Target, TargetPlan
from rulesets import pod
from rulesets import routing as routes
from rulesets.capture import Capture, ProxyAbsent, Uncapturable
from rulesets.diff import diff
from rulesets.pod.recalled import recall
from rulesets.routing import NO_ROUTING, RoutingPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """`capture` is the wish less what the namespace can't have redirected; for an absent wish, what is there now.

    `plan` leads from what is to what is wanted. `closed` are ports to which connections would go and where nothing
    listens. `left_out` says, in words, which families of the namespace are not captured; `direct` whether any of them
    goes around the proxy instead of being refused. `missing` says, in words, that the proxy's cgroup isn't there.
    """

    capture: Capture
    plan: TargetPlan
    closed: tuple[Unanswered, ...] = ()
    left_out: tuple[str, ...] = ()
    direct: bool = False
    missing: str = ""

    @property
    def whole(self) -> bool:
        """Whether, once the plan is carried out, no new connection that the wish names goes around the proxy."""
        return not self.closed and not self.direct

    def awaited(self, *, steady: bool) -> str:
        """Return, in words, what must come before anything is written; empty when it can be. `steady`: it is captured.

        Where neither a cgroup nor a rule of before tells the proxy, its own connections would be sent back to it
        without end; only where nothing listens there is no proxy yet, and `when_proxy_absent` decides.
        """
        waits = self.capture.when_proxy_absent is ProxyAbsent.WAIT
        if self.missing and self.capture.proxy_cgroup is None and (waits or not self.closed):
            return self.missing
        return in_words(self.closed) if waits and not steady else ""


def compare(target: Target, observed: Observed) -> Comparison:
    """Return how a namespace differs from what is wanted of it.

    Raises `TargetError` when nothing that is wanted can be had there.
    """
    match target.wish:
        case Captured(capture=wanted):
            capture, missing = _with_number(_capturable(wanted, observed), observed)
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
                missing=missing,
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


def _with_number(capture: Capture, observed: Observed) -> tuple[Capture, str]:
    """Return the capture with its cgroup's number, and in words that there is none, if so.

    While the service is stopped the number stays that it had: nothing has it any more, and nothing will.
    """
    wanted = capture.proxy_cgroup
    if wanted is None:
        return capture, ""
    if observed.proxy_cgroup is not None:
        return replace(capture, proxy_cgroup=replace(wanted, cgroup=observed.proxy_cgroup)), ""
    before = recall(observed.ruleset, {}).proxy_cgroup
    return replace(capture, proxy_cgroup=before), f"there is no cgroup {wanted.cgroup!r} (proxy_cgroup)"


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
