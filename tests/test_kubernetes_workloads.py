"""Manifests as they come: every kind that makes pods, lists, namespaces, and what can't be read."""

import pytest

from agent.sources.kubernetes.eligibility import Policy
from agent.sources.kubernetes.results import Results, State, differences, results_of
from agent.sources.kubernetes.workloads import Manifests, manifests_of
from agent.sources.kubernetes.yaml_text import documents
from rulesets import pod
from rulesets.capture import Capture

SHOP = "kind: Namespace\nmetadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}\n---\n"
PORTS = "traffic.sidecar.istio.io/excludeInboundPorts"
TEMPLATE = "{metadata: {labels: {app: x}}, spec: {containers: [{name: x}]}}"


def read(text: str) -> Manifests:
    return manifests_of(("m.yaml", each) for each in documents(text))


def states(text: str, defaults: Capture | None = None) -> dict[str, State]:
    return {each.workload: each.state for each in results_of(read(text), Policy(), defaults or Capture()).results}


@pytest.mark.parametrize(
    "kind",
    ["Deployment", "ReplicaSet", "ReplicationController", "StatefulSet", "DaemonSet", "Job", "Rollout", "CloneSet"],
)
def test_what_has_a_template_makes_pods(kind: str) -> None:
    text = f"kind: {kind}\nmetadata: {{name: x, namespace: shop}}\nspec: {{template: {TEMPLATE}}}\n"
    assert states(SHOP + text) == {f"{kind.lower()}/shop/x": State.CAPTURED}


def test_pods_cronjobs_and_templates_have_it_elsewhere() -> None:
    text = (
        f"{SHOP}kind: Pod\nmetadata: {{name: x, namespace: shop}}\nspec: {{}}\n---\n"
        "kind: CronJob\nmetadata: {name: x, namespace: shop}\n"
        f"spec: {{jobTemplate: {{spec: {{template: {TEMPLATE}}}}}}}\n"
        f"---\nkind: PodTemplate\nmetadata: {{name: x, namespace: shop}}\ntemplate: {TEMPLATE}\n"
    )
    assert states(text) == dict.fromkeys(("pod/shop/x", "cronjob/shop/x", "podtemplate/shop/x"), State.CAPTURED)


def test_what_makes_no_pods_is_counted() -> None:
    service, config = "kind: Service\n---\n", "kind: ConfigMap\ndata: {8080: x, on: y}\n---\n"
    text = f"{service}{service}{config}kind: Custom\nspec: {{template: {{}}}}\n"
    found = read(text)
    assert (found.workloads, found.others) == ((), {"ConfigMap": 1, "Custom": 1, "Service": 2})
    assert not found.problems


def test_lists_are_opened_and_lines_are_those_inside() -> None:
    text = (
        "kind: List\nitems:\n- kind: PodList\n  items:\n"
        "  - kind: Pod\n    metadata: {name: a, namespace: shop}\n    spec: {}\n"
        "  - kind: Pod\n    metadata:\n      name: b\n      namespace: shop\n      annotations:\n        a: b\n"
        "        traffic.sidecar.istio.io/excludeInboundPorts: http\n    spec: {}\n"
    )
    found = results_of(read(text + "---\n" + SHOP), Policy(), Capture())
    assert [(each.workload, each.state, each.place.line) for each in found.results] == [
        ("pod/shop/a", State.CAPTURED, 5),
        ("pod/shop/b", State.UNREADABLE, 14),
    ]
    (problem,) = found.problems
    assert str(problem).startswith(
        "m.yaml:14 (document 1): pod/shop/b: traffic.sidecar.istio.io/excludeInboundPorts = 'http': is no port"
    )


@pytest.mark.parametrize(
    ("labels", "state"),
    [
        ("{}", State.UNKNOWN),
        ("{istio.io/dataplane-mode: ambient}", State.CAPTURED),
        ("{istio.io/dataplane-mode: none}", State.OUTSIDE),
    ],
)
def test_without_the_namespace_only_the_pods_own_label_decides(labels: str, state: State) -> None:
    text = f"kind: Pod\nmetadata: {{name: x, namespace: shop, labels: {labels}}}\nspec: {{}}\n"
    found = results_of(read(text), Policy(), Capture()).results[0]
    assert found.state is state
    # What its pods would have is known all the same.
    assert (found.rules is None) is (state is State.OUTSIDE)


def test_without_a_namespace_it_is_the_default_one() -> None:
    text = f"kind: Deployment\nmetadata: {{name: x}}\nspec: {{template: {TEMPLATE}}}\n"
    assert list(states(text)) == ["deployment/default/x"]
    found = manifests_of((("m", each) for each in documents(text)), namespace="shop")
    assert found.workloads[0].name == "deployment/shop/x"


def test_the_rules_are_those_of_the_annotations_over_the_defaults() -> None:
    text = (
        f"{SHOP}kind: Pod\nmetadata:\n  name: x\n  namespace: shop\n"
        "  annotations: {ambient.istio.io/bypass-inbound-capture: 'true'}\nspec: {}\n"
    )
    (found,) = results_of(read(text), Policy(), Capture(dns=False)).results
    assert found.rules == pod.build(Capture(dns=False, ingress=True))


def test_a_bad_annotation_of_what_is_outside_is_nobodys_problem() -> None:
    text = (
        "kind: Pod\nmetadata: {name: x, namespace: shop, annotations: {ambient.istio.io/dns-capture: maybe}}\n"
        "spec: {hostNetwork: true}\n"
    )
    found = results_of(read(text), Policy(), Capture())
    assert (found.results[0].state, found.problems) == (State.OUTSIDE, ())


