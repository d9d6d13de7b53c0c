"""Releasing a namespace: at once with an error to those who are captured, or when their streams have ended.

Taking the rules away under a captured stream would leave both ends hanging without a word. So new connections go direct
first; what captured streams need stays until they have ended or their time is over; then their sockets are destroyed,
which both ends see as an error; then nothing is left.
"""

from dataclasses import dataclass

from agent import enrol, streams
from agent.errors import FeatureMissing, NotAsWritten
from agent.kernel import routing
from agent.kernel.conntrack import Conntrack
from agent.kernel.handle import Handle
from agent.kernel.sockets import SocketDiag
from agent.streams import Stream
from rulesets import pod
from rulesets.capture import Capture
from rulesets.diff import diff
from rulesets.model import Ruleset
from rulesets.pod import Stage
from rulesets.routing import NO_ROUTING, RoutingPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """How far a release has come: the streams that still hold it up, and how many sockets were ended by force.

    `lacking` says why streams whose time is over could not be ended; empty when they could.
    """

    draining: tuple[Stream, ...] = ()
    ended: int = 0
    lacking: str = ""

    @property
    def done(self) -> bool:
        """Whether nothing is left in the namespace."""
        return not self.draining


def release(handle: Handle, capture: Capture, actual: Ruleset | None, table: str, *, patient: bool) -> Release:
    """Take one step towards an empty namespace; call again until it is done.

    `patient` leaves captured streams alone; otherwise they are ended now. Every step can be repeated after a kill.
    What was written is read back. Raises `KernelError`, `NotAsWritten` among it.
    """
    with handle.inside(), SocketDiag() as diag, Conntrack() as conntrack:
        ended = 0
        if actual is not None:
            draining = pod.build(capture, stage=Stage.DRAINING, table=table)
            step = diff(actual, draining)
            handle.apply(step)
            handle.hold(draining)
            if step and patient:  # nobody waits for it, as a starting pod does
                enrol.verify(handle, draining)
            flows = conntrack.flows()
            streams.forget_dns(conntrack, flows)
            left = streams.captured(flows, capture)
            if left and patient:
                return Release(draining=streams.through_proxy(left, capture))
            try:
                ended = streams.end(left, diag, conntrack)
            except FeatureMissing as missing:
                return Release(draining=streams.through_proxy(left, capture), lacking=missing.said)
            streams.forget_captured(conntrack, flows, capture)
            streams.forget_kept(diag, conntrack, capture)
            handle.apply(diff(draining, None))
            if handle.read(table) is not None:
                said = "the table is there again: somebody else has made it"
                raise NotAsWritten(statement=f"nft delete table inet {table}", said=said)
        routing.apply(RoutingPlan(actual=routing.read(), desired=NO_ROUTING))
        return Release(ended=ended)
