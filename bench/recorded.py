"""What nft sends the kernel for a text: the bytes of its batch, recorded with strace."""

import re
import struct
import tempfile
from pathlib import Path

from netns_tests.namespace import Namespace

# nlmsghdr: length, type, flags, sequence number, port id; nlmsg_flags and types of linux/netlink.h and nfnetlink.h.
_HEADER = struct.Struct("=IHHII")
_NLM_F_ACK = 0x004
_BATCH_BEGIN, _BATCH_END = 16, 17
_CALL = re.compile(r"^sendmsg\(", re.MULTILINE)
_DUMPED = re.compile(r"^ \| [0-9a-f]+ ((?: {1,2}[0-9a-f]{2})+) ", re.MULTILINE)


def batch(text: str, *, end_acknowledged: bool) -> bytes:
    """Return what nft sends for a text; its end is to be acknowledged, or the message before that."""
    with Namespace.create("record") as namespace, tempfile.TemporaryDirectory(prefix="weir-bench-") as directory:
        trace = Path(directory, "trace")
        argv = ("strace", "-e", "trace=sendmsg", "-e", "write=all", "-o", str(trace), "nft", "-f", "-")
        namespace.command(*argv, stdin=text)
        found = [each for each in sends(trace.read_text()) if _HEADER.unpack_from(each)[1] == _BATCH_BEGIN]
    if len(found) != 1:
        raise RuntimeError(f"strace saw nft send {len(found)} batches where one was expected")
    return acknowledged(found[0], end=end_acknowledged)


def sends(trace: str) -> list[bytes]:
    """Return the bytes of each sendmsg of a trace, all its buffers together."""
    calls = _CALL.split(trace)[1:]
    return [b"".join(bytes.fromhex(line) for line in _DUMPED.findall(each)) for each in calls]


def acknowledged(data: bytes, *, end: bool) -> bytes:
    """Return a batch in which only one message asks for an acknowledgement: its end, or the last one before it."""
    changed = bytearray(data)
    places = []
    at = 0
    while at + _HEADER.size <= len(changed):
        length, kind, flags, sequence, port = _HEADER.unpack_from(changed, at)
        _HEADER.pack_into(changed, at, length, kind, flags & ~_NLM_F_ACK, sequence, port)
        places.append(at)
        at += (length + 3) & ~3
    if len(places) < 2 or _HEADER.unpack_from(changed, places[-1])[1] != _BATCH_END:
        raise ValueError("no whole batch")
    asks = places[-1] if end else places[-2]
    length, kind, flags, sequence, port = _HEADER.unpack_from(changed, asks)
    _HEADER.pack_into(changed, asks, length, kind, flags | _NLM_F_ACK, sequence, port)
    return bytes(changed)
