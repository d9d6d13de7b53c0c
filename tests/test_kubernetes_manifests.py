"""`weir render -f` and `weir diff -f` on Kubernetes manifests, as nobody and without a cluster."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rulesets import nft, pod
from rulesets.capture import Capture
from rulesets.vocabulary import PortRange

WEIR = str(Path(sys.executable).with_name("weir"))
ROOT = Path(__file__).parent
SHOP, CHANGED = str(ROOT / "manifests" / "shop"), str(ROOT / "manifests" / "changed")
DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  template:
    metadata: {labels: {istio.io/dataplane-mode: ambient, mesh: "on"}, annotations: {ANNOTATIONS}}
    spec: {containers: [{name: web}]}
"""


def weir(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """As nobody, where the tests run as root."""
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    return subprocess.run(
        [*nobody, WEIR, *arguments],
        env={"PATH": os.environ["PATH"], "WEIR_RUN_DIR": "/nonexistent"},
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )


def deployment(annotations: str = "") -> str:
    return DEPLOYMENT.replace("ANNOTATIONS", annotations)


@pytest.fixture
def folder(public_folder: Path) -> Path:
    return public_folder


def states(document: str) -> dict[str, str]:
    return {each["workload"]: each["state"] for each in json.loads(document)["workloads"]}


def test_each_workload_is_told_with_its_reason_and_like_rules_once() -> None:
    done = weir("render", "-f", SHOP)
    assert (done.returncode, done.stderr) == (0, "")
    told = [line.split(maxsplit=3) for line in done.stdout.splitlines() if line.startswith("#")]
    assert " ".join(told[0]) == (
        "# 3 of 7 workloads would be captured; 3 outside; 1 unknown; beside them make no pods: 1 Service"
    )
    assert [(state, workload) for _, state, workload, _ in told[1:8]] == [
        ("outside", "cronjob/shop/report"),
        ("outside", "daemonset/shop/metrics"),
        ("outside", "job/tools/migrate-*"),
        ("captured", "pod/tools/debug"),
        ("unknown", "rollout/elsewhere/api"),
        ("captured", "deployment/shop/web"),
        ("captured", "statefulset/shop/db"),
    ]
    assert told[1][3] == "its label istio.io/dataplane-mode=none takes it out"
    plain = nft.render(pod.build(Capture()))
    database = Capture.parse(
        {"exclude_inbound_ports": [5432, "8000-8010"], "exclude_outbound_networks": ["10.0.0.0/8", "192.168.0.0/16"]}
    )
    rules = "".join(line for line in done.stdout.splitlines(keepends=True) if not line.startswith("#"))
    assert rules == plain + nft.render(pod.build(database))
    assert "# the rules of pod/tools/debug, rollout/elsewhere/api, deployment/shop/web\ntable inet" in done.stdout


def test_the_document_says_the_same_and_is_read_again(folder: Path) -> None:
    printed = weir("render", "-f", SHOP, "--output", "json")
    document = json.loads(printed.stdout)
    assert (printed.returncode, document["errors"], document["others"]) == (0, [], {"Service": 1})
    web = next(each for each in document["workloads"] if each["workload"] == "deployment/shop/web")
    assert (web["file"], web["document"], web["line"]) == (f"{SHOP}/web.yaml", 1, 3)
    rules = nft.parse(json.dumps(document["rules"][web["rules"]]), "weir-pod")
    assert rules == pod.build(Capture())
    saved = folder / "captured.json"
    saved.write_text(json.dumps(document, sort_keys=True))  # as jq would leave it
    same = weir("diff", "-f", str(saved), "-f", SHOP)
    assert (same.returncode, same.stdout, same.stderr) == (
        0,
        "same: capture would do with 7 workloads what it did\n",
        "",
    )
    assert weir("diff", "-f", str(saved), "-f", CHANGED).stdout == weir("diff", "-f", SHOP, "-f", CHANGED).stdout


def test_a_gate_names_what_would_change() -> None:
    done = weir("diff", "-f", SHOP, "-f", CHANGED)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout == (
        "4 of 7 workloads fare otherwise\n"
        "! cronjob/shop/report: captured, was outside: pod istio.io/dataplane-mode!=none, namespace"
        " istio.io/dataplane-mode=ambient (selector 2)\n"
        "! deployment/shop/web: outside, was captured: its label istio.io/dataplane-mode=none takes it out\n"
        "- pod/tools/debug: was captured\n"
        "! statefulset/shop/db: captured, with other rules\n"
        "    set exclude-inbound-ports\n"
        "      - 8000-8010\n"
        f"`weir render -f {CHANGED} cronjob/shop/report` prints its rules\n"
    )
    document = json.loads(weir("diff", "-f", CHANGED, "-f", SHOP, "-o", "json").stdout)
    assert (document["compared"], document["errors"], document["old_errors"]) == (7, [], [])
    assert [(each["workload"], each["old"] and each["old"]["state"]) for each in document["differences"]] == [
        ("cronjob/shop/report", "captured"),
        ("deployment/shop/web", "outside"),
        ("pod/tools/debug", None),
        ("statefulset/shop/db", "captured"),
    ]
    assert document["differences"][3]["changes"] == ["set exclude-inbound-ports", "  + 8000-8010"]


def test_workloads_can_be_named() -> None:
    one = weir("render", "-f", SHOP, "statefulset/shop/db", "--format", "json")
    assert "exclude-inbound-ports" in one.stdout
    assert weir("diff", "-f", SHOP, "-f", CHANGED, "daemonset/shop/metrics").returncode == 0
    several = weir("render", "-f", SHOP, "--format", "json")
    assert (several.returncode, several.stdout) == (2, "")
    unknown = weir("render", "-f", SHOP, "deployment/shop/wob")
    assert unknown.returncode == 2
    assert unknown.stderr == (
        "weir: workload 'deployment/shop/wob': the manifests have no such one\n  did you mean 'deployment/shop/web'?\n"
    )


def test_standard_input_and_the_clusters_own_choices(folder: Path) -> None:
    selectors = folder / "selectors.yaml"
    selectors.write_text("- podSelector:\n    matchExpressions: [{key: mesh, operator: In, values: ['on']}]\n")
    text = deployment().replace(", namespace: shop", "").replace("istio.io/dataplane-mode: ambient, ", "")
    done = weir("render", "-f", "-", "-n", "shop", "--selectors", str(selectors), "--set", "dns=false", text=text)
    assert (done.returncode, done.stderr) == (0, "")
    assert "deployment/shop/web  pod mesh=on (selector 1)\n" in done.stdout
    assert done.stdout.endswith(nft.render(pod.build(Capture(dns=False))))
    outside = weir("render", "-f", "-", "--exclude-namespace", "shop", "-o", "json", text=deployment())
    assert states(outside.stdout) == {"deployment/shop/web": "outside"}


def test_all_that_cant_be_read_is_told_and_the_rest_is_shown(folder: Path) -> None:
    ports = "traffic.sidecar.istio.io/excludeInboundPorts"
    (folder / "a.yaml").write_text(deployment(f"{ports}: http"))
    (folder / "b.yaml").write_text(deployment().replace("web", "fine"))
    (folder / "c.yaml").write_text("a: [\n")
    (folder / "d.yaml").write_text("---\nkind: {{ .Values.kind }}\n")
    done = weir("render", "-f", str(folder))
    assert done.returncode == 2
    assert "# captured    deployment/shop/fine  " in done.stdout
    assert "# unreadable  deployment/shop/web   " in done.stdout
    assert done.stdout.endswith(nft.render(pod.build(Capture())))
    errors = done.stderr.splitlines()
    assert errors[0].startswith(f"weir: {folder}/c.yaml:2 (document 1): is not YAML: ")
    assert errors[1].startswith(f"weir: {folder}/d.yaml:2 (document 1): ")
    assert errors[1].endswith("; render the chart first: `helm template . | weir render -f -`")
    assert errors[2].startswith(
        f"weir: {folder}/a.yaml:6 (document 1): deployment/shop/web: {ports} = 'http': is no port"
    )
    document = json.loads(weir("render", "-f", str(folder), "-o", "json").stdout)
    assert [Path(each["file"]).name for each in document["errors"]] == ["c.yaml", "d.yaml", "a.yaml"]
    # What is new must be readable; what was not may be put right.
    good = weir("diff", "-f", str(folder), "-f", str(folder / "b.yaml"))
    assert (good.returncode, good.stdout.splitlines()[1]) == (1, "- deployment/shop/web: was unreadable")
    assert weir("diff", "-f", str(folder / "b.yaml"), "-f", str(folder)).returncode == 2
    (folder / "empty.yaml").touch()
    unsure = weir("diff", "-f", str(folder / "c.yaml"), "-f", str(folder / "empty.yaml"))
    assert (unsure.returncode, unsure.stdout.partition(",")[0]) == (1, "as far as it can be read")


def test_nothing_of_a_manifest_gets_out_of_its_comment(folder: Path) -> None:
    name = folder / "a\nflush ruleset\n.yaml"
    evil = '"x\\nflush ruleset\\r\\u2028flush ruleset"'
    name.write_text(
        f"kind: Namespace\nmetadata: {{name: shop, labels: {{istio.io/dataplane-mode: {evil}}}}}\n---\n"
        + deployment().replace("ambient", evil)
        + "---\n"
        + deployment(f"traffic.sidecar.istio.io/excludeOutboundPort: {evil}").replace("web", "db")
        + f"---\nkind: Pod\nmetadata: {{name: {evil}}}\nspec: {{}}\n"
    )
    done = weir("render", "-f", str(folder))
    assert done.returncode == 2
    rules = nft.render(pod.build(Capture()))
    comments = done.stdout.removesuffix(rules)
    assert comments != done.stdout
    assert all(each.startswith("# ") for each in comments.splitlines())  # by whatever ends a line
    assert all(each.startswith("weir: ") for each in done.stderr.splitlines())
    assert "note: 'traffic.sidecar.istio.io/excludeOutboundPort' is not read: did you mean" in comments


def test_a_namespace_may_come_from_elsewhere(folder: Path) -> None:
    (folder / "web.yaml").write_text(deployment().replace("istio.io/dataplane-mode: ambient, ", ""))
    (folder / "ns.json").write_text(
        '{\n\t"kind": "List", "items": [{"kind": "Namespace", "metadata": {"name": "shop"}}]}'
    )
    web = str(folder / "web.yaml")
    assert states(weir("render", "-f", web, "-o", "json").stdout) == {"deployment/shop/web": "unknown"}
    both = weir("render", "-f", web, "-f", str(folder / "ns.json"), "-o", "json")
    assert states(both.stdout) == {"deployment/shop/web": "outside"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("diff -f SHOP", "weir: diff: got 1 set of manifests, and wants two, the old and the new\n"),
        ("diff -f SHOP -f SHOP -f SHOP", "weir: diff: got 3 sets of manifests, and wants two, the old and the new\n"),
        (
            "render -f SHOP -f x.toml",
            "weir: render: x.toml: is no folder of manifests, nor called .yaml, .yml or .json\n",
        ),
        ("render -f x.toml -f y.toml", "weir: render: --file is given 2 times, and there is one target file\n"),
        ("diff -f - -f -", "weir: diff: -: standard input can be read only once\n"),
        ("render -f SHOP --netns web", "weir: render: --netns 'web': manifests have no namespaces of the kernel\n"),
        ("render -n shop --set dns=false", "weir: render: --namespace: goes with manifests, and there are none\n"),
        ("diff --selectors x.yaml", "weir: diff: --selectors: goes with manifests, and there are none\n"),
        ("render -f SHOP --set nope=1", "weir: --set: nope = 1: there is no such setting"),
        ("render -f SHOP --selectors FOLDER/none.yaml", "weir: FOLDER/none.yaml: there is no such file\n"),
        (
            "render -f SHOP --selectors FOLDER/bad.yaml",
            "weir: --selectors FOLDER/bad.yaml: selectors[0].podSelecter = {}: ",
        ),
        ("render -f FOLDER/none.yaml", "weir: FOLDER/none.yaml: there is no such file\n"),
        ("render -f FOLDER/empty", "weir: FOLDER/empty: holds no manifests\n"),
        ("render -f FOLDER/latin.yaml", "weir: FOLDER/latin.yaml: is not UTF-8 text (byte 0)\n"),
        ("render -f FOLDER/huge.yaml", "weir: FOLDER/huge.yaml: is larger than 32 MB\n"),
        ("render -f FOLDER/dangling", "weir: FOLDER/dangling/a.yaml: there is no such file\n"),
        (
            "diff -f FOLDER/saved.json -f SHOP",
            "weir: FOLDER/saved.json: is of version 9, and this Weir reads version 1\n",
        ),
        (
            "diff -f FOLDER/torn.json -f SHOP",
            "weir: FOLDER/torn.json: is not what `weir render -f ... --output json` prints",
        ),
    ],
)
def test_what_cant_be_meant_is_answered(folder: Path, arguments: str, said: str) -> None:
    (folder / "empty").mkdir()
    (folder / "dangling").mkdir()
    (folder / "dangling" / "a.yaml").symlink_to("/nonexistent")
    (folder / "latin.yaml").write_bytes(b"\xff")
    (folder / "bad.yaml").write_text("- podSelecter: {}\n")
    (folder / "saved.json").write_text('{"manifests": 9}')
    (folder / "torn.json").write_text('{"manifests": 1, "workloads": [{')
    with (folder / "huge.yaml").open("wb") as file:
        file.truncate((32 << 20) + 1)
    done = weir(*(each.replace("SHOP", SHOP).replace("FOLDER", str(folder)) for each in arguments.split()))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(said.replace("FOLDER", str(folder)))


def test_many_workloads_share_their_rules(folder: Path) -> None:
    text = "---\n".join(deployment().replace("web", f"web-{number}") for number in range(300))
    (folder / "many.yaml").write_text(text)
    document = json.loads(weir("render", "-f", str(folder), "-o", "json").stdout)
    assert (len(document["workloads"]), len(document["rules"])) == (300, 1)
    other = Capture(exclude_inbound_ports=(PortRange(1, 1),))
    changed = text.replace("annotations: {}", "annotations: {traffic.sidecar.istio.io/excludeInboundPorts: '1'}")
    (folder / "changed.yml").write_text(changed)
    done = weir("diff", "-f", str(folder / "many.yaml"), "-f", str(folder / "changed.yml"))
    assert done.stdout.startswith("300 of 300 workloads fare otherwise\n")
    assert done.stdout.count("set exclude-inbound-ports\n") == 1  # what changes alike is told once
    assert nft.render(pod.build(other)) in weir("render", "-f", str(folder / "changed.yml")).stdout
