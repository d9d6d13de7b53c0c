"""One cluster for all tests of this folder."""

from collections.abc import Iterator

import pytest

from netns_tests.kubernetes.cluster import Cluster


@pytest.fixture(scope="session")
def cluster(root: None) -> Iterator[Cluster]:
    """Give a test the cluster. All tests share it: use a namespace of your own."""
    with Cluster() as running:
        yield running
