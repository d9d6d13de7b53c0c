"""What the agent asks of a real API server and writes there, with its own account and no right more."""

import itertools
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from agent.errors import ApiError
from agent.sources.kubernetes.api import Gone, Presence, Written
from agent.sources.kubernetes.facts import REDIRECTION, Pod
from netns_tests.kubernetes.api_server import ApiServer
from netns_tests.kubernetes.informing import Informing
from netns_tests.kubernetes.objects import RULES, account, add_pod, delete_pod, namespace, pod_path

_NUMBERS = itertools.count()
NODE = "node-a"


@pytest.fixture
def shop(api_server: ApiServer) -> str:
    return namespace(api_server, f"asked-{next(_NUMBERS)}", team="blue")


@pytest.fixture
def weir(api_server: ApiServer, shop: str, stack: ExitStack) -> Informing:
    """The agent with an account that has its rights and no more, and a token file."""
    return _agent(api_server, shop, stack, RULES)


def _agent(api_server: ApiServer, shop: str, stack: ExitStack, rules: Any) -> Informing:
    account(api_server, shop, "weir", rules)
    token = api_server.directory / f"token-{shop}"
    token.write_text(api_server.token(shop, "weir"))
    config = api_server.kubeconfig_of({"tokenFile": str(token)}, f"weir-{shop}")
    return stack.enter_context(Informing(config, NODE))


def redirection(api_server: ApiServer, shop: str, name: str) -> object:
    return api_server.ask("GET", pod_path(shop, name))["metadata"].get("annotations", {}).get(REDIRECTION)


def daemon_set(api_server: ApiServer, shop: str, **metadata: object) -> None:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "none"}]}}
    spec = {"selector": {"matchLabels": {"a": "b"}}, "template": template}
    api_server.ask(
        "POST", f"/apis/apps/v1/namespaces/{shop}/daemonsets", {"metadata": {"name": "weir", **metadata}, "spec": spec}
    )


def events_of(api_server: ApiServer, shop: str) -> list[Any]:
    return list(api_server.ask("GET", f"/apis/events.k8s.io/v1/namespaces/{shop}/events")["items"])


def test_a_pod_is_known_as_soon_as_it_is_made(api_server: ApiServer, shop: str, weir: Informing) -> None:
    for number in range(20):
        uid = add_pod(api_server, shop, f"web-{number}", NODE, labels={"n": str(number)})
        found = weir.ask(lambda api, name=f"web-{number}": api.pod(shop, name))  # type: ignore[misc]
        assert found is not None
        assert (found.uid, found.labels) == (uid, {"n": str(number)})
    delete_pod(api_server, shop, "web-0")
    assert weir.ask(lambda api: api.pod(shop, "web-0")) is None
    assert weir.ask(lambda api: api.pod("no-such-namespace", "web-0")) is None
    assert weir.ask(lambda api: api.namespace("no-such-namespace")) is None
    found = weir.ask(lambda api: api.namespace(shop))
    assert found is not None
    assert found.labels["team"] == "blue"


def test_the_annotation_is_that_of_one_pod(api_server: ApiServer, shop: str, weir: Informing) -> None:
    add_pod(api_server, shop, "web-0", NODE, annotations={"example.com/mine": "kept"})
    older = weir.ask(lambda api: api.pod(shop, "web-0"))
    assert older is not None
    assert weir.ask(lambda api: api.redirect_state(older, "enabled")) == Written()
    assert redirection(api_server, shop, "web-0") == "enabled"
    weir.until(lambda: (found := weir.informer.find(shop, "web-0")) and found.annotations, "the informer sees it too")

    delete_pod(api_server, shop, "web-0")
    assert weir.ask(lambda api: api.redirect_state(older, None)) == Gone()
    add_pod(api_server, shop, "web-0", NODE)
    assert weir.ask(lambda api: api.redirect_state(older, "enabled")) == Gone()
    assert redirection(api_server, shop, "web-0") is None

    newer = weir.ask(lambda api: api.pod(shop, "web-0"))
    assert newer is not None
    assert weir.ask(lambda api: api.redirect_state(newer, "enabled")) == Written()
    assert weir.ask(lambda api: api.redirect_state(older, None)) == Gone()
    assert redirection(api_server, shop, "web-0") == "enabled"
    assert weir.ask(lambda api: api.redirect_state(newer, None)) == Written()
    assert redirection(api_server, shop, "web-0") is None
    assert weir.ask(lambda api: api.redirect_state(newer, None)) == Written()


