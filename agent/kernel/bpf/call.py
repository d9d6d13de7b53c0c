"""bpf(2): maps, programs and links, each a descriptor that goes with this process.

Sources: bpf(2), include/uapi/linux/bpf.h (union bpf_attr), kernel/bpf/syscall.c, net/netfilter/nf_bpf_link.c.
"""

import ctypes
import errno
import os
import platform
import struct
import sys
from functools import cache
from pathlib import Path

from agent.errors import FeatureMissing, KernelError, PermissionMissing

BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_PERCPU_ARRAY = 1, 2, 6

_MAP_CREATE, _MAP_LOOKUP_ELEM, _MAP_UPDATE_ELEM, _PROG_LOAD, _LINK_CREATE = 0, 1, 2, 5, 28
_PROG_TYPE_NETFILTER, _NETFILTER = 32, 45  # the second is the kind of link
_LICENSE = b"Apache-2.0"  # no function that is called is for GPL alone
_LOG = 1 << 16
_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361}  # of the call, on each machine
_POSSIBLE = Path("/sys/devices/system/cpu/possible")

_FEATURE = "a BPF program at netfilter's hooks"
_OPTION = "CONFIG_NETFILTER_BPF_LINK, Linux 6.4"
_BUILT = (
    "a kernel of Linux 6.4 or later, built with CONFIG_BPF_SYSCALL, CONFIG_NETFILTER_BPF_LINK, CONFIG_DEBUG_INFO_BTF"
)
_RIGHTS = (
    "programs at netfilter's hooks need CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN (CAP_SYS_ADMIN has the first two);"
    " a container's seccomp profile can refuse bpf(2), too"
)


def new_map(kind: int, *, key: int, value: int, entries: int, name: str) -> int:
    """Return a map's descriptor; sizes of key and value in bytes. Raises `FeatureMissing`, `PermissionMissing`."""
    statement = f"bpf(BPF_MAP_CREATE, {name})"
    return _done(
        statement, *_bpf(_MAP_CREATE, struct.pack("=7I16s", kind, key, value, entries, 0, 0, 0, name.encode()))
    )


def program(instructions: bytes, name: str) -> int:
    """Return the descriptor of a program for netfilter's hooks.

    Raises `FeatureMissing` where the kernel has no such programs, `PermissionMissing`, and `KernelError` with what its
    verifier says of one that it refuses.
    """
    statement = f"bpf(BPF_PROG_LOAD, {name})"
    found, code = _load(instructions, name)
    if found < 0 and code not in (errno.EPERM, errno.ENOSYS):
        log = ctypes.create_string_buffer(_LOG)
        found, code = _load(instructions, name, log)
        said = log.value.decode(errors="replace").strip().splitlines()
        # The last lines are statistics of the verifier's work.
        said = [each for each in said if not each.startswith(("processed ", "verification time", "stack depth"))]
        if found < 0 and said and "invalid bpf_context access" in said[-1]:
            raise FeatureMissing(
                feature="BTF", option="CONFIG_DEBUG_INFO_BTF", statement=statement, said=said[-1], hint=_BUILT
            )
        if found < 0 and said:
            raise KernelError(statement=statement, said=f"{os.strerror(code)}: the verifier says: {said[-1]}")
        if found < 0 and code == errno.EINVAL:  # refused before anybody has looked at it: no such type of program
            raise FeatureMissing(
                feature=_FEATURE, option=_OPTION, statement=statement, said=os.strerror(code), hint=_BUILT
            )
    return _done(statement, found, code)


