"""Fixtures of the kernel tests. They need root and fail without it: a skipped kernel test proves nothing."""

import os
from collections.abc import Iterator

import pytest

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
