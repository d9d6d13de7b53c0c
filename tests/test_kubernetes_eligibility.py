"""Which pods are captured, and what decided: Istio's own cases, and those in which its agent is wrong."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from agent.sources.kubernetes.eligibility import Because, Enrolment, Policy, decide, decide_for_template
from agent.sources.kubernetes.facts import Namespace, Pod, pod_of
from agent.sources.kubernetes.selectors import enablement_of

MODE = "istio.io/dataplane-mode"
AMBIENT, NONE = {MODE: "ambient"}, {MODE: "none"}
POD = Pod(namespace="shop", name="web", uid="1", addresses=(ip_address("10.0.0.2"),))
LABELLED, PLAIN = Namespace(name="shop", labels=AMBIENT), Namespace(name="shop")


def enrolment(pod: Pod, namespace: Namespace | None, policy: Policy | None = None) -> tuple[Enrolment, Because]:
    found = decide(pod, namespace, policy or Policy())
    return found.enrolment, found.because


# The matrix of Istio's plugin and informer tests (plugin_test.go, podutil_test.go, informers_test.go).
@pytest.mark.parametrize(
    ("pod", "namespace", "expected"),
    [
        ({}, {}, Because.NOT_SELECTED),
        ({}, AMBIENT, Because.SELECTED),
        (AMBIENT, {}, Because.SELECTED),
        (AMBIENT, AMBIENT, Because.SELECTED),
        (AMBIENT, NONE, Because.SELECTED),  # the pod wins
        (NONE, AMBIENT, Because.OPTED_OUT),
        (NONE, {}, Because.NOT_SELECTED),
        ({}, NONE, Because.NOT_SELECTED),
        ({MODE: "Ambient"}, {}, Because.NOT_SELECTED),
        ({MODE: ""}, {}, Because.NOT_SELECTED),
        ({MODE: "other"}, AMBIENT, Because.SELECTED),  # only none opts out
        ({"app": "ztunnel"}, AMBIENT, Because.SELECTED),  # of another namespace
    ],
)
def test_labels_of_pod_and_namespace(pod: dict[str, str], namespace: dict[str, str], expected: Because) -> None:
    found = decide(replace(POD, labels=pod), Namespace(name="shop", labels=namespace), Policy())
    assert (found.because, found.wanted) == (expected, expected is Because.SELECTED)


@pytest.mark.parametrize(
    ("pod", "because"),
    [
        (replace(POD, host_network=True), Because.HOST_NETWORK),
        (replace(POD, host_network=True, labels=AMBIENT), Because.HOST_NETWORK),
        (replace(POD, annotations={"sidecar.istio.io/status": ""}), Because.SIDECAR),
        (replace(POD, annotations={"sidecar.istio.io/status": "{}"}, labels=AMBIENT), Because.SIDECAR),
        (replace(POD, namespace="kube-system", labels=AMBIENT), Because.EXCLUDED_NAMESPACE),
        (replace(POD, namespace="istio-system", labels={"app": "ztunnel", **AMBIENT}), Because.PROXY),
        (replace(POD, phase="Succeeded"), Because.FINISHED),
        (replace(POD, phase="Failed"), Because.FINISHED),
    ],
)
def test_what_is_never_captured_whatever_the_labels(pod: Pod, because: Because) -> None:
    assert enrolment(pod, LABELLED) == (Enrolment.OUTSIDE, because)
    assert enrolment(pod, None) == (Enrolment.OUTSIDE, because)  # nor does it wait for the namespace's labels
    assert decide_for_template(pod, LABELLED, Policy()).because is because


@pytest.mark.parametrize("phase", ["", "Pending", "Running", "Unknown"])
def test_a_phase_that_is_not_the_end_makes_no_difference(phase: str) -> None:
    assert enrolment(replace(POD, phase=phase), LABELLED) == (Enrolment.ENROLLED, Because.SELECTED)


def test_a_container_called_like_the_sidecar_makes_no_difference() -> None:
    """Only the annotation does, as in Istio."""
    metadata = {"name": "web", "namespace": "shop", "uid": "1"}
    spec = {"containers": [{"name": "web"}, {"name": "istio-proxy"}]}
    pod = pod_of({"metadata": metadata, "spec": spec, "status": {"podIP": "10.0.0.2"}})
    assert enrolment(pod, LABELLED) == (Enrolment.ENROLLED, Because.SELECTED)


def test_a_pod_without_an_address_waits_for_one() -> None:
    waiting = replace(POD, addresses=())
    found = decide(waiting, LABELLED, Policy())
    assert (found.enrolment, found.because, found.wanted) == (Enrolment.WAITING, Because.NO_ADDRESS, True)
    assert found.reason.startswith("it has no address yet; ")
    assert decide_for_template(waiting, LABELLED, Policy()).enrolment is Enrolment.ENROLLED
    assert enrolment(waiting, PLAIN) == (Enrolment.OUTSIDE, Because.NOT_SELECTED)  # which waits for nothing


def test_what_the_annotation_claims_makes_no_difference() -> None:
    for claimed in ("enabled", "pending", "removed", "whatever"):
        pod = replace(POD, annotations={"ambient.istio.io/redirection": claimed})
        assert decide(pod, LABELLED, Policy()) == decide(POD, LABELLED, Policy())
        assert decide(pod, PLAIN, Policy()) == decide(POD, PLAIN, Policy())


def test_an_unknown_namespace_is_no_reason_to_release() -> None:
    """Istio drops the event of a pod whose namespace it doesn't know (R15)."""
    found = decide(POD, None, Policy())
    assert (found.enrolment, found.because, found.wanted) == (Enrolment.UNKNOWN, Because.NO_NAMESPACE, False)
    assert "istio.io/dataplane-mode=ambient" in found.reason
    # Where the pod's own labels decide, nobody needs the namespace.
    assert enrolment(replace(POD, labels=AMBIENT), None) == (Enrolment.ENROLLED, Because.SELECTED)
    assert enrolment(replace(POD, labels=NONE), None)[0] is Enrolment.OUTSIDE


