"""Pods, namespaces and selectors as the API writes them, and what is no such thing."""

from ipaddress import ip_address

import pytest

from agent.sources.kubernetes.facts import FieldError, Namespace, Pod, namespace_of, pod_of
from agent.sources.kubernetes.selectors import DEFAULT_ENABLEMENT, Selector, enablement_of, selector_of

METADATA = {"name": "web", "namespace": "shop", "uid": "u-1"}
# manifests/charts/istio-cni/values.yaml of Istio.
ISTIOS_OWN = [
    {"podSelector": {"matchLabels": {"istio.io/dataplane-mode": "ambient"}}},
    {
        "podSelector": {
            "matchExpressions": [{"key": "istio.io/dataplane-mode", "operator": "NotIn", "values": ["none"]}]
        },
        "namespaceSelector": {"matchLabels": {"istio.io/dataplane-mode": "ambient"}},
    },
]


def pod(**parts: object) -> dict[str, object]:
    return {"metadata": METADATA, "spec": {}, "status": {}, **parts}


def test_a_pod_keeps_what_decides_and_nothing_else() -> None:
    found = pod_of(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                **METADATA,
                "labels": {"app": "web"},
                "annotations": {
                    "kubectl.kubernetes.io/last-applied-configuration": "{" * 10_000,
                    "traffic.sidecar.istio.io/excludeInboundPorts": "80",
                },
                "managedFields": [{"manager": "x"}],
            },
            "spec": {"hostNetwork": True, "serviceAccountName": "web", "containers": [{"name": "istio-proxy"}]},
            "status": {"phase": "Running", "podIP": "10.0.0.2", "podIPs": [{"ip": "10.0.0.2"}, {"ip": "fd00::2"}]},
        }
    )
    assert found == Pod(
        namespace="shop",
        name="web",
        uid="u-1",
        service_account="web",
        labels={"app": "web"},
        annotations={"traffic.sidecar.istio.io/excludeInboundPorts": "80"},
        host_network=True,
        phase="Running",
        addresses=(ip_address("10.0.0.2"), ip_address("fd00::2")),
        probe_ports=(),
    )
    assert str(found) == "pod/shop/web"


@pytest.mark.parametrize(
    ("status", "addresses"),
    [
        ({}, []),
        ({"podIP": ""}, []),
        ({"podIPs": []}, []),
        ({"podIPs": None, "podIP": "10.0.0.2"}, ["10.0.0.2"]),
        ({"podIPs": [], "podIP": "10.0.0.2"}, ["10.0.0.2"]),
        ({"podIPs": [{"ip": "10.0.0.3"}], "podIP": "10.0.0.2"}, ["10.0.0.3"]),
        ({"podIPs": [{"ip": "10.0.0.2"}, {"ip": "fd00::2"}]}, ["10.0.0.2", "fd00::2"]),
        ({"podIPs": [{"ip": "10.0.0.2"}, {"ip": "10.0.0.2"}, {}]}, ["10.0.0.2"]),
        ({"podIP": "::ffff:10.0.0.2"}, ["10.0.0.2"]),
    ],
)
def test_addresses(status: dict[str, object], addresses: list[str]) -> None:
    assert pod_of(pod(status=status)).addresses == tuple(map(ip_address, addresses))


def test_what_the_api_leaves_out_is_nothing() -> None:
    assert pod_of({"metadata": METADATA}) == Pod(namespace="shop", name="web", uid="u-1")
    assert pod_of(pod(spec=None, status=None)).labels == {}
    assert namespace_of({"metadata": {"name": "shop"}}) == Namespace(name="shop")


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (None, "metadata.namespace = None: is missing"),
        ([], "the pod = []: wants fields by their names"),
        ({"metadata": {**METADATA, "uid": ""}}, "metadata.uid = '': is missing"),
        ({"metadata": {**METADATA, "name": 7}}, "metadata.name = 7: wants a text"),
        ({"metadata": {**METADATA, "labels": ["a"]}}, "metadata.labels = ['a']: wants fields by their names"),
        ({"metadata": {**METADATA, "labels": {"a": True}}}, "metadata.labels['a'] = true: wants a text: quote it"),
        (pod(spec={"hostNetwork": "true"}), "spec.hostNetwork = 'true': wants true or false"),
        (pod(status={"podIP": "10.0.0.256"}), "status.podIP = '10.0.0.256': is not an IPv4 or IPv6 address"),
        (pod(status={"podIPs": [{"ip": "x"}]}), "status.podIPs[0].ip = 'x': is not an IPv4 or IPv6 address"),
        (pod(status={"podIPs": "x"}), "status.podIPs = 'x': wants a list"),
        (pod(status={"podIPs": [{"ip": "fe80::1%eth0"}]}), "status.podIPs[0].ip = 'fe80::1%eth0': names an interface"),
        (pod(status={"phase": 1}), "status.phase = 1: wants a text"),
    ],
)
def test_a_field_that_is_not_as_the_api_writes_it_is_named(document: object, said: str) -> None:
    with pytest.raises(FieldError) as refused:
        pod_of(document)
    assert str(refused.value).startswith(said)


