"""Batches to the kernel: one send, and the one acknowledgement that says all of it is so.

Sources: net/netfilter/nfnetlink.c (nfnetlink_rcv_batch), net/netfilter/nf_tables_api.c.
"""

import errno
import threading

from agent.errors import GenerationMoved, KernelError, PermissionMissing, TableHeld
from agent.kernel.rawnetlink import RawNetlink, Receipt
from rulesets.netlink import QUESTION, Batch

_QUESTION_END = 1
_EVERYTHING = -1
_UNANSWERED = "the kernel did not acknowledge it: nothing is known to have changed"
_thread = threading.local()


def sent() -> int:
    """Return how many bytes of batches this thread has sent: what a pass took is the difference of two answers."""
    return int(getattr(_thread, "sent", 0))


def acknowledges_end(netlink: RawNetlink) -> bool:
    """Tell whether this kernel acknowledges the end of a batch (6.10 and later): what `encode` wants to know.

    The same for every namespace, so once is enough. It changes nothing, not even the generation.
    """
    receipts = netlink.exchange(QUESTION, last=_QUESTION_END)
    for each in receipts:
        if each.errno:
            raise _refusal(Batch(), each)
    return bool(receipts)


def send(netlink: RawNetlink, batch: Batch, *, generation: int | None = None) -> None:
    """Carry out a batch, all of it or nothing; with `generation` only while the namespace's rules are at that number.

    Raises `GenerationMoved`, `TableHeld` when another process owns the table, `PermissionMissing`, `AnswerLost` when it
    may have been carried out, and otherwise `KernelError` naming the rule, the set or the chain that was refused.
    """
    if not batch:
        return
    # The end is acknowledged only when all is done. Any message before it also when the batch fails further on, for the
    # kernel reads on to find every error: then everything that there is must be read.
    last = batch.acknowledged if batch.end_acknowledged else _EVERYTHING
    _thread.sent = sent() + len(batch.data)
    receipts = netlink.exchange(batch.data if generation is None else batch.at(generation), last=last)
    # What comes after the first refusal may be refused only because of it.
    for each in receipts:
        if each.errno:
            raise _refusal(batch, each)
    if [each.sequence for each in receipts] != [batch.acknowledged]:
        raise KernelError(statement=_whole(batch), said=_UNANSWERED)


def _refusal(batch: Batch, refused: Receipt) -> KernelError:
    message = batch.message(refused.sequence)
    statement = message.statement if message else _whole(batch)
    if refused.errno == errno.ERESTART and message is None:
        return GenerationMoved(statement=statement, said=f"{refused.said}: the rules have changed since they were read")
    if refused.errno == errno.EPERM and message is None:
        # Who may not change anything is told so of the first message, whatever stands in it.
        return PermissionMissing(
            statement=statement, said=refused.said, hint="changing nftables needs CAP_NET_ADMIN: run as root"
        )
    if refused.errno == errno.EPERM:
        return TableHeld(statement=statement, said=f"{refused.said}: another process owns the table")
    return KernelError(statement=statement, said=refused.said)


def _whole(batch: Batch) -> str:
    if not batch.messages:
        return "an empty nf_tables batch"
    return f"an nf_tables batch of {len(batch.messages)} messages, first: {batch.messages[0].statement}"
