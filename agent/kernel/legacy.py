"""Which tables of iptables-legacy a namespace has, found by looking: nothing is started, and no module is loaded."""

import ctypes
import socket
import struct
from functools import cache
from pathlib import Path

from agent.errors import KernelError
from rulesets.vocabulary import Family

# include/uapi/linux/netfilter_ipv4/ip_tables.h: IPT_SO_GET_INFO (of IPv6 the same number), struct ipt_getinfo.
_SO_GET_INFO = 64
_GET_INFO = struct.Struct("=32s13I")
_NAMES = {Family.IPV4: "ip_tables_names", Family.IPV6: "ip6_tables_names"}


def tables(family: Family) -> frozenset[str] | None:
    """Return the tables of ip_tables in this namespace, None where the kernel has no ip_tables at present."""
    try:
        # /proc/net is the main thread's namespace.
        return frozenset(Path("/proc/thread-self/net", _NAMES[family]).read_text().split())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KernelError(statement=f"cat /proc/net/{_NAMES[family]}", said=str(error.strerror)) from None


def size(family: Family, table: str) -> tuple[int, int]:
    """Return how many entries a table has that `tables` has named, and how many bytes they are: 0.02 ms.

    Most changes of its rules change one of the two. Nought where the kernel doesn't say.
    """
    v4 = family is Family.IPV4
    answer = ctypes.create_string_buffer(_GET_INFO.pack(table.encode(), *(0,) * 13), _GET_INFO.size)
    length = ctypes.c_uint32(_GET_INFO.size)
    try:
        with socket.socket(socket.AF_INET if v4 else socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW) as asked:
            level = socket.IPPROTO_IP if v4 else socket.IPPROTO_IPV6
            # The question stands where the answer goes, for which socket.getsockopt has no room.
            if _libc().getsockopt(asked.fileno(), level, _SO_GET_INFO, answer, ctypes.byref(length)) != 0:
                return 0, 0
    except OSError:
        return 0, 0
    entries, size = _GET_INFO.unpack(answer.raw)[-2:]
    return entries, size


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)
