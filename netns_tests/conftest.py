"""Fixtures of the kernel tests. They need root and fail without it: a skipped kernel test proves nothing."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from netns_tests.enrolling import Weir
from netns_tests.world import Host, World, delete_all


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


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Give a test a stack, closed at its end."""
    with ExitStack() as made:
        yield made
