"""What a rule may do with a packet."""

from dataclasses import dataclass

from rulesets.vocabulary.read import ReadAction
from rulesets.vocabulary.values import Address, Foreign, Mark, RejectWith


@dataclass(frozen=True, slots=True, kw_only=True)
class Accept:
    """The packet leaves this chain; chains at later priorities still see it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect:
    """The connection goes to a port of this namespace: to the loopback address on output, else to the interface's."""

    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dnat:
    """The connection goes to another port of the same address."""

    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snat:
    """The connection is seen to come from this address."""

    address: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class SetMark:
    """The packet gets this mark; bits outside its mask stay."""

    mark: Mark


@dataclass(frozen=True, slots=True, kw_only=True)
class SetConnMark:
    """The connection gets this mark; bits outside its mask stay."""

    mark: Mark


@dataclass(frozen=True, slots=True, kw_only=True)
class CtZone:
    """The original direction of the connection is tracked in a zone of its own: equal addresses there don't clash."""

    zone: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """The sender is told that the connection is refused."""

    reply: RejectWith


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """The kernel tells of every rule that the packet meets from here on (``meta nftrace set 1``); nothing else."""


Action = Accept | Redirect | Dnat | Snat | SetMark | SetConnMark | CtZone | Reject | Trace | ReadAction | Foreign
