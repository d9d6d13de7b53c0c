"""Fixtures of the kernel tests. They need root and fail without it: a skipped kernel test proves nothing."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from netns_tests.enrolling import Weir
from netns_tests.kubernetes.api_server import ApiServer
from netns_tests.kubernetes.programs import program
from netns_tests.world import Host, World, delete_all


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build Kubernetes' programs before a test's clock runs; one that can't be built fails the tests that need it."""
    if session.config.option.collectonly or not any("api_server" in _fixtures(each) for each in session.items):
        return
    capturing = session.config.pluginmanager.getplugin("capturemanager")
    with capturing.global_and_fixture_disabled(), suppress(pytest.fail.Exception):
        for each in ("etcd", "kube-apiserver"):
            program(each)


def _fixtures(item: pytest.Item) -> list[str]:
    return item.fixturenames if isinstance(item, pytest.Function) else []


@pytest.fixture(scope="session", autouse=True)
def root() -> None:
    """Refuse to run without root."""
    if os.geteuid() != 0:
        pytest.fail("netns_tests make network namespaces and load nftables rules: run them as root", pytrace=False)


@pytest.fixture(scope="module", autouse=True)
def clean_module() -> Iterator[None]:
    """Delete what a test of the module made and lost."""
    yield
    delete_all()


@pytest.fixture
def world(root: None) -> Iterator[World]:
    """Give a test two pods, their node and an outside of its own."""
    with World(pods=2) as made:
        yield made


@pytest.fixture
def pods(world: World) -> tuple[Host, ...]:
    """Give a test the two pods of its world."""
    return world.pods


@pytest.fixture
def pod(world: World) -> Host:
    """Give a test the first pod of its world."""
    return world.pods[0]


@pytest.fixture
def weir(pod: Host, tmp_path: Path) -> Iterator[Weir]:
    """Give a test a Weir for its first pod."""
    with Weir(pod, tmp_path) as running:
        yield running


@pytest.fixture(scope="session")
def api_server(root: None) -> Iterator[ApiServer]:
    """Give a test a real Kubernetes API server. All tests share it: use a namespace and a node name of your own."""
    with ApiServer() as running:
        yield running


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Give a test a stack, closed at its end."""
    with ExitStack() as made:
        yield made
