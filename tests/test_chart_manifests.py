"""The plain manifests are those of the chart, and Kubernetes' own schemas have nothing against any rendering."""

import kubernetes_validate
import pytest
import yaml

from tests.charts import MANIFESTS, Object, manifests, objects, one, rendered
from tests.test_chart import EVERYTHING, PLATFORMS

pytestmark = pytest.mark.timeout(900)  # the first one builds helm
VERSIONS = ("1.34", "1.35", "1.36", "1.37")  # those that kubernetes-validate brings


def test_the_plain_manifests_are_the_charts(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--update-goldens"):
        MANIFESTS.parent.mkdir(exist_ok=True)
        MANIFESTS.write_text(manifests())
    assert MANIFESTS.read_text() == manifests(), "write them anew: --update-goldens"


def test_the_plain_manifests_hold_all_that_stays_in_a_cluster() -> None:
    plain = {(each["kind"], each["metadata"]["name"]) for each in yaml.safe_load_all(MANIFESTS.read_text())}
    charts = {(each["kind"], each["metadata"]["name"]) for each in objects() if "helm.sh/hook" not in notes(each)}
    assert plain == charts
    assert "helm" not in MANIFESTS.read_text().partition("\n---\n")[2].lower()
    assert one(list(yaml.safe_load_all(MANIFESTS.read_text())), "DaemonSet")["metadata"]["namespace"] == "istio-system"


def notes(found: Object) -> Object:
    annotations: Object = found["metadata"].get("annotations", {})
    return annotations


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_kubernetes_takes_every_platforms_manifests(platform: str, version: str) -> None:
    for each in objects({"platform": platform, **EVERYTHING}, "--kube-version", f"{version}.0"):
        if each["kind"] != "PodMonitor":  # of the Prometheus operator, which brings its own schema
            kubernetes_validate.validate(each, version, strict=True)


def test_what_kubernetes_would_refuse_is_found() -> None:
    broken = one(objects(), "DaemonSet")
    broken["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readinesProbe"):
        kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)


def test_each_object_is_there_once_and_in_the_releases_namespace() -> None:
    found = [each for each in yaml.safe_load_all(rendered(EVERYTHING, namespace="elsewhere")) if each]
    names = [(each["kind"], each["metadata"]["name"]) for each in found]
    assert len(names) == len(set(names))
    assert {each["metadata"].get("namespace", "") for each in found} == {"", "elsewhere"}
    clusters = {each["kind"] for each in found if "namespace" not in each["metadata"]}
    assert clusters == {"ClusterRole", "ClusterRoleBinding"}
    for each in found:
        for subject in each.get("subjects", ()):
            assert subject["namespace"] == "elsewhere"
