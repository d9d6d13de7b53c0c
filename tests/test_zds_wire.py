"""ZDS as bytes: what real agents and proxies send, and what nobody should."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import TargetError
from agent.mesh.wire import (
    LONGEST_PACKET,
    Add,
    Delete,
    Garbled,
    Keep,
    Request,
    SnapshotSent,
    Workload,
    decode_answer,
    decode_hello,
    encode,
    uid_of,
)
from netns_tests import mesh_proxy_rules as proxy


@dataclass(frozen=True, slots=True)
class Place:
    identity: str = "ns"

    def fileno(self) -> int:
        raise AssertionError("nothing is sent here")


def pod(uid: str = "u", namespace: str = "n", name: str = "p", service_account: str = "s") -> Workload:
    return Workload(uid=uid, namespace=namespace, name=name, service_account=service_account)


# The bytes are those of Istio's own agent and ztunnel.
@pytest.mark.parametrize(
    ("request_", "packet"),
    [
        (Add(pod(), Place()), "0a0e0a017512090a017012016e1a0173"),
        (Delete("u"), "1203120175"),
        (SnapshotSent(), "1a00"),
        (Keep("u"), "2a030a0175"),
    ],
)
def test_requests_are_as_istios_agent_sends_them(request_: Request, packet: str) -> None:
    assert encode(request_).hex() == packet


def test_answers_are_read_as_ztunnel_sends_them() -> None:
    assert decode_hello(bytes.fromhex("0801")) == 1
    assert decode_answer(bytes.fromhex("0a00")) == ""
    assert decode_answer(bytes.fromhex("0a030a0165")) == "e"


def test_a_newer_proxy_may_say_more() -> None:
    assert decode_hello(bytes.fromhex("0802" + "1a0178" + "2001" + "2d00000000" + "310000000000000000")) == 2
    assert decode_answer(bytes.fromhex("120178" + "0a050a01651001")) == "e"


@pytest.mark.parametrize(
    "packet",
    ["", "08", "0800", "0a0178", "ffffffffffffffffffff01", "0b", "00", "1a0178"],
    ids=["nothing", "cut off", "version 0", "a string", "endless number", "group", "field 0", "another field"],
)
def test_what_is_no_hello_is_said_to_be_none(packet: str) -> None:
    with pytest.raises(Garbled):
        decode_hello(bytes.fromhex(packet))


@given(st.binary(max_size=80))
def test_no_packet_does_more_than_be_garbled(packet: bytes) -> None:
    for decode in (decode_hello, decode_answer):
        try:
            decode(packet)
        except Garbled:
            pass


names = st.text(st.characters(codec="utf-8").filter(str.isprintable), min_size=1, max_size=60)


@given(names, names, names, names | st.just(""))
def test_a_proxy_reads_what_was_meant(uid: str, namespace: str, name: str, service_account: str) -> None:
    workload = pod(uid, namespace, name, service_account)
    packet = encode(Add(workload, Place()))
    assert len(packet) <= LONGEST_PACKET == proxy.BUFFER
    assert proxy.decode(packet) == proxy.Message("add", uid, (name, namespace, service_account))
    assert proxy.decode(encode(Keep(uid))) == proxy.Message("keep", uid)
    assert proxy.decode(encode(Delete(uid))) == proxy.Message("delete", uid)


@given(st.text())
def test_a_proxys_words_arrive(words: str) -> None:
    try:
        packet = proxy.answer(words)
    except UnicodeEncodeError:
        return
    assert decode_answer(packet) == words


def test_words_that_are_no_text_arrive_as_far_as_they_are() -> None:
    assert decode_answer(bytes.fromhex("0a040a02ff65")) == "\ufffde"


def test_the_longest_names_of_kubernetes_fit() -> None:
    workload = pod("0" * 36, "n" * 63, "p" * 253, "s" * 253)
    assert len(encode(Add(workload, Place()))) <= LONGEST_PACKET


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"uid": ""}, "uid = ''"),
        ({"uid": "a\nb"}, r"uid = 'a\\nb'"),
        ({"uid": "u" * 254}, "too long"),
        ({"name": ""}, "pod u: name = ''"),
        ({"namespace": "a\0"}, r"pod u: namespace = 'a\\x00'"),
        ({"service_account": "\ud800"}, "pod u: service account"),
        ({"name": "p" * 800, "service_account": "s" * 253}, "pod/n/.*: its names take .* bytes"),
    ],
)
def test_what_a_proxy_would_not_take_is_refused_when_it_is_made(values: dict[str, str], complaint: str) -> None:
    with pytest.raises(TargetError, match=complaint):
        pod(**values)


def test_every_request_says_whom_it_is_about() -> None:
    requests: list[Request] = [Add(pod("a"), Place()), Keep("k"), Delete("d"), SnapshotSent()]
    assert [uid_of(each) for each in requests] == ["a", "k", "d", ""]
    assert [str(each) for each in requests] == ["Add of pod/n/p (a)", "Keep of k", "Delete of d", "SnapshotSent"]
