"""Whose sandbox the container runtime speaks of."""

from pathlib import Path

import pytest

from agent.cni.protocol import Sandbox as Asked
from agent.kernel.netns import identify
from agent.pods.request import is_of
from agent.sources.kubernetes.sandboxes import Sandbox


@pytest.fixture
def mine(tmp_path: Path) -> Sandbox:
    """A sandbox whose container isn't known, in a file that stands for its namespace."""
    file = tmp_path / "cni-1"
    file.touch()
    identity = identify(file)
    assert identity is not None
    return Sandbox(uid="u", netns=str(file), identity=identity, cookie=0, container="", interface="", addresses=())


def ended(container: str, netns: str = "") -> Asked:
    return Asked(namespace="shop", pod="web-0", container=container, netns=netns)


def test_an_old_sandbox_that_is_deleted_once_more_is_not_the_one_that_lives(mine: Sandbox) -> None:
    assert not is_of(mine, ended(container="old"))
    Path(mine.netns).unlink()
    assert is_of(mine, ended(container="old"))


def test_a_path_tells_whose_it_is(mine: Sandbox, tmp_path: Path) -> None:
    assert is_of(mine, ended(container="c", netns=mine.netns))
    assert not is_of(mine, ended(container="c", netns=str(tmp_path / "cni-2")))
    other = Path(mine.netns)
    other.rename(tmp_path / "kept")
    other.touch()
    assert not is_of(mine, ended(container="c", netns=mine.netns)), "another one stands there by now"
