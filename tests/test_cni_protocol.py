"""What plugins ask: typed values from what they send, and a refusal with key, value and reason for what can't be."""

import json
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cni.protocol import (
    MOST_BYTES,
    Add,
    Attachment,
    Check,
    Collect,
    Delete,
    RequestError,
    Sandbox,
    Status,
    parse,
    parse_istio,
)

ASKED = {
    "container": "c0ffee",
    "interface": "eth0",
    "netns": "/var/run/netns/cni-1",
    "namespace": "shop",
    "pod": "web-0.a",
    "uid": "a5d2",
    "addresses": ["10.0.0.2/24", "fd00::2/64"],
}
SANDBOX = Sandbox(
    namespace="shop",
    pod="web-0.a",
    uid="a5d2",
    container="c0ffee",
    interface="eth0",
    netns="/var/run/netns/cni-1",
    addresses=(ip_address("10.0.0.2"), ip_address("fd00::2")),
)
# As Istio's plugin sends it: its reference's own example.
ISTIO: dict[str, Any] = {
    "Netns": "/var/run/netns/cni-2",
    "PodName": "web-0",
    "PodNamespace": "shop",
    "IPs": [{"Interface": 0, "Address": {"IP": "10.0.0.2", "Mask": "////AA=="}, "Gateway": "10.0.0.1"}],
}


def asking(**other: Any) -> bytes:
    return json.dumps({**ASKED, **other}).encode()


def test_each_verb_becomes_a_value() -> None:
    assert parse("add", asking()) == Add(sandbox=SANDBOX)
    assert parse("check", asking()) == Check(sandbox=SANDBOX)
    assert parse("del", asking()) == Delete(sandbox=SANDBOX)
    assert parse("status", b"{}") == Status()
    kept = [{"containerID": "a", "ifname": "eth0"}, {"containerID": "a", "ifname": "eth0"}]
    assert parse("gc", json.dumps({"cni.dev/valid-attachments": kept}).encode()) == Collect(
        kept=frozenset({Attachment("a", "eth0")})
    )


def test_a_newer_plugins_keys_are_passed_over() -> None:
    assert parse("add", asking(later={"than": "this"})) == Add(sandbox=SANDBOX)


def test_some_things_may_be_missing() -> None:
    bare = Sandbox(namespace="shop", pod="web-0", container="c", interface="eth0")
    asked = {"namespace": "shop", "pod": "web-0", "container": "c", "interface": "eth0", "addresses": None}
    assert parse("del", json.dumps(asked).encode()) == Delete(sandbox=bare)
    with pytest.raises(RequestError, match="netns = '': wants an absolute path"):
        parse("add", json.dumps(asked).encode())


def test_nothing_left_has_to_be_said() -> None:
    """Or a request that was cut short would throw away what every pod needs."""
    assert parse("gc", b'{"cni.dev/valid-attachments": []}') == Collect(kept=frozenset())
    with pytest.raises(RequestError, match="is missing"):
        parse("gc", b"{}")


def test_istios_request_becomes_the_same() -> None:
    sandbox = Sandbox(namespace="shop", pod="web-0", netns="/var/run/netns/cni-2", addresses=(ip_address("10.0.0.2"),))
    assert parse_istio(json.dumps(ISTIO).encode()) == Add(sandbox=sandbox, from_istio=True)
    assert parse_istio(json.dumps({**ISTIO, "IPs": None}).encode()).sandbox.addresses == ()
    mapped = [{"Address": {"IP": "::ffff:10.0.0.2"}}]
    assert parse_istio(json.dumps({**ISTIO, "IPs": mapped}).encode()).sandbox.addresses == (ip_address("10.0.0.2"),)


@pytest.mark.parametrize("key", sorted(ISTIO))
@pytest.mark.parametrize("value", ["", 7, [7], {"Address": 7}, [{"Address": {}}], "a\nb", "x" * 5000])
def test_what_istio_never_sends_is_refused(key: str, value: object) -> None:
    with pytest.raises(RequestError, match=key):
        parse_istio(json.dumps({**ISTIO, key: value}).encode())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("namespace", "Shop"),
        ("namespace", "shop/web"),
        ("namespace", "shop\n"),
        ("namespace", "\u0661"),  # a digit, but none of Kubernetes'
        ("namespace", "a" * 64),
        ("namespace", None),
        ("pod", ""),
        ("pod", "-web"),
        ("pod", "web..0"),
        ("pod", "a" * 254),
        ("pod", ["web"]),
        ("uid", "a b"),
        ("uid", "; flush ruleset"),
        ("uid", "a" * 129),
        ("container", "../x"),
        ("interface", "sixteen-long-now"),
        ("interface", "eth0\n"),
        ("interface", "a/b"),
        ("netns", "var/run/netns/x"),
        ("netns", "/var/run/netns/../../proc/1/ns/net"),
        ("netns", "/var/run/netns/x\0"),
        ("netns", "/var/run/netns/x\n"),
        ("netns", "/" + "a" * 4096),
        ("addresses", "10.0.0.2"),
        ("addresses", ["10.0.0.256"]),
        ("addresses", ["10.0.0.2/33"]),
        ("addresses", ["fe80::1%eth0"]),
        ("addresses", ["127.0.0.1/8"]),
        ("addresses", ["::1"]),
        ("addresses", ["0.0.0.0"]),
        ("addresses", ["224.0.0.1"]),
        ("addresses", [3232235777]),
        ("addresses", ["10.0.0.2"] * 65),
    ],
)
def test_what_cannot_be_is_refused_with_its_key(key: str, value: object) -> None:
    with pytest.raises(RequestError, match=f"^{key} = "):
        parse("add", asking(**{key: value}))


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"{", b"\xff\xfe", b'{"a": ' * 100_000, b"[" * 100_000, b"0" * 10_000]
)
def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(RequestError, match=r"^request = "):
        parse("add", body)
    with pytest.raises(RequestError, match=r"^request = "):
        parse_istio(body)


def test_a_refusal_is_short_and_on_one_line() -> None:
    with pytest.raises(RequestError) as refused:
        parse("add", asking(pod="a\nb" * 100_000))
    assert len(str(refused.value)) < 300
    assert "\n" not in str(refused.value)
    with pytest.raises(RequestError, match="is longer than"):
        parse("add", b" " * (MOST_BYTES + 1))


texts = st.text("a0./:-%\0\n \u00e9\u0663", max_size=6)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.sampled_from(["10.0.0.2/24", "/a", "eth0"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)


@given(
    st.sampled_from(["add", "check", "del", "gc", "status"]),
    st.dictionaries(st.sampled_from([*ASKED, "cni.dev/valid-attachments"]), anything),
)
def test_whatever_comes_is_understood_or_refused(verb: str, document: dict[str, object]) -> None:
    for body in (json.dumps(document), json.dumps({**ASKED, **document})):
        try:
            asked = parse(verb, body.encode())
        except RequestError:
            continue
        assert str(asked).isprintable()
