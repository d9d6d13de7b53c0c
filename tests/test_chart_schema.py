"""values.schema.json refuses wrong types and unknown names, each by its name, and takes what the chart itself has."""

import json
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import jsonschema
import pytest
import yaml

from rulesets.capture import Capture
from tests.charts import CHART, refusal
from tests.test_chart import EVERYTHING

pytestmark = pytest.mark.timeout(900)  # the first one builds helm
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)
# One value of each type; a setting has to refuse all that aren't its own.
SAMPLES: dict[str, object] = {
    "string": "\0wrong",
    "boolean": True,
    "integer": -7,
    "number": 0.5,
    "array": [["wrong"]],
    "object": {"wrong": {"wrong": ["wrong"]}},
}


def settings(schema: dict[str, Any], at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Every setting that the schema knows, with its own schema."""
    for name, each in schema.get("properties", {}).items():
        yield (*at, name), each
        yield from settings(each, (*at, name))


def nested(at: tuple[str, ...], value: object) -> dict[str, Any]:
    for name in reversed(at):
        value = {name: value}
    assert isinstance(value, dict)
    return value


SETTINGS = dict(settings(SCHEMA))


def takes(schema: dict[str, Any]) -> set[str]:
    """The types that a setting may have."""
    if "const" in schema:
        return {"boolean"} if schema["const"] is True else {"string"}
    if "enum" in schema:
        return {"string"}
    if kinds := schema.get("anyOf") or schema.get("oneOf"):
        return set().union(*map(takes, kinds))
    return {schema["type"]} if isinstance(schema["type"], str) else set(schema["type"])


def test_the_schema_is_one() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)


def test_the_charts_own_values_are_good() -> None:
    assert not list(VALIDATOR.iter_errors(VALUES))
    assert not list(VALIDATOR.iter_errors(EVERYTHING))
    assert refusal({}) == ""


def test_every_value_is_known_and_every_known_one_is_a_value() -> None:
    shown = {at[0] for at in SETTINGS} - {"global", "profile", "chained"}  # those are Istio's, for its values files
    assert shown == set(VALUES)


@pytest.mark.parametrize("at", SETTINGS, ids=".".join)
def test_a_wrong_type_is_refused_by_name(at: tuple[str, ...]) -> None:
    good = takes(SETTINGS[at])
    wrong = {kind for kind in SAMPLES if kind not in good} - ({"integer"} if "number" in good else set())
    assert wrong
    for kind in wrong:
        errors = list(VALIDATOR.iter_errors(nested(at, SAMPLES[kind])))
        assert errors, f"{kind} is taken"
        assert any(tuple(map(str, each.absolute_path))[: len(at)] == at for each in errors)


@pytest.mark.parametrize("at", [(), *(at for at, each in SETTINGS.items() if "properties" in each)], ids=".".join)
def test_an_unknown_name_is_refused(at: tuple[str, ...]) -> None:
    errors = list(VALIDATOR.iter_errors(nested((*at, "unknwon"), "x")))
    if at[:1] == ("global",):
        assert not errors, "global is shared with other charts"
    else:
        assert any("unknwon" in each.message for each in errors)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"cniBinDirectory": "/opt/cni/bin"}, "cniBinDirectory"),
        ({"cniBinDir": ["/opt/cni/bin"]}, "cniBinDir"),
        ({"cniBinDir": "opt/cni/bin"}, "cniBinDir"),
        ({"cniConfFileName": "../10-calico.conflist"}, "cniConfFileName"),
        ({"excludeNamespaces": "kube-system"}, "excludeNamespaces"),
        ({"excludeNamespaces": ["Kube_System"]}, "excludeNamespaces"),
        ({"platform": "eks"}, "platform"),
        ({"global": {"platform": "eks"}}, "platform"),
        ({"ambient": {"enabled": False}}, "ambient"),
        ({"ambient": {"enablementSelectors": [{"podSelectors": {}}]}}, "podSelectors"),
        ({"ambient": {"enablementSelectors": [{"podSelector": {"matchExpressions": [{"key": "a"}]}}]}}, "operator"),
        ({"capture": {"exclude_outbound_port": [25]}}, "exclude_outbound_port"),
        ({"updateStrategy": {"rollingUpdate": {"maxSurge": 1}}}, "maxSurge"),
        ({"repair": {"enabled": True}}, "repair"),
        ({"logging": {"level": "cni:debug"}}, "level"),
        ({"env": {"A": 1}}, "env"),
        ({"healthPort": 70000}, "healthPort"),
        ({"terminationGracePeriodSeconds": 5}, "terminationGracePeriodSeconds"),
    ],
    ids=json.dumps,
)
def test_helm_says_what_is_wrong(values: dict[str, object], named: str) -> None:
    assert named in refusal(values)


def test_a_values_file_for_istios_chart_is_taken() -> None:
    """Those of its settings that mean the same here, as somebody who comes from it has them."""
    istios = """
    profile: ambient
    global: {hub: registry.example/istio, tag: 1.30.0, platform: k3s, variant: distroless, nativeNftables: true}
    ambient: {enabled: true, dnsCapture: true, ipv6: true, reconcileIptablesOnStartup: true}
    cniBinDir: ""
    cniConfDir: /etc/cni/net.d
    cniNetnsDir: /var/run/netns
    excludeNamespaces: [kube-system]
    podAnnotations: {a: b}
    resourceQuotas: {enabled: true, pods: 100}
    seLinuxOptions: {type: spc_t}
    updateStrategy: {type: RollingUpdate, rollingUpdate: {maxUnavailable: 25%}}
    resources: {requests: {cpu: 100m, memory: 100Mi}, limits: {memory: 1Gi}}
    chained: true
    """
    assert refusal(yaml.safe_load(istios)) == ""


def test_the_settings_of_a_capture_are_the_agents() -> None:
    known = {each.name for each in fields(Capture)}
    # dns and families have Istio's names for them, under ambient; the others have no meaning in a pod.
    elsewhere = {"dns", "families", "ingress", "proxy_user", "proxy_cgroup", "when_proxy_absent"}
    assert set(SCHEMA["properties"]["capture"]["properties"]) == known - elsewhere
