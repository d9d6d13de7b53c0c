"""The differences from Istio's ambient rules that are wanted: each with its name, and how it is known.

The first side is Weir's, the second the other's. A parting of ways is uniform: what is said of it holds for all of its
packets.
"""

from collections.abc import Callable
from dataclasses import dataclass

from rulesets.equivalence.sameness import What
from rulesets.equivalence.space import Space, Way
from rulesets.equivalence.story import Parting, Scene
from rulesets.equivalence.terms import Header
from rulesets.model import Rule
from rulesets.packet import Fate
from rulesets.vocabulary import Dnat, Hook, Redirect, SetMark


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A parting of ways in one respect, and the rules that decided: Weir's, and the other's."""

    space: Space
    parting: Parting
    what: What
    mine: Rule | None
    others: Rule | None

    @property
    def entered(self) -> tuple[Header, Header]:
        """The packet as it entered both sides' stacks."""
        return self.parting.scene.headers


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A difference that is wanted, in a sentence, and how it is told from others."""

    sentence: str
    known: Callable[[Case], bool]


def classify(case: Case) -> str:
    """Return the slug of the wanted difference that this is, or nothing."""
    return next((slug for slug, each in WANTED.items() if each.known(case)), "")


def _forwarded(case: Case) -> bool:
    untouched = _ends(case.parting.trips[0].header) == _ends(case.entered[0])
    captures = case.others is not None and isinstance(case.others.action, Redirect | Dnat)
    return case.space.kind.way is Way.THROUGH and case.what in (What.TARGET, What.FATE) and untouched and captures


def _address_kept(case: Case) -> bool:
    if case.mine is None or case.others is None or case.what not in (What.TARGET, What.FATE):
        return False
    same_port = isinstance(case.mine.action, Dnat) and case.others.action == Redirect(port=case.mine.action.port)
    return case.space.kind.way is Way.IN and same_port


def _zone_direction(case: Case) -> bool:
    (zone, reply_zone), (others, others_reply) = (each.zones for each in case.parting.trips)
    if case.what is not What.ZONE or not others == others_reply != 0 == reply_zone:
        return False
    return zone == others or (zone == 0 and case.entered[1].hook is Hook.PREROUTING)


def _mark_bits(case: Case) -> bool:
    if case.what not in (What.MARK, What.ROUTE) or case.mine is None or not isinstance(case.mine.action, SetMark):
        return False
    mask, trips = case.mine.action.mark.mask, case.parting.trips
    return all(
        kept == restored if bits & mask else (kept == old and restored == of_connection)
        for bits, old, kept, restored, of_connection in zip(
            case.space.marks.masks,
            case.entered[0].mark,
            trips[0].header.mark,
            trips[1].header.mark,
            trips[1].header.connection_mark,
            strict=True,
        )
    )


def _ingress_mark(case: Case) -> bool:
    begun = _where_marked(case)
    return begun is not None and not begun.loops


def _redirected_mark(case: Case) -> bool:
    begun = _where_marked(case)
    return begun is not None and begun.loops and begun.headers[0].translation is not None


def _where_marked(case: Case) -> Scene | None:
    """Return the packet on its way in that marks its connection on the other's side alone, and what comes of it."""
    scene, mine = case.parting.scene, case.parting.trips[0].header
    later = _marked_apart(scene)
    while scene.before is not None and _marked_apart(scene):
        scene = scene.before[0]  # to where the connection was marked
    kept = (
        case.what in (What.MARK, What.ROUTE) and mine.mark == case.entered[0].mark
        if later
        else case.what is What.CONNECTION_MARK and mine.connection_mark == case.entered[0].connection_mark
    )
    return scene if kept and scene.headers[0].hook is Hook.PREROUTING else None


def _marked_apart(scene: Scene) -> bool:
    return scene.headers[0].connection_mark != scene.headers[1].connection_mark


def _family_refused(case: Case) -> bool:
    refused = case.parting.trips[0].fate is Fate.REFUSED and case.parting.trips[1].fate is Fate.ACCEPTED
    return case.what is What.FATE and refused and case.mine is not None and case.mine.slug.endswith("-refused")


def _ends(header: Header) -> tuple[object, ...]:
    return header.source, header.source_port, header.destination, header.destination_port


WANTED = {
    "forwarded-traffic": Wanted(
        sentence="Traffic that the namespace only forwards is left alone; the others capture it.", known=_forwarded
    ),
    "address-kept": Wanted(
        sentence="Inbound keeps the address that was asked for; a redirect goes to the interface's first, or drops.",
        known=_address_kept,
    ),
    "zone-direction": Wanted(
        sentence="The proxy's DNS is tracked in a zone in the original direction only, not in both.",
        known=_zone_direction,
    ),
    "mark-bits-kept": Wanted(
        sentence="A reply's packet mark keeps the bits outside the mask; a restore takes all from the connection.",
        known=_mark_bits,
    ),
    "ingress-mark": Wanted(
        sentence="A packet that gets the proxy's mark on its way in doesn't mark its connection.", known=_ingress_mark
    ),
    "redirected-mark": Wanted(
        sentence="A packet that first bears the proxy's mark on a redirected connection doesn't mark it.",
        known=_redirected_mark,
    ),
    "family-refused": Wanted(
        sentence="A family that isn't captured is refused rather than let past the proxy.", known=_family_refused
    ),
}
