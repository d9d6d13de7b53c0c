"""What the kernel may answer to a batch, told by a stub at the socket: kernels that aren't here, and nonsense."""

import errno
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.errors import GenerationMoved, KernelError, PermissionMissing, TableHeld, WeirError
from agent.kernel import batches
from agent.kernel.rawnetlink import NETLINK_NETFILTER, RawNetlink
from rulesets.diff import Plan
from rulesets.netlink import encode
from tests import scenarios

POD = scenarios.load("dual-stack").ruleset
NEW = encode(Plan(actual=None, desired=POD))
OLD = encode(Plan(actual=None, desired=POD), end_acknowledged=False)


@dataclass
class Stub:
    """A socket whose kernel answers what it was told to beforehand."""

    netlink: RawNetlink
    kernel: socket.socket

    def hear(self) -> None:
        """Take what was sent off the line, which has room for few batches."""
        while True:
            try:
                self.kernel.recv(1, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return

    def will_say(self, sequence: int, code: int = 0, words: str = "") -> None:
        said = words.encode() + b"\0"
        told = struct.pack("=HH", len(said) + 4, 1) + said + bytes(-len(said) % 4) if words else b""
        flags = 0x300 if words else 0x100  # NLM_F_CAPPED, NLM_F_ACK_TLVS
        body = struct.pack("=i", -code) + struct.pack("=IHHII", 20, 0, 0, sequence, 0) + told
        self.kernel.send(struct.pack("=IHHII", 16 + len(body), 2, flags, sequence, 0) + body)


@pytest.fixture
def stub() -> Iterator[Stub]:
    netlink = RawNetlink(NETLINK_NETFILTER, feature="nf_tables", option="CONFIG_NF_TABLES")
    netlink.close()
    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, kernel:
        netlink._socket = ours
        yield Stub(netlink, kernel)


def test_an_older_kernel_does_not_acknowledge_the_end(stub: Stub) -> None:
    assert not batches.acknowledges_end(stub.netlink)
    stub.will_say(1)
    assert batches.acknowledges_end(stub.netlink)


def test_one_acknowledgement_is_success(stub: Stub) -> None:
    stub.will_say(NEW.acknowledged)
    batches.send(stub.netlink, NEW)
    stub.will_say(OLD.acknowledged)
    batches.send(stub.netlink, OLD)


def test_no_acknowledgement_or_one_of_something_else_or_two_are_none(stub: Stub) -> None:
    for sequences in ((), (0,), (OLD.acknowledged - 1,), (OLD.acknowledged, OLD.acknowledged), (1, OLD.acknowledged)):
        for sequence in sequences:
            stub.will_say(sequence)
        with pytest.raises(KernelError, match="did not acknowledge"):
            batches.send(stub.netlink, OLD)


def test_an_acknowledgement_beside_a_refusal_is_not_success(stub: Stub) -> None:
    """A kernel reads on behind an error, and a commit may fail when every message was right."""
    stub.will_say(3, errno.EEXIST)
    stub.will_say(OLD.acknowledged)
    with pytest.raises(KernelError, match="EEXIST") as refused:
        batches.send(stub.netlink, OLD)
    third = OLD.message(3)
    assert third
    assert refused.value.statement == third.statement
    stub.will_say(OLD.acknowledged)
    stub.will_say(0, errno.ENOMEM)
    with pytest.raises(KernelError, match="ENOMEM"):
        batches.send(stub.netlink, OLD)


def test_the_first_refusal_is_the_one_that_is_told_with_the_kernels_own_words(stub: Stub) -> None:
    stub.will_say(5, errno.ENOENT, "no such counter")
    stub.will_say(6, errno.EBUSY)
    with pytest.raises(KernelError, match=r"ENOENT .*: no such counter") as refused:
        batches.send(stub.netlink, NEW)
    fifth = NEW.message(5)
    assert fifth
    assert fifth.statement in str(refused.value)


@pytest.mark.parametrize(
    ("code", "sequence", "kind"),
    [
        (errno.ERESTART, 0, GenerationMoved),
        (errno.EPERM, 0, PermissionMissing),
        (errno.EPERM, 1, TableHeld),
        (errno.EBUSY, 4, KernelError),
        (errno.ENFILE, 4, KernelError),
        (errno.EOPNOTSUPP, 1, KernelError),
        (errno.EINTR, 0, KernelError),
        (4095, 99999, KernelError),
    ],
)
def test_each_refusal_has_its_name(stub: Stub, code: int, sequence: int, kind: type[KernelError]) -> None:
    stub.will_say(sequence, code)
    with pytest.raises(KernelError) as refused:
        batches.send(stub.netlink, NEW)
    assert type(refused.value) is kind
    assert errno.errorcode.get(code, str(code)) in refused.value.said
    assert "inet weir-pod" in refused.value.statement


@settings(deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answers=st.lists(st.binary(min_size=1, max_size=80), max_size=3))
def test_nonsense_is_an_error_at_worst(stub: Stub, answers: list[bytes]) -> None:
    stub.hear()
    for each in answers:
        stub.kernel.send(each)
    with pytest.raises(WeirError):
        batches.send(stub.netlink, NEW)


@settings(deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.integers(0, 2**32 - 1), flags=st.integers(0, 2**16 - 1), rest=st.binary(max_size=64))
def test_a_spoiled_refusal_is_an_error(stub: Stub, length: int, flags: int, rest: bytes) -> None:
    stub.hear()
    stub.kernel.send(struct.pack("=IHHII", length, 2, flags, 3, 0) + struct.pack("=i", -errno.EINVAL) + rest)
    with pytest.raises(WeirError):
        batches.send(stub.netlink, NEW)