def test_istios_own_selectors_are_the_default() -> None:
    assert enablement_of(ISTIOS_OWN) == DEFAULT_ENABLEMENT


@pytest.mark.parametrize(
    ("expression", "holds", "fails"),
    [
        ({"key": "a", "operator": "In", "values": ["1", "2"]}, [{"a": "1"}, {"a": "2"}], [{}, {"a": "3"}, {"b": "1"}]),
        ({"key": "a", "operator": "NotIn", "values": ["1"]}, [{}, {"a": "2"}, {"b": "1"}], [{"a": "1"}]),
        ({"key": "a", "operator": "Exists"}, [{"a": ""}, {"a": "1"}], [{}, {"b": "1"}]),
        ({"key": "a", "operator": "DoesNotExist", "values": []}, [{}, {"b": "1"}], [{"a": ""}]),
        ({"key": "a", "operator": "In", "values": [""]}, [{"a": ""}], [{}, {"a": "1"}]),
    ],
)
def test_expressions(expression: dict[str, object], holds: list[dict[str, str]], fails: list[dict[str, str]]) -> None:
    selector = selector_of({"matchExpressions": [expression]}, "s")
    assert [each for each in (*holds, *fails) if selector.holds(each)] == holds


def test_all_requirements_must_hold() -> None:
    both = selector_of(
        {"matchLabels": {"b": "2", "a": "1"}, "matchExpressions": [{"key": "c", "operator": "Exists"}]}, "s"
    )
    assert both.holds({"a": "1", "b": "2", "c": "3"})
    assert not any(both.holds(each) for each in ({"a": "1", "b": "2"}, {"a": "1", "c": ""}, {}))
    assert str(both) == "a=1 and b=2 and c is set"


@pytest.mark.parametrize("nothing", [None, {}, {"matchLabels": {}}, {"matchLabels": None, "matchExpressions": []}])
def test_an_empty_selector_holds_for_everything(nothing: object) -> None:
    assert selector_of(nothing, "s") == Selector()
    assert selector_of(nothing, "s").holds({})


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("x", "enablementSelectors = 'x': wants a list"),
        (["x"], "enablementSelectors[0] = 'x': wants fields"),
        # Istio passes over it, and then selects every pod.
        ([{"podSelectors": {}}], "enablementSelectors[0].podSelectors = {}: there is no such field; wants podSelector"),
        (
            [{"podSelector": {"matchLabel": {"a": "1"}}}],
            "enablementSelectors[0].podSelector.matchLabel = {'a': '1'}: there",
        ),
        (
            [{"podSelector": {"matchLabels": {"a": 1}}}],
            "enablementSelectors[0].podSelector.matchLabels['a'] = 1: wants a",
        ),
        (
            [{"podSelector": {"matchLabels": {"a": "x y"}}}],
            "enablementSelectors[0].podSelector.matchLabels['a'] = 'x y': is no",
        ),
        (
            [{"podSelector": {"matchLabels": {"-a": "1"}}}],
            "enablementSelectors[0].podSelector.matchLabels['-a'] = '-a': is no",
        ),
        (
            [{"podSelector": {"matchLabels": {"a": "1" * 64}}}],
            "enablementSelectors[0].podSelector.matchLabels['a'] = '111",
        ),
        (
            [{"podSelector": {"matchExpressions": {}}}],
            "enablementSelectors[0].podSelector.matchExpressions = {}: wants a list",
        ),
    ],
)
def test_a_bad_selector_is_named(value: object, said: str) -> None:
    with pytest.raises(FieldError) as refused:
        enablement_of(value)
    assert str(refused.value).startswith(said)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        (
            {"key": "a", "operator": "in", "values": ["1"]},
            "operator = 'in': wants one of In, NotIn, Exists, DoesNotExist",
        ),
        ({"key": "a", "operator": "In"}, "values = None: is empty"),
        ({"key": "a", "operator": "NotIn", "values": []}, "values = []: is empty"),
        ({"key": "a", "operator": "Exists", "values": ["1"]}, "values = ['1']: must be empty"),
        ({"operator": "Exists"}, "key = None: is no name of a label"),
        ({"key": "A_b.c/d/e", "operator": "Exists"}, "key = 'A_b.c/d/e': is no name of a label"),
        ({"key": "a\n", "operator": "Exists"}, "key = 'a\\n': is no name of a label"),
        ({"key": "a", "operator": "In", "values": ["٣"]}, "values[0] = '٣': is no value of a label"),
        ({"key": "a", "operator": "In", "values": "1"}, "values = '1': wants a list"),
    ],
)
def test_a_bad_expression_is_named(expression: dict[str, object], said: str) -> None:
    with pytest.raises(FieldError) as refused:
        selector_of({"matchExpressions": [expression]}, "s")
    assert str(refused.value).startswith(f"s.matchExpressions[0].{said}")