def test_an_edit_of_others_at_the_same_time_is_kept(api_server: ApiServer, shop: str, weir: Informing) -> None:
    add_pod(api_server, shop, "web", NODE)
    pod = weir.ask(lambda api: api.pod(shop, "web"))
    assert pod is not None
    for number in range(30):
        value = ("enabled", None)[number % 2]
        api_server.patch(pod_path(shop, "web"), {"metadata": {"annotations": {f"example.com/{number}": "x"}}})
        assert weir.ask(lambda api, value=value: api.redirect_state(pod, value)) == Written()  # type: ignore[misc]
    annotations = api_server.ask("GET", pod_path(shop, "web"))["metadata"]["annotations"]
    assert annotations == {f"example.com/{number}": "x" for number in range(30)}


def test_events_are_on_the_pod(api_server: ApiServer, shop: str, weir: Informing) -> None:
    uid = add_pod(api_server, shop, "web", NODE)
    pod = weir.ask(lambda api: api.pod(shop, "web"))
    assert pod is not None
    weir.ask(lambda api: api.event(pod, "CaptureFailed", "é" * 2000, warning=True))
    weir.ask(lambda api: api.event(pod, "Captured", "new connections go to the proxy", warning=False))
    weir.until(lambda: len(events_of(api_server, shop)) == 2, "both Events are told")
    told = {each["reason"]: each for each in events_of(api_server, shop)}
    assert told["Captured"]["regarding"]["uid"] == uid
    assert told["Captured"]["type"] == "Normal"
    assert told["Captured"]["reportingInstance"] == NODE
    assert told["CaptureFailed"]["type"] == "Warning"
    assert weir.api.events_dropped == 0
    assert not {each.status for each in weir.api.calls()} - {200, 201}


