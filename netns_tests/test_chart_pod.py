"""The agent as the chart starts it: its rights, mounts and variables, against a real API server."""

import subprocess
import sys
from pathlib import Path

import pytest

from netns_tests.kubernetes.programs import program
from tests import charts, cni


@pytest.mark.timeout(1800)  # helm, the API server and the plugin are built where they aren't yet
def test_the_agent_installs_is_updated_and_cleans_up(tmp_path: Path) -> None:
    """What is asserted is in chart_pod.live."""
    for built in (charts.helm, cni.program, lambda: program("etcd"), lambda: program("kube-apiserver")):
        built()
    namespaces = ("unshare", "--net", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc")
    argv = [*namespaces, "--propagation", "private", sys.executable, "-m", "netns_tests.chart_pod", str(tmp_path)]
    done = subprocess.run(argv, cwd=charts.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
