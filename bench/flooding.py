"""Connections by the ten thousand a second: entries made and forgotten over ctnetlink, each an event.

As a program it does so where it is started, once a line has come: ``python -m bench.flooding ROUNDS RATE``. Each round
makes `BATCH` entries and forgets them; the rate is in events a second, 0 is as fast as it goes.
"""

import socket
import struct
import sys
import time
from ipaddress import ip_address

from agent.kernel.conntrack import FlowTuple, codec
from agent.kernel.rawnetlink import NETLINK_NETFILTER, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST

BATCH = 200
_HEADER = struct.Struct("=IHHII")
_NEW, _DELETE = 1 << 8, 1 << 8 | 2


def messages(first: int, many: int) -> tuple[bytes, bytes]:
    """Return what makes so many entries, and what forgets them."""
    made, forgotten = [], []
    for number in range(first, first + many):
        original = FlowTuple(
            source=ip_address("10.9.0.0") + number // 50000,
            destination=ip_address("10.8.8.8"),
            protocol=socket.IPPROTO_TCP,
            source_port=number % 50000 + 1024,
            destination_port=80,
        )
        header = codec.header(socket.AF_INET)
        create = header + codec.encode_established(original, mark=0, timeout=600)
        delete = header + codec.encode_tuple(codec.CTA_TUPLE_ORIG, original)
        made.append(_message(_NEW, NLM_F_CREATE | NLM_F_EXCL, create))
        forgotten.append(_message(_DELETE, 0, delete))
    return b"".join(made), b"".join(forgotten)


def _message(kind: int, flags: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST | flags, 0, 0) + body


def main(rounds: int, rate: float) -> None:
    """Say ready, wait for a line, make and forget, and say how long that took."""
    batches = [messages(number * BATCH, BATCH) for number in range(rounds)]
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as netlink:
        netlink.setsockopt(socket.SOL_SOCKET, 32, 2**20)  # SO_SNDBUFFORCE
        print("ready", flush=True)
        sys.stdin.readline()
        started = time.perf_counter()
        for number, (made, forgotten) in enumerate(batches):
            if rate:
                time.sleep(max(0.0, started + 2 * BATCH * number / rate - time.perf_counter()))
            netlink.send(made)
            netlink.send(forgotten)
        print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