def test_a_series_is_counted_by_the_api(
    api_server: ApiServer, shop: str, weir: Informing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.sources.kubernetes.events._SERIES_GAP", 0.1)
    add_pod(api_server, shop, "web", NODE)
    pod = weir.ask(lambda api: api.pod(shop, "web"))
    assert pod is not None
    weir.ask(lambda api: api.event(pod, "CaptureFailed", "no", warning=True))
    weir.until(lambda: events_of(api_server, shop), "the Event is told")
    for _ in range(9):
        weir.ask(lambda api: api.event(pod, "CaptureFailed", "no", warning=True))
    weir.until(lambda: events_of(api_server, shop)[0].get("series", {}).get("count") == 10, "its series is told")
    assert len(events_of(api_server, shop)) == 1


def test_a_namespace_that_ends_takes_no_events(api_server: ApiServer, shop: str, weir: Informing) -> None:
    add_pod(api_server, shop, "web", NODE, finalizers=["example.com/held"])
    pod = weir.ask(lambda api: api.pod(shop, "web"))
    assert pod is not None
    api_server.ask("DELETE", f"/api/v1/namespaces/{shop}")
    weir.ask(lambda api: api.event(pod, "Released", "it goes", warning=False))
    weir.until(lambda: weir.api.events_dropped == 1, "it is given up")


def test_sidecars_are_found_wherever_they_run(api_server: ApiServer, shop: str, weir: Informing) -> None:
    add_pod(api_server, shop, "plain", NODE)
    add_pod(api_server, shop, "sidecar", "another-node", labels={"security.istio.io/tlsMode": "istio"})
    found = weir.ask(lambda api: api.sidecars_elsewhere())
    assert [each.name for each in found if each.namespace == shop] == ["sidecar"]


def test_a_daemon_set_is_there_or_going(api_server: ApiServer, shop: str, stack: ExitStack) -> None:
    get = {"apiGroups": ["apps"], "resources": ["daemonsets"], "verbs": ["get"], "resourceNames": ["weir"]}
    agent = _agent(api_server, shop, stack, (*RULES, get))
    assert agent.ask(lambda api: api.daemon_set(shop, "weir")) is Presence.GONE
    daemon_set(api_server, shop, finalizers=["example.com/held"])
    assert agent.ask(lambda api: api.daemon_set(shop, "weir")) is Presence.THERE
    assert agent.ask(lambda api: api.daemon_set(shop, "misnamed")) is Presence.UNKNOWN
    api_server.ask("DELETE", f"/apis/apps/v1/namespaces/{shop}/daemonsets/weir")
    assert agent.ask(lambda api: api.daemon_set(shop, "weir")) is Presence.GONE
    path = f"/apis/apps/v1/namespaces/{shop}/daemonsets/weir"
    api_server.patch(path, {"metadata": {"finalizers": None}})

    daemon_set(api_server, shop)
    api_server.ask("DELETE", f"/apis/rbac.authorization.k8s.io/v1/clusterroles/{shop}-weir")
    agent.until(
        lambda: agent.ask(lambda api: api.daemon_set(shop, "weir")) is Presence.FORBIDDEN, "all rights are gone"
    )
    api_server.ask("DELETE", f"/api/v1/namespaces/{shop}/serviceaccounts/weir")
    agent.until(
        lambda: agent.ask(lambda api: api.daemon_set(shop, "weir")) is not Presence.THERE, "the account is gone"
    )


def _works(does: Callable[[], object]) -> object:
    try:
        return does()
    except ApiError as error:
        return error.status != 403 or not error.hint


def _tried(agent: Informing, verb: str, resource: str) -> object:
    def statuses() -> set[int]:
        return {each.status for each in agent.api.calls() if (each.verb, each.resource) == (verb, resource)}

    agent.until(statuses, "it was tried")
    return 403 not in statuses()


@pytest.mark.parametrize(
    ("resource", "verb", "does"),
    [
        ("pods", "get", lambda agent, pod: agent.ask(lambda api: api.pod(pod.namespace, pod.name))),
        ("pods", "list", lambda agent, pod: _tried(agent, "list", "pods")),
        ("pods", "watch", lambda agent, pod: _tried(agent, "watch", "pods")),
        ("namespaces", "get", lambda agent, pod: agent.ask(lambda api: api.namespace(pod.namespace))),
        ("namespaces", "list", lambda agent, pod: _tried(agent, "list", "namespaces")),
        ("namespaces", "watch", lambda agent, pod: _tried(agent, "watch", "namespaces")),
        ("pods/status", "patch", lambda agent, pod: agent.ask(lambda api: api.redirect_state(pod, "enabled"))),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_each_right_is_needed(
    api_server: ApiServer,
    shop: str,
    stack: ExitStack,
    resource: str,
    verb: str,
    does: Callable[[Informing, Pod], object],
) -> None:
    uid = add_pod(api_server, shop, "web", NODE)
    pod = Pod(namespace=shop, name="web", uid=uid)
    fewer = [
        {**rule, "resources": [each], "verbs": [v for v in rule["verbs"] if (each, v) != (resource, verb)]}
        for rule in RULES
        for each in rule["resources"]
    ]
    agent = _agent(api_server, shop, stack, [each for each in fewer if each["verbs"]])
    assert not _works(lambda: does(agent, pod))
    assert any(each.status == 403 and each.resource == resource for each in agent.api.calls())


@pytest.mark.parametrize("verb", ["create", "patch"])
def test_each_right_for_events_is_needed(
    api_server: ApiServer, shop: str, stack: ExitStack, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.sources.kubernetes.events._SERIES_GAP", 0.1)
    pod = Pod(namespace=shop, name="web", uid=add_pod(api_server, shop, "web", NODE))
    agent = _agent(api_server, shop, stack, [*RULES[:2], {**RULES[2], "verbs": [verb]}])
    for _ in range(2):
        agent.ask(lambda api: api.event(pod, "Captured", "yes", warning=False))
        agent.until(lambda: any(each.resource == "events" for each in agent.api.calls()), "it was tried")
    agent.until(lambda: any(each.status == 403 for each in agent.api.calls()), "the missing right shows")


def test_the_account_that_is_gone_is_said(api_server: ApiServer, shop: str, weir: Informing) -> None:
    weir.until_whole()
    api_server.ask("DELETE", f"/api/v1/namespaces/{shop}/serviceaccounts/weir")

    def refused() -> bool:
        try:
            weir.ask(lambda api: api.pod(shop, "web"))
        except ApiError as error:
            return error.status == 401 and "service account" in error.hint
        return False

    weir.until(refused, "the token is refused")


def test_another_authority_is_not_believed(api_server: ApiServer, tmp_path: Path, stack: ExitStack) -> None:
    wrong = tmp_path / "ca.crt"
    wrong.write_text((api_server.directory / "admin.crt").read_text())
    text = api_server.kubeconfig.read_text().replace(str(api_server.authority), str(wrong))
    (tmp_path / "kubeconfig").write_text(text)
    agent = stack.enter_context(Informing(tmp_path / "kubeconfig", NODE))
    with pytest.raises(ApiError, match="certificate") as refusal:
        agent.ask(lambda api: api.pod("default", "web"))
    assert "authority" in refusal.value.hint
    wrong.write_text(api_server.authority.read_text())  # the authority was replaced, and the agent goes on

    def believed() -> bool:
        try:
            return agent.ask(lambda api: api.pod("default", "web")) is None
        except ApiError:
            return False

    agent.until(believed, "the newer authority is read")


def test_an_api_that_is_away_is_said_in_time(api_server: ApiServer, shop: str, weir: Informing) -> None:
    weir.until_whole()
    api_server.stop()
    try:
        with pytest.raises(ApiError, match="GET https://") as refusal:
            weir.ask(lambda api: api.pod(shop, "web"))
        assert refusal.value.status == 0
        assert weir.ask(lambda api: api.daemon_set(shop, "weir")) is Presence.UNKNOWN
    finally:
        api_server.start()
    assert weir.ask(lambda api: api.pod(shop, "web")) is None