def test_a_change_of_state_differs_although_there_are_no_rules_on_either_side() -> None:
    def one(mode: str) -> Results:
        metadata = f"name: x, namespace: shop, labels: {{istio.io/dataplane-mode: {mode}}}"
        text = f"{SHOP}kind: Pod\nmetadata: {{{metadata}, annotations: {{{PORTS}: http}}}}\nspec: {{}}\n"
        return results_of(read(text), Policy(), Capture())

    outside, unreadable = one("none"), one("ambient")
    assert not differences(outside, outside)
    (found,) = differences(outside, unreadable)
    assert (found.old, found.new) == (outside.results[0], unreadable.results[0])
    assert found.new is not None
    assert (found.new.state, bool(found.plan)) == (State.UNREADABLE, False)


@pytest.mark.parametrize(
    ("where", "labels", "noted"),
    [
        ("labels: {sidecar.istio.io/inject: 'true'}", "", True),
        ("annotations: {sidecar.istio.io/inject: 'true'}", "", True),
        ("labels: {sidecar.istio.io/inject: 'false'}", ", istio-injection: enabled", False),
        ("labels: {}", ", istio-injection: enabled", True),
        ("labels: {}", ", istio.io/rev: canary", True),
        ("labels: {}", ", istio-injection: disabled", False),
    ],
)
def test_a_sidecar_that_may_be_injected_is_noted(where: str, labels: str, noted: bool) -> None:
    text = (
        SHOP.replace("ambient}", f"ambient{labels}}}")
        + f"kind: Pod\nmetadata: {{name: x, namespace: shop, {where}}}\nspec: {{}}\n"
    )
    (found,) = results_of(read(text), Policy(), Capture()).results
    assert (found.state, any("sidecar" in each for each in found.notes)) == (State.CAPTURED, noted)


# Text, line, document, whose it is, and what is said.
BAD = [
    ("just text\n", 1, 1, "", "the document = 'just text': wants an object with apiVersion and kind"),
    ("a: b\n", 1, 1, "", "kind = None: is missing"),
    ("kind: 7\n", 1, 1, "", "kind = 7: is no kind of object"),
    ('kind: "Pod\\n# x"\n', 1, 1, "", "kind = 'Pod\\n# x': is no kind of object"),
    ("kind: Pod\nspec: {}\n", 1, 1, "", "metadata.name = None: is missing"),
    ("kind: Pod\nmetadata: {name: A_b}\nspec: {}\n", 2, 1, "Pod 'A_b'", "metadata.name = 'A_b': is no name"),
    (
        'kind: Pod\nmetadata: {name: "x\\nflush"}\nspec: {}\n',
        2,
        1,
        "Pod 'x\\nflush'",
        "metadata.name = 'x\\nflush': is",
    ),
    ("kind: Pod\nmetadata: {name: x, namespace: 7}\nspec: {}\n", 2, 1, "Pod 'x'", "metadata.namespace = 7: is no"),
    ("kind: Pod\nmetadata: {name: x}\n", 1, 1, "Pod 'x'", "spec = None: is missing"),
    ("kind: Deployment\nmetadata: {name: x}\n", 1, 1, "Deployment 'x'", "spec.template.spec = None: is missing"),
    ("kind: Job\nmetadata: {name: x}\nspec: {template: 7}\n", 3, 1, "Job 'x'", "spec.template = 7: wants fields"),
    (
        "kind: Job\nmetadata: {name: x}\nspec:\n  template:\n    metadata: {labels: {a: yes}}\n    spec: {}\n",
        *(5, 1, "Job 'x'", "spec.template.metadata.labels['a'] = true: wants a text: quote it"),
    ),
    (
        f"kind: Pod\nmetadata:\n  name: x\n  annotations:\n    a.b/c: d\n    {PORTS}: 80\nspec: {{}}\n",
        *(6, 1, "Pod 'x'", f"metadata.annotations['{PORTS}'] = 80: wants a text: quote it"),
    ),
    (
        "kind: Pod\nmetadata: {name: x}\nspec:\n  hostNetwork: 'true'\n",
        *(4, 1, "Pod 'x'", "spec.hostNetwork = 'true': wants true or false"),
    ),
    (
        "kind: Namespace\nmetadata: {name: a}\n---\nkind: Namespace\nmetadata: {name: a}\n",
        *(5, 2, "Namespace 'a'", "metadata.name = 'a': is defined twice, first in m.yaml:1 (document 1)"),
    ),
    (
        "kind: Pod\nmetadata: {name: a}\nspec: {}\n---\nkind: Pod\nmetadata: {name: a, namespace: default}\nspec: {}\n",
        *(6, 2, "Pod 'a'", "metadata.name = 'a': pod/default/a is defined twice, first in m.yaml:1 (document 1)"),
    ),
]


@pytest.mark.parametrize(("text", "line", "document", "whose", "said"), BAD)
def test_what_cant_be_read_is_named(text: str, line: int, document: int, whose: str, said: str) -> None:
    """By file, line, document, object and field."""
    (problem,) = read(text).problems
    expected = f"m.yaml:{line} (document {document}): {whose}{': ' if whose else ''}{said}"
    assert str(problem)[: len(expected)] == expected


def test_one_bad_object_doesnt_hide_the_others() -> None:
    text = f"kind: Pod\n---\n{SHOP}kind: Pod\nmetadata: {{name: x, namespace: shop}}\nspec: {{}}\n---\nkind: 1\n"
    found = read(text)
    assert [each.name for each in found.workloads] == ["pod/shop/x"]
    assert [each.place.document for each in found.problems] == [1, 4]
