"""Anonymous sets of addresses: they may be long, so each is one thing that is asked for, known by its identity."""

from collections.abc import Iterator

from rulesets.equivalence.atoms import Span, joined
from rulesets.vocabulary import Between, Dst, OneOf, Src


def is_of_addresses(match: OneOf) -> bool:
    """Tell whether an anonymous set holds addresses."""
    return isinstance(match.matches[0], Src | Dst | Between)


def address_spans(match: OneOf) -> list[Span]:
    """Return the addresses of an anonymous set, rising."""
    return list(joined(_ends(match)))


def _ends(match: OneOf) -> Iterator[Span]:
    for each in match.matches:
        match each:
            case Src(network=network) | Dst(network=network):
                yield int(network.network_address), int(network.broadcast_address)
            case Between(first=first, last=last):
                yield int(first), int(last)
            case _:
                raise AssertionError("only addresses stand beside addresses")
