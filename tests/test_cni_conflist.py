"""The plugin's entry in others' network configurations: put in and taken out, and the rest the same to the byte."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cni.conflist import PLUGIN, chained, of_text, types, unchained, wrapped
from agent.cni.entry import Entry, selectors
from agent.errors import ConfigError

ENTRY: dict[str, Any] = {"type": PLUGIN, "agentSocket": "/run/weir/cni.sock"}

# As their own installers write them.
CALICO = """{
  "name": "k8s-pod-network",
  "cniVersion": "0.3.1",
  "plugins": [
    {
      "type": "calico",
      "log_level": "info",
      "ipam": {
          "type": "calico-ipam"
      },
      "policy": { "type": "k8s" }
    },
    {
      "type": "portmap",
      "snat": true,
      "capabilities": {"portMappings": true}
    }
  ]
}"""
FLANNEL = (
    '{\n\t"name": "cbr0",\r\n\t"plugins": [\n\t\t{"type": "flannel", "delegate": {"hairpinMode": true}}\n\t]\n}\n\n'
)
CILIUM = '{"cniVersion":"0.3.1","name":"cilium","plugins":[{"type":"cilium-cni","enable-debug":false}]}'
ODD = (
    '{"plugins": [{"type": "old"}], "name": "a", "plugins" : [ {"type":"b\\u00e9", "n": 1.50e1, "x": "}],{"} ] ,"z":[]}'
)
MULTUS = """{ "cniVersion": "1.0.0", "name": "multus-cni-network", "type": "multus-shim",
  "delegates": [{"name": "k8s-pod-network", "plugins": [{"type": "calico"}]}] }
