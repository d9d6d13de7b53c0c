"""BPF programs and maps as the kernel tells of them, whoever has them, and a kernel that takes no programs."""

import ctypes
import os
import platform
import re
import struct
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

__all__ = ["all_programs", "is_open", "programs_of", "refuse_programs"]

BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()]
MAP_LOOKUP_ELEM, PROG_GET_NEXT_ID, MAP_GET_FD_BY_ID = 1, 11, 14  # include/uapi/linux/bpf.h, enum bpf_cmd


def _told_of_descriptors(process: "subprocess.Popen[str]") -> Iterator[str]:
    """Yield what the kernel tells of each descriptor of a process."""
    for each in Path(f"/proc/{process.pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            yield each.read_text()


def programs_of(process: "subprocess.Popen[str]") -> set[int]:
    """Return the numbers of the BPF programs that a process holds, or has standing somewhere."""
    return {int(found[1]) for text in _told_of_descriptors(process) if (found := re.search(r"prog_id:\t(\d+)", text))}


def is_open(process: "subprocess.Popen[str]") -> bool:
    """Tell whether a process's brackets count: the gate, its only array that isn't of each processor, holds a one."""
    gates = [text for text in _told_of_descriptors(process) if "map_type:\t2\n" in text]
    if not gates:
        return False
    found = re.search(r"map_id:\t(\d+)", gates[0])
    assert found
    gate = _bpf(MAP_GET_FD_BY_ID, struct.pack("=III", int(found[1]), 0, 0))[0]
    if gate < 0:
        return False
    try:
        key, value = ctypes.create_string_buffer(4), ctypes.create_string_buffer(8)
        _bpf(MAP_LOOKUP_ELEM, struct.pack("=QQQQ", gate, ctypes.addressof(key), ctypes.addressof(value), 0))
        return value.raw[0] == 1
    finally:
        os.close(gate)


def _bpf(command: int, asked: bytes) -> tuple[int, bytes]:
    """Return what the call returns, and its question as it stands afterwards."""
    held = ctypes.create_string_buffer(asked, len(asked))
    return ctypes.CDLL(None).syscall(BPF, command, held, len(asked)), held.raw


def all_programs() -> set[int]:
    """Return the numbers of all BPF programs on the machine."""
    found: set[int] = set()
    last = 0
    while (answer := _bpf(PROG_GET_NEXT_ID, struct.pack("=III", last, 0, 0)))[0] == 0:
        last = struct.unpack("=III", answer[1])[1]
        found.add(last)
    return found


def refuse_programs(code: int) -> None:
    """Have the kernel answer the calling thread's BPF_PROG_LOAD so (seccomp(2)), as one that knows no such program."""
    steps = (
        (0x20, 0, 0, 0),  # the number of the call
        (0x15, 0, 3, BPF),
        (0x20, 0, 0, 16),  # its first argument
        (0x15, 0, 1, 5),  # BPF_PROG_LOAD
        (0x06, 0, 0, 0x00050000 | code),  # SECCOMP_RET_ERRNO
        (0x06, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
    )
    packed = b"".join(struct.pack("=HBBI", *each) for each in steps)
    program = ctypes.create_string_buffer(packed, len(packed))
    asked = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(program)))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, asked) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
