"""A packet's way through the chains for all values at once: `rulesets.packet.walk`, as one function of its fields."""

from dataclasses import replace

from rulesets.equivalence.chains import Chains
from rulesets.equivalence.nodes import Node
from rulesets.equivalence.packets import translated
from rulesets.equivalence.sameness import changed
from rulesets.equivalence.space import Space
from rulesets.equivalence.terms import Header, RuleAt, Trip
from rulesets.model import Chain, Ruleset
from rulesets.packet import Fate
from rulesets.packet.effects import Place
from rulesets.packet.stations import Station, stations
from rulesets.vocabulary import ChainType, ConnState, Hook, Policy, Protocol

_ICMP = (Protocol.ICMP, Protocol.ICMPV6)


class Passages:
    """The chains of one side, and what becomes of packets there. `first` is the number of its first ruleset."""

    def __init__(self, space: Space, rulesets: tuple[Ruleset, ...], first: int, *, naming: bool) -> None:
        """Put the base chains in the order in which packets meet them."""
        self._space = space
        self._naming = naming
        self._rulesets = dict(enumerate(rulesets, first))
        self.numbers = tuple(self._rulesets)
        self._stations = stations(self._rulesets.items(), space.kind.family)
        self._done: dict[tuple[Hook, int, Trip], Node] = {}

    def through(self, header: Header) -> Node:
        """Return the trip that every packet of this header has made when it is delivered, sent or stopped."""
        return self._from(header.hook, 0, Trip(header=header, route_mark=header.mark))

    def _from(self, hook: Hook, number: int, trip: Trip) -> Node:
        """Return how a packet fares from one of a hook's base chains on."""
        key = (hook, number, trip)
        found = self._done.get(key)
        if found is None:
            there = number < len(self._stations[hook])
            found = self._at(hook, number, trip) if there else self._next_hook(hook, trip)
            self._done[key] = found
        return found

    def _next_hook(self, hook: Hook, trip: Trip) -> Node:
        following: dict[Hook, Hook | None] = {
            Hook.PREROUTING: Hook.INPUT if trip.header.destination_local else Hook.FORWARD,
            Hook.FORWARD: Hook.POSTROUTING,
            Hook.OUTPUT: Hook.POSTROUTING,
            Hook.INPUT: None,
            Hook.POSTROUTING: None,
        }
        after = following[hook]
        trip = replace(trip, mapped=False)
        if hook is Hook.PREROUTING:
            trip = replace(trip, route_mark=trip.header.mark)  # the route is looked up with the mark that it has now
        return self._space.diagrams.leaf(trip) if after is None else self._from(after, 0, trip)

    def _at(self, hook: Hook, number: int, trip: Trip) -> Node:
        """Return how a packet fares from a station on."""
        station = self._stations[hook][number]
        chain, asks_nat = station.chain, not trip.mapped and self._asks_nat(trip.header)
        if chain is None and not asks_nat:
            trip = replace(trip, header=translated(self._space, trip.header, hook))
        if chain is None or (chain.type is ChainType.NAT and not asks_nat):
            return self._from(hook, number + 1, trip)
        return self._base_chain(hook, number, station, chain, trip)

    def _base_chain(self, hook: Hook, number: int, station: Station, chain: Chain, trip: Trip) -> Node:
        def ended(after: Trip) -> Node:
            if after.fate is not Fate.ACCEPTED:
                return self._space.diagrams.leaf(after)
            onwards = self._from(hook, number + 1, after)
            if chain.type is not ChainType.ROUTE:
                return onwards
            # The route is looked up again where the chain has changed the mark (net/netfilter/nft_chain_route.c).
            rerouted = self._from(hook, number + 1, replace(after, route_mark=after.header.mark))
            differs = changed(self._space, trip.header.mark, after.header.mark)
            return self._space.diagrams.choose(differs, rerouted, onwards)

        def fell_off(after: Trip) -> Node:
            if chain.policy is Policy.ACCEPT:
                return ended(after)
            at = RuleAt(station.ruleset, chain.name, -1)
            names = replace(after.names, fate=at) if self._naming else after.names
            return self._space.diagrams.leaf(replace(after, fate=Fate.DROPPED, names=names))

        ruleset = self._rulesets[station.ruleset]
        place = Place(hook=hook, early=station.early, iptables=ruleset.family is not None)
        chains = Chains(self._space, ruleset, station.ruleset, place, ended, naming=self._naming)
        return chains.through(chain.name, chain.rules, trip, fell_off)

    def _asks_nat(self, header: Header) -> bool:
        related = header.state is ConnState.RELATED and self._space.kind.protocol not in _ICMP
        return (header.state is ConnState.NEW or related) and not header.settled
