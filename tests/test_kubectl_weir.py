"""`kubectl weir`: whom it asks, and that nothing of a command line is read as anything else on the way."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from agent.cli.manual import PAGES

SCRIPT = Path(__file__).resolve().parent.parent / "deploy/kubectl-weir"
# As a cluster answers kubectl: pods of shop are on node-1, those of far on node-2, and late is on none.
KUBECTL = """#!/bin/sh
printf '%s\\0' "$#" "$@" >> {calls}
case "$*" in
*"get pod --namespace=far "*) printf node-2 ;;
*"get pod --namespace=shop late "*) ;;
*"get pod --namespace=shop gone "*) echo 'Error from server (NotFound): pods "gone" not found' >&2; exit 1 ;;
*"get pod "*) printf node-1 ;;
*"get pods "*spec.nodeName=node-9*) ;;
*"get pods "*spec.nodeName=*) {tenant} echo "mesh weir-1 node-1 true" ;;
*"get pods "*) {tenant} printf 'mesh weir-1 node-1 true\\nmesh weir-2 node-2 true\\n' ;;
*"config view "*) printf shop ;;
*exec*weir-2*) exit 1 ;;
*exec*) exit 0 ;;
esac
"""


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    return cluster(tmp_path)


def cluster(tmp_path: Path, tenant: str = "") -> Path:
    """Return where kubectl's calls are written. `tenant` is one more pod with the agent's labels."""
    kubectl = tmp_path / "kubectl"
    of_tenant = f"echo {shlex.quote(tenant)};" if tenant else ""
    kubectl.write_text(KUBECTL.format(calls=shlex.quote(str(tmp_path / "calls")), tenant=of_tenant))
    kubectl.chmod(0o755)
    return tmp_path / "calls"


def weir(calls: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "KUBECTL": str(calls.with_name("kubectl"))}
    return subprocess.run([SCRIPT, *arguments], env=environment, capture_output=True, text=True, check=False)


def asked(calls: Path) -> list[list[str]]:
    """Return what kubectl was called with, word by word."""
    words = iter(calls.read_text().split("\0")[:-1]) if calls.exists() else iter(())
    return [[next(words) for _ in range(int(number))] for number in words]


def test_arguments_arrive_in_the_pod_as_they_were(calls: Path) -> None:
    odd = ["--set", 'exclude_interfaces=["a b"]', "$(touch /tmp/x)", "`id`", "a'b", "*", "", "two\nlines", "--", "-n"]
    assert weir(calls, "diff", "pod/shop/web-0", *odd).returncode == 0
    last = asked(calls)[-1]
    where = ["exec", "--namespace=mesh", "weir-1", "--container=agent", "--", "weir", "diff"]
    assert last == [*where, "pod/shop/web-0", *odd]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["status", "pod/shop/--all"], "--all: is no name of Kubernetes"),
        (["status", "pod/-n/web"], "-n: is no name of Kubernetes"),
        (["status", "pod/a/b/c"], "wants pod/NAMESPACE/NAME"),
        (["status", "pod/shop/x;y"], "is no name of Kubernetes"),
        (["status", "pod/shop/"], "is no name of Kubernetes"),
        (["--node", "a,metadata.name=b", "status"], "is no name of Kubernetes"),
        (["-n", "--help", "status", "pod/x"], "is no name of Kubernetes"),
        (["-n"], "-n: wants a value"),
        (["remove", "pod/shop/web-0"], "remove: is no command"),
        (["--verbose", "status"], "--verbose: is no option before a command"),
        (["status", "pod/shop/late"], "is on no node yet"),
        (["status", "pod/shop/gone"], 'pods "gone" not found'),
        (["--node", "node-9", "status"], "no agent of Weir runs on node node-9"),
        (["status", "pod/shop/web-0", "pod/far/web-0"], "is on node node-2, and not on node-1"),
    ],
)
def test_what_is_no_pod_is_refused_before_anything_runs(calls: Path, arguments: list[str], said: str) -> None:
    done = weir(calls, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert not any("exec" in each for each in asked(calls))


def test_without_a_pod_every_node_is_asked_and_the_worst_code_counts(calls: Path) -> None:
    done = weir(calls, "status")
    assert (done.returncode, done.stdout) == (1, "== node node-1\n== node node-2\n")
    assert [each[2] for each in asked(calls) if each[0] == "exec"] == ["weir-1", "weir-2"]


def test_a_pod_without_a_namespace_is_looked_for_where_kubectl_would(calls: Path) -> None:
    assert weir(calls, "verify", "pod/web-0").returncode == 0
    assert asked(calls)[-1][-1] == "pod/shop/web-0"
    assert weir(calls, "--context", "blue", "-n", "far", "verify", "pod/web-0").returncode == 0
    assert asked(calls)[-1][-1] == "pod/far/web-0"
    assert {each[0] for each in asked(calls)[-3:]} == {"--context=blue"}


@pytest.mark.parametrize("name", [["--node", "node-1"], []])
def test_a_tenants_pod_with_the_agents_labels_is_told_nothing(tmp_path: Path, name: list[str]) -> None:
    calls = cluster(tmp_path, "shop mine node-1 ")
    assert weir(calls, *name, "verify", "pod/shop/web-0").returncode == 0
    assert {each[2] for each in asked(calls) if each[0] == "exec"} == {"weir-1"}


def test_agents_of_several_namespaces_are_not_asked_at_random(tmp_path: Path) -> None:
    calls = cluster(tmp_path, "shop mine node-1 true")
    done = weir(calls, "status")
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        "agents of Weir run in several namespaces: mesh shop\n  say whose to ask with --agent-namespace" in done.stderr
    )
    assert not any("exec" in each for each in asked(calls))


def test_a_namespace_that_is_named_is_where_agents_are_looked_for(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIR_AGENT_NAMESPACE", "mesh")
    weir(calls, "status")
    weir(calls, "--agent-namespace", "other", "status")
    where = [each[2] for each in asked(calls) if each[:2] == ["get", "pods"]]
    assert where == ["--namespace=mesh", "--namespace=other"]
    monkeypatch.setenv("WEIR_AGENT_NAMESPACE", "a b")
    assert "--agent-namespace a b: is no name of Kubernetes" in weir(calls, "status").stderr


def test_every_command_that_it_runs_is_one_of_weirs() -> None:
    (listed,) = re.findall(r"^Commands: ([a-z, ]+)\.", SCRIPT.read_text(), re.MULTILINE)
    (taken,) = re.findall(r"^([a-z]+(?: \| [a-z]+)+)\) ;;$", SCRIPT.read_text(), re.MULTILINE)
    assert listed.split(", ") == taken.split(" | ")
    assert set(taken.split(" | ")) <= set(PAGES)


def test_help_is_help(calls: Path) -> None:
    done = weir(calls, "--help")
    assert (done.returncode, done.stdout.count("kubectl weir status pod/shop/web-0")) == (0, 1)
    assert weir(calls).returncode == 2
