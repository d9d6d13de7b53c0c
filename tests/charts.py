"""Weir's chart as helm renders it, and the plain manifests that are made from that."""

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from netns_tests.kubernetes.programs import program

ROOT = Path(__file__).parent.parent
CHART = ROOT / "deploy/chart/weir"
MANIFESTS = ROOT / "deploy/kubernetes/weir.yaml"
NAMESPACE = "istio-system"
KUBERNETES = "1.34.0"  # what helm is to render for; of itself it takes what it was built with
HEADER = """\
# Weir on a cluster without helm. Push the image to a registry, and name that here in the place of localhost.
# Made from deploy/chart/weir; `./dev test tests/test_chart_manifests.py --update-goldens` writes it anew.
#
#   kubectl create namespace istio-system     unless Istio is there already
#   kubectl apply --filename weir.yaml
#
# Take it away in this order, so that the agents clean their nodes while they have the right to:
#
#   kubectl delete --namespace istio-system daemonset/weir --cascade=foreground
#   kubectl delete --filename weir.yaml --ignore-not-found
"""

Object = dict[str, Any]


def helm() -> str:
    """Return helm's path, built by Go where it isn't yet."""
    return str(program("helm"))


def run(*arguments: str | Path, values: Mapping[str, object] | None = None) -> tuple[int, str, str]:
    """Return exit code, output and errors of helm, with values given as a file would give them."""
    told_version = any(str(each).startswith("--kube-version") for each in arguments)
    version = () if told_version else ("--kube-version", KUBERNETES)
    argv = [helm(), *map(str, arguments), *version, *(("--values", "-") if values is not None else ())]
    told = None if values is None else yaml.safe_dump(dict(values))
    with tempfile.TemporaryDirectory() as home:  # no plugins, repositories or kubeconfig of a user's own helm count
        environment = {"PATH": os.environ["PATH"], "HOME": home}
        done = subprocess.run(argv, env=environment, input=told, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def rendered(values: Mapping[str, object] | None = None, *arguments: str, namespace: str = NAMESPACE) -> str:
    """Return what helm makes of the chart."""
    code, text, said = run("template", "weir", CHART, "--namespace", namespace, *arguments, values=values or {})
    assert code == 0, said
    return text


def objects(values: Mapping[str, object] | None = None, *arguments: str) -> list[Object]:
    """Return the objects of the chart with these values."""
    return [each for each in yaml.safe_load_all(rendered(values, *arguments)) if each]


def one(found: list[Object], kind: str, name: str = "weir") -> Object:
    """Return the one object of a kind and name."""
    (each,) = [each for each in found if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return each


def refusal(values: Mapping[str, object]) -> str:
    """Return helm's words on values that it refuses; empty where it takes them."""
    code, _, said = run("template", "weir", CHART, values=values)
    return said if code else ""


def pod(daemon_set: Object) -> Object:
    """Return a DaemonSet's pod."""
    spec: Object = daemon_set["spec"]["template"]["spec"]
    return spec


def agent(daemon_set: Object) -> Object:
    """Return the agent's container."""
    (container,) = pod(daemon_set)["containers"]
    found: Object = container
    return found


def environment(daemon_set: Object) -> dict[str, str]:
    """Return the variables that the agent is given by value; those of the pod's own fields by their path."""
    return {
        each["name"]: each.get("value") or each["valueFrom"]["fieldRef"]["fieldPath"]
        for each in agent(daemon_set)["env"]
    }


def folders(daemon_set: Object) -> dict[str, str]:
    """Return the node's folders that the agent has, by where it has them."""
    volumes = {each["name"]: each for each in pod(daemon_set)["volumes"]}
    return {
        each["mountPath"]: volumes[each["name"]]["hostPath"]["path"]
        for each in agent(daemon_set)["volumeMounts"]
        if "hostPath" in volumes[each["name"]]
    }


def manifests() -> str:
    """Return the plain manifests: what helm makes without hooks, and without what only helm understands."""
    text = rendered(None, "--no-hooks")
    text = re.sub(
        r"^(?:# Source| *app\.kubernetes\.io/managed-by| *helm\.sh/chart): .*\n", "", text, flags=re.MULTILINE
    )
    return HEADER + re.sub(r"\n+---\n", "\n---\n", "\n" + text).lstrip("\n")
