"""The agent as the chart starts it: its rights, mounts and variables, against a real API server; and its image."""

import platform
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from netns_tests.images import build, oci
from netns_tests.kubernetes.programs import program
from tests import charts, cni

# Helm, the API server, the plugin and the image are built where they aren't yet.
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The image's file system and what it says of how to start it."""
    if shutil.which("dpkg-deb") is None or platform.machine() != "x86_64":
        pytest.skip("the image is made of Debian's packages for x86-64, and this is another machine")
    root = tmp_path_factory.mktemp("image")
    return root, oci.unpack(build.image(), root)


def live(folder: Path, *root: Path) -> str:
    for built in (charts.helm, cni.program, lambda: program("etcd"), lambda: program("kube-apiserver")):
        built()
    namespaces = ("unshare", "--net", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc")
    argv = [*namespaces, "--propagation", "private", sys.executable, "-m", "netns_tests.chart_pod", folder, *root]
    done = subprocess.run(list(map(str, argv)), cwd=charts.ROOT, capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else ""


def test_the_agent_installs_is_updated_and_cleans_up(tmp_path: Path) -> None:
    """What is asserted is in chart_pod.live."""
    assert live(tmp_path) == ""


def test_the_agent_of_the_image_does_the_same(tmp_path: Path, image: tuple[Path, dict[str, Any]]) -> None:
    assert live(tmp_path, image[0]) == ""


def test_the_image_is_what_the_chart_expects(image: tuple[Path, dict[str, Any]]) -> None:
    root, config = image
    told = dict(each.split("=", 1) for each in config["Env"])
    assert config["Entrypoint"] == ["/opt/weir/bin/weir"]
    assert (root / told["WEIR_PLUGIN"].lstrip("/")).read_bytes() == cni.program().read_bytes()
    assert (root / "opt/weir/release.py").read_text() == (charts.ROOT / "deploy/release.py").read_text()
    said = subprocess.run(
        ["chroot", root, *config["Entrypoint"], "--version"], capture_output=True, text=True, check=True
    )
    version = tomllib.loads((charts.ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert said.stdout == f"weir {version}\n"


def test_the_image_holds_nothing_that_builds_or_fetches(image: tuple[Path, dict[str, Any]]) -> None:
    root, _ = image
    tools = {"apt-get", "c++", "cc", "cc1", "curl", "g++", "gcc", "git", "go", "ld", "make", "pip", "pip3", "wget"}
    found = [path for path in root.rglob("*") if path.name in tools and not path.is_dir()]
    assert not found
    assert not list(root.glob("opt/weir/lib/python3*/site-packages/pip"))
    assert not list(root.glob("opt/weir/lib/python3*/site-packages/setuptools"))
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    assert size < 200 << 20
