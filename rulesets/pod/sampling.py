"""Which connections the kernel traces, for metrics of how many rules a packet meets: one function per place.

Off unless asked for. A rule that traces changes nothing for a packet. It stands in the nat chains, which are asked
about a connection's first packet alone: the others cost nothing. The rules of `raw-out` and `mangle-out` come before
it; none of them ends its chain, so a packet has met them all.
"""

from collections.abc import Iterator

from rulesets.capture import Capture
from rulesets.model import Rule
from rulesets.pod.shared import Stage, captures_inbound
from rulesets.vocabulary import Sampled, Trace

OUTBOUND, INBOUND = "outbound-sampled", "inbound-sampled"


def arriving(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """Connections that arrive."""
    if captures_inbound(capture) or capture.virtual_interfaces:
        yield from _sampled(capture, INBOUND)


def leaving(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """Connections that leave."""
    if capture.outbound:
        yield from _sampled(capture, OUTBOUND)


def _sampled(capture: Capture, slug: str) -> Iterator[Rule]:
    if capture.sample:
        yield Rule(slug=slug, matches=(Sampled(one_in=capture.sample),), action=Trace())