"""


@pytest.mark.parametrize("text", [CALICO, FLANNEL, CILIUM, ODD])
def test_the_entry_comes_last_and_the_rest_stays(text: str) -> None:
    made = chained(text, ENTRY)
    before, after = json.loads(text), json.loads(made)
    assert after == {**before, "plugins": [*before["plugins"], ENTRY]}
    assert chained(made, ENTRY) is made
    assert unchained(made) == text
    assert unchained(text) is text


def test_it_looks_as_what_was_there() -> None:
    assert chained(CALICO, ENTRY).endswith(
        '{"portMappings": true}\n    },\n    {"type": "weir-cni", "agentSocket": "/run/weir/cni.sock"}\n  ]\n}'
    )


def test_an_entry_of_another_version_is_replaced_where_it_stands() -> None:
    document = json.loads(CALICO)
    document["plugins"][1:1] = [{"type": PLUGIN, "older": True}]
    made = json.loads(chained(json.dumps(document), ENTRY))
    assert [each["type"] for each in made["plugins"]] == ["calico", PLUGIN, "portmap"]
    assert made["plugins"][1] == ENTRY


def test_an_entry_is_never_first_nor_there_twice() -> None:
    document = json.loads(CALICO)
    document["plugins"] = [ENTRY, *document["plugins"], ENTRY, {"type": "bandwidth"}]
    made = json.loads(chained(json.dumps(document), ENTRY))
    assert [each["type"] for each in made["plugins"]] == ["calico", "portmap", "bandwidth", PLUGIN]
    assert types(json.loads(unchained(json.dumps(document)))) == ("calico", "portmap", "bandwidth")


@pytest.mark.parametrize("text", [MULTUS, '{"type": "bridge"}', '{"type":"bridge","cniVersion":"0.2.0","name":"mine"}'])
def test_a_single_plugin_stands_in_a_list_as_it_is(text: str) -> None:
    before, made = json.loads(text), wrapped(text, ENTRY)
    document = of_text(made, single=False)
    assert document["plugins"] == [before, ENTRY]
    assert text.strip() in made
    assert document["name"] == before.get("name", "k8s-pod-network"), "leases are kept under the network's name"
    assert document["cniVersion"] in ("0.3.1", "1.0.0"), "chains came with 0.3"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no JSON"),
        (CALICO[:-2], "is no JSON"),
        ("\ufeff" + CALICO, "is no JSON"),
        ('{"name": "a", "plugins": [{"type": "b", "mtu": NaN}]}', "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "is no JSON object"),
        ('{"name": "a"}', "has no plugins"),
        ('{"name": "a", "plugins": []}', "has no plugins"),
        ('{"name": "a", "plugins": {"type": "b"}}', "has no plugins"),
        ('{"name": "a", "plugins": ["b"]}', "without a type: 'b'"),
        ('{"name": "a", "plugins": [{"type": ""}]}', "without a type"),
        ('{"plugins": [{"type": "b"}]}', "has no name"),
        ('{"name": "a", "cniVersion": "2.0.0", "plugins": [{"type": "b"}]}', "speaks CNI up to 1.1.0"),
        ('{"name": "a", "cniVersions": ["1.0.0", "1.2.0"], "plugins": [{"type": "b"}]}', "speaks CNI up to 1.1.0"),
        ('{"name": "a", "cniVersion": 1, "plugins": [{"type": "b"}]}', "is no version"),
        (f'{{"name": "a", "plugins": [{json.dumps(ENTRY)}, {json.dumps(ENTRY)}]}}', "has no plugins"),
    ],
)
def test_what_no_runtime_could_use_is_not_touched(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        chained(text, ENTRY)


texts = st.text('a"\\[]{},: \n\u00e9', max_size=6)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=5,
)
plugins = st.builds(
    lambda kind, rest: {**rest, "type": kind},
    st.sampled_from(["bridge", "calico", "é"]),
    st.dictionaries(texts, json_values, max_size=2),
)
conflists = st.builds(
    lambda rest, listed: {**rest, "name": "net", "cniVersion": "1.0.0", "plugins": listed},
    st.dictionaries(texts, json_values, max_size=2),
    st.lists(plugins, min_size=1, max_size=3),
)


@given(conflists, st.sampled_from([None, 2, "\t"]), st.booleans(), st.sampled_from([(",", ":"), (" ,\r\n", " :  ")]))
def test_in_and_out_again_leaves_every_byte(
    document: dict[str, Any], indent: int | str | None, ascii_only: bool, separators: tuple[str, str]
) -> None:
    text = json.dumps(document, indent=indent, ensure_ascii=ascii_only, separators=separators)
    made = chained(text, ENTRY)
    assert unchained(made) == text
    assert json.loads(made)["plugins"] == [*document["plugins"], ENTRY]
    assert chained(made, ENTRY) == made


def test_selectors_are_taken_as_istio_writes_them() -> None:
    assert selectors(
        [
            {"podSelector": {"matchLabels": {"a": "b"}}},
            {"namespaceSelector": {"matchExpressions": [{"key": "c", "operator": "Exists"}]}},
            {},
        ]
    ) == (
        {"pod": [{"key": "a", "operator": "In", "values": ["b"]}], "namespace": []},
        {"pod": [], "namespace": [{"key": "c", "operator": "Exists"}]},
        {"pod": [], "namespace": []},
    )


@pytest.mark.parametrize(
    "value",
    [
        "podSelector",
        [7],
        [{"podSelectors": {}}],
        [{"podSelector": {"matchLabel": {}}}],
        [{"podSelector": {"matchLabels": ["a"]}}],
        [{"podSelector": {"matchLabels": {"a": 1}}}],
        [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "in", "values": ["b"]}]}}],
        [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}],
        [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": []}]}}],
        [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}}],
        [{"podSelector": {"matchExpressions": [{"operator": "Exists"}]}}],
    ],
)
def test_what_is_no_selector_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="enablementSelectors"):
        selectors(value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"exclude_namespaces": ("kube_system",)}, "excludeNamespaces = 'kube_system': wants the name of a namespace"),
        ({"fail_open": ("",)}, "failOpen = ''"),
        ({"fail_open": ("a,b",)}, "failOpen = 'a,b'"),
        ({"exempt_pods": ("ztunnel-*",)}, "exemptPods = 'ztunnel-*': wants NAMESPACE/NAME"),
        ({"exempt_pods": ("istio-system/[z",)}, "exemptPods"),
        ({"exempt_pods": ("*/ztunnel",)}, "exemptPods"),
        ({"agent_socket": "cni.sock"}, "agentSocket = 'cni.sock': wants an absolute path"),
        ({"kubeconfig": ""}, "kubeconfig = ''"),
        ({"timeout": 0.0}, "timeout = 0: is not within"),
        ({"timeout": float("nan")}, "timeout = nan"),
        ({"status_grace": -1.0}, "statusGrace = -1"),
    ],
)
def test_an_entry_that_would_not_do_what_it_says_is_refused(settings: dict[str, Any], said: str) -> None:
    """The plugin would pass over what it can't match, and nobody would hear of it."""
    good = {"agent_socket": "/run/weir/cni.sock", "kubeconfig": "/run/weir/cni-kubeconfig", "selectors": ()}
    with pytest.raises(ConfigError, match=re.escape(said)):
        Entry(**{**good, **settings})