def test_excluded_namespaces_are_the_policys() -> None:
    policy = Policy(excluded_namespaces=("other",))
    assert enrolment(replace(POD, namespace="kube-system"), LABELLED, policy)[1] is Because.SELECTED
    assert enrolment(replace(POD, namespace="other", labels=AMBIENT), LABELLED, policy)[1] is Because.EXCLUDED_NAMESPACE
    assert enrolment(POD, LABELLED, policy)[1] is Because.SELECTED
    proxy = replace(POD, namespace="mesh", labels={"app": "ztunnel"})
    assert enrolment(proxy, LABELLED, Policy(proxy_namespace="mesh"))[1] is Because.PROXY
    assert enrolment(proxy, LABELLED)[1] is Because.SELECTED


def test_namespace_and_pod_labels_come_and_go() -> None:
    """Un-labelling a namespace, removing the pod's label, and setting it to none each take the pod out."""
    assert decide(POD, LABELLED, Policy()).wanted
    assert not decide(POD, PLAIN, Policy()).wanted
    assert decide(replace(POD, labels=AMBIENT), PLAIN, Policy()).wanted
    assert not decide(replace(POD, labels=NONE), LABELLED, Policy()).wanted


def test_one_selector_in_the_place_of_another_is_seen() -> None:
    """Istio asks only whether some selector matches the namespace, and misses a swap of two (R15)."""
    policy = Policy(
        enablement=enablement_of(
            [
                {"podSelector": {"matchLabels": {"tier": "a"}}, "namespaceSelector": {"matchLabels": {"zone": "one"}}},
                {"podSelector": {"matchLabels": {"tier": "b"}}, "namespaceSelector": {"matchLabels": {"zone": "two"}}},
            ]
        )
    )
    pod = replace(POD, labels={"tier": "a"})
    before, after = (Namespace(name="shop", labels={"zone": zone}) for zone in ("one", "two"))
    assert decide(pod, before, policy).wanted
    assert not decide(pod, after, policy).wanted
    assert (
        decide(replace(POD, labels={"tier": "b"}), after, policy).reason
        == "pod tier=b, namespace zone=two (selector 2)"
    )


def test_no_selectors_select_nothing_and_an_empty_one_everything() -> None:
    assert enrolment(replace(POD, labels=AMBIENT), LABELLED, Policy(enablement=())) == (
        Enrolment.OUTSIDE,
        Because.NOT_SELECTED,
    )
    everything = Policy(enablement=enablement_of([{}]))
    assert decide(POD, PLAIN, everything).reason == "any pod (selector 1)"
    assert decide(POD, None, everything).wanted
    assert not decide(replace(POD, host_network=True), PLAIN, everything).wanted


@pytest.mark.parametrize(
    ("labels", "namespace", "reason"),
    [
        ({}, {}, f"neither pod nor namespace has the label {MODE}; wanted is {MODE}=ambient on either"),
        ({}, {MODE: "Ambient"}, f"the namespace has {MODE}=Ambient; wanted is {MODE}=ambient on either"),
        (NONE, AMBIENT, f"its label {MODE}=none takes it out"),
        (AMBIENT, {}, f"pod {MODE}=ambient (selector 1)"),
        ({}, AMBIENT, f"pod {MODE}!=none, namespace {MODE}=ambient (selector 2)"),
    ],
)
def test_the_words_name_the_label_that_decided(labels: dict[str, str], namespace: dict[str, str], reason: str) -> None:
    assert decide(replace(POD, labels=labels), Namespace(name="shop", labels=namespace), Policy()).reason == reason


def test_selectors_of_ones_own_are_named_where_none_holds() -> None:
    policy = Policy(enablement=enablement_of([{"podSelector": {"matchLabels": {"mesh": "yes"}}}]))
    assert decide(POD, LABELLED, policy).reason == "no selector holds (selector 1: pod mesh=yes)"
