"""What the chart's hooks make of an API that can't answer now: an uninstall isn't given up for it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cni import SECONDS, Api

SCRIPT = Path(__file__).resolve().parent.parent / "deploy/release.py"
PATH = "/apis/apps/v1/namespaces/mesh/daemonsets/weir"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with Api(tmp_path) as running:
        running.objects[PATH] = {"metadata": {}, "status": {"desiredNumberScheduled": 2, "numberReady": 2}}
        (tmp_path / "token").write_text(running.token)
        (tmp_path / "ca.crt").write_text((tmp_path / "certificate.pem").read_text())
        yield running


def hook(api: Api, seconds: float) -> "subprocess.Popen[str]":
    server = (api.folder / "cni-kubeconfig").read_text().partition("https://")[2].partition('"')[0]
    host, _, port = server.partition(":")
    environment = {
        **os.environ,
        "KUBERNETES_SERVICE_HOST": host,
        "KUBERNETES_SERVICE_PORT": port,
        "SERVICE_ACCOUNT": str(api.folder),
        "WEIR_HOOK_SECONDS": str(seconds),
    }
    argv = [sys.executable, str(SCRIPT), "ready", "mesh", "weir"]
    return subprocess.Popen(argv, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize("status", [409, 429, 500, 503])
def test_an_api_that_is_busy_is_asked_again(api: Api, status: int) -> None:
    api.status = status
    with hook(api, SECONDS) as running:
        end = time.monotonic() + SECONDS
        while len(api.paths) < 2:
            assert running.poll() is None, running.communicate()
            assert time.monotonic() < end
            time.sleep(0.05)
        api.status = 0
        out, err = running.communicate(timeout=SECONDS)
    assert (running.returncode, err) == (0, "")
    assert f"can't answer yet: GET {PATH}: {status}" in out
    assert out.endswith("done\n")


def test_an_api_that_stays_busy_is_given_up_when_the_time_is_over(api: Api) -> None:
    api.status = 503
    with hook(api, 0) as running:
        _, err = running.communicate(timeout=SECONDS)
    assert (running.returncode, "not within the time: the API can't answer yet" in err) == (2, True)


def test_a_refusal_is_final(api: Api) -> None:
    api.status = 403
    with hook(api, SECONDS) as running:
        _, err = running.communicate(timeout=SECONDS)
    assert (running.returncode, len(api.paths)) == (2, 1)
    assert f"ready: GET {PATH}: 403" in err