def link(of: int, *, family: int, hook: int, priority: int) -> int | None:
    """Put a program at a hook of the calling thread's namespace until the descriptor that is returned is closed.

    `family` is NFPROTO_IPV4 or NFPROTO_IPV6. None where something stands at just this priority: the kernel takes no
    program beside it. Raises as `program`.
    """
    statement = f"bpf(BPF_LINK_CREATE, family {family}, hook {hook}, priority {priority})"
    found, code = _bpf(_LINK_CREATE, struct.pack("=6IiI", of, 0, _NETFILTER, 0, family, hook, priority, 0))
    if found < 0 and code == errno.EBUSY:
        return None
    if found < 0 and code in (errno.EINVAL, errno.EOPNOTSUPP):
        raise FeatureMissing(feature=_FEATURE, option=_OPTION, statement=statement, said=os.strerror(code), hint=_BUILT)
    return _done(statement, found, code)


def values(of: int, index: int, size: int) -> tuple[bytes, ...]:
    """Return an element of a BPF_MAP_TYPE_PERCPU_ARRAY as each processor has it; `size` is a multiple of eight."""
    key = ctypes.create_string_buffer(struct.pack("=I", index), 4)
    value = ctypes.create_string_buffer(size * _possible())
    asked = struct.pack("=IxxxxQQQ", of, ctypes.addressof(key), ctypes.addressof(value), 0)
    _done(f"bpf(BPF_MAP_LOOKUP_ELEM, {index})", *_bpf(_MAP_LOOKUP_ELEM, asked))
    return tuple(value.raw[start : start + size] for start in range(0, len(value), size))


def set_value(of: int, index: int, value: int) -> None:
    """Set an element of eight bytes of a BPF_MAP_TYPE_ARRAY, for all processors at once."""
    key = ctypes.create_string_buffer(struct.pack("=I", index), 4)
    held = ctypes.create_string_buffer(struct.pack("=Q", value), 8)
    asked = struct.pack("=IxxxxQQQ", of, ctypes.addressof(key), ctypes.addressof(held), 0)
    _done(f"bpf(BPF_MAP_UPDATE_ELEM, {index})", *_bpf(_MAP_UPDATE_ELEM, asked))


def _load(instructions: bytes, name: str, log: "ctypes.Array[ctypes.c_char] | None" = None) -> tuple[int, int]:
    code = ctypes.create_string_buffer(instructions, len(instructions))
    license_ = ctypes.create_string_buffer(_LICENSE)
    asked = struct.pack(
        "=IIQQIIQII16sII",
        _PROG_TYPE_NETFILTER,
        len(instructions) // 8,
        ctypes.addressof(code),
        ctypes.addressof(license_),
        0 if log is None else 1,
        0 if log is None else len(log),
        0 if log is None else ctypes.addressof(log),
        0,
        0,
        name.encode(),
        0,
        _NETFILTER,
    )
    return _bpf(_PROG_LOAD, asked)


def _bpf(command: int, asked: bytes) -> tuple[int, int]:
    """Return what the call returns, and errno where that is -1."""
    machine = platform.machine()
    if machine not in _NUMBERS or sys.byteorder != "little":
        return -1, errno.ENOSYS
    attributes = ctypes.create_string_buffer(asked, len(asked))
    found: int = _libc().syscall(ctypes.c_long(_NUMBERS[machine]), command, attributes, len(asked))
    return found, ctypes.get_errno() if found < 0 else 0


def _done(statement: str, found: int, code: int) -> int:
    if found >= 0:
        return found
    said = os.strerror(code)
    if code in (errno.EPERM, errno.EACCES):
        raise PermissionMissing(statement=statement, said=said, hint=_RIGHTS)
    if code == errno.ENOSYS:
        option = f"CONFIG_BPF_SYSCALL, {_OPTION}"
        raise FeatureMissing(feature=_FEATURE, option=option, statement=statement, said=said, hint=_BUILT)
    raise KernelError(statement=statement, said=said)


@cache
def _possible() -> int:
    """Return how many processors the machine can come to have: each has its own value of a map's element."""
    try:
        ranges = [each.split("-") for each in _POSSIBLE.read_text().strip().split(",")]
    except OSError as error:
        raise KernelError(statement=f"cat {_POSSIBLE}", said=str(error.strerror)) from None
    return sum(int(each[-1]) - int(each[0]) + 1 for each in ranges)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
