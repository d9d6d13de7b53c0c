"""A batch: messages that the kernel carries out together or not at all, and what each of them is about."""

import struct
from dataclasses import dataclass, field
from enum import StrEnum

from rulesets.model import Chain, Counter, Element, Rule, Set
from rulesets.netlink import constants as c
from rulesets.netlink.attributes import be32
from rulesets.nft.text import render_counter, render_element, render_rule

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence number, port id
_PLACE = struct.Struct(">BBH")  # struct nfgenmsg: family, version (NFNETLINK_V0), resource id
_TABLES = _PLACE.pack(c.NFPROTO_INET, 0, 0)
_ANY = _PLACE.pack(c.NFPROTO_UNSPEC, 0, c.NFNL_SUBSYS_NFTABLES)
_FRAME = _HEADER.size + len(_ANY)
_ELEMENTS_SHOWN = 8


class Verb(StrEnum):
    """What a message does, as nft says it."""

    ADD = "add"
    DELETE = "delete"
    FLUSH = "flush"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What one message is about: a thing, or the table itself (None). `elements` are those of its set that it holds."""

    verb: Verb
    table: str
    thing: Rule | Chain | Counter | Set | None = None
    chain: str = ""
    elements: tuple[Element, ...] = ()

    @property
    def statement(self) -> str:
        """The message as a statement for nft, ready to paste; of many elements only the first and their number."""
        match self.thing:
            case None:
                return f"{self.verb} table inet {self.table}"
            case Rule():
                return f"{self.verb} rule inet {self.table} {self.chain} {render_rule(self.thing)}"
            case Counter():
                what = render_counter(self.thing) if self.verb is Verb.ADD else f"counter {self.thing.name}"
                return f"{self.verb} {what.replace('counter ', f'counter inet {self.table} ', 1)}"
            case Chain(name=name):
                place = f" {{ type {self.thing.type} hook {self.thing.hook} priority {self.thing.priority};"
                place += f" policy {self.thing.policy}; }}"
                return f"{self.verb} chain inet {self.table} {name}{place if self.verb is Verb.ADD else ''}"
            case Set(name=name) if self.elements:
                shown = ", ".join(map(render_element, self.elements[:_ELEMENTS_SHOWN]))
                more = len(self.elements) - _ELEMENTS_SHOWN
                return f"{self.verb} element inet {self.table} {name} {{ {shown}{f', and {more} more' * (more > 0)} }}"
            case Set(name=name):
                kind = f" {{ type {self.thing.key};{' flags interval;' * self.thing.interval} }}"
                return f"{self.verb} set inet {self.table} {name}{kind if self.verb is Verb.ADD else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The bytes of one transaction. Sequence numbers count from 0, the batch's begin; empty is nothing to do.

    One message asks for an acknowledgement: the end of the batch, or the last one before it (see `encode`).
    """

    data: bytes = b""
    acknowledged: int = 0
    messages: tuple[Message, ...] = field(default=(), repr=False)

    def __bool__(self) -> bool:
        return bool(self.data)

    def __len__(self) -> int:
        """The number of messages on the wire, begin and end included."""
        return len(self.messages) + 2 if self.data else 0

    @property
    def end_acknowledged(self) -> bool:
        """Whether it is the end that asks for the acknowledgement."""
        return self.acknowledged > len(self.messages)

    def message(self, sequence: int) -> Message | None:
        """Return what the message with this sequence number is about; None for the begin, the end and any other."""
        return self.messages[sequence - 1] if 0 < sequence <= len(self.messages) else None

    def at(self, generation: int) -> bytes:
        """Return the bytes of the same batch, which the kernel refuses (ERESTART) at any other generation."""
        return _begin(be32(c.NFNL_BATCH_GENID, generation)) + self.data[_FRAME:] if self.data else b""


class Draft:
    """Messages on their way into a batch."""

    def __init__(self, table: str) -> None:
        self._table = table
        self._written: list[tuple[int, int, bytes]] = []
        self._messages: list[Message] = []

    def add(
        self,
        kind: int,
        body: bytes,
        thing: Rule | Chain | Counter | Set | None = None,
        *,
        flags: int = c.NLM_F_CREATE,
        chain: str = "",
        elements: tuple[Element, ...] = (),
    ) -> None:
        """Add a message that makes something."""
        self._written.append((kind, flags, body))
        self._messages.append(Message(verb=Verb.ADD, table=self._table, thing=thing, chain=chain, elements=elements))

    def take(
        self,
        verb: Verb,
        kind: int,
        body: bytes,
        thing: Chain | Counter | Set | None = None,
        *,
        elements: tuple[Element, ...] = (),
    ) -> None:
        """Add a message that deletes or empties something."""
        self._written.append((kind, 0, body))
        self._messages.append(Message(verb=verb, table=self._table, thing=thing, elements=elements))

    def batch(self, *, end_acknowledged: bool) -> Batch:
        """Return the batch of all messages; the empty one when there are none."""
        if not self._written:
            return Batch()
        parts = [_begin(b"")]
        last = len(self._written)
        asks = last + 1 if end_acknowledged else last
        for sequence, (kind, flags, body) in enumerate(self._written, 1):
            how = c.NLM_F_REQUEST | flags | (c.NLM_F_ACK if sequence == asks else 0)
            what = c.NFNL_SUBSYS_NFTABLES << 8 | kind
            parts += _HEADER.pack(_FRAME + len(body), what, how, sequence, 0), _TABLES, body
        parts.append(_end(last + 1, acknowledged=end_acknowledged))
        return Batch(data=b"".join(parts), acknowledged=asks, messages=tuple(self._messages))


def _end(sequence: int, *, acknowledged: bool) -> bytes:
    flags = c.NLM_F_REQUEST | (c.NLM_F_ACK if acknowledged else 0)
    return _HEADER.pack(_FRAME, c.NFNL_MSG_BATCH_END, flags, sequence, 0) + _ANY


def _begin(attributes: bytes) -> bytes:
    return _HEADER.pack(_FRAME + len(attributes), c.NFNL_MSG_BATCH_BEGIN, c.NLM_F_REQUEST, 0, 0) + _ANY + attributes


# A batch in which nothing happens. The kernel answers it, at no cost, if it acknowledges the ends of batches (6.10).
QUESTION = _begin(b"") + _end(1, acknowledged=True)
