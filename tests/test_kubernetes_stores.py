"""What is known of a node's pods: compared with a listing, changed by events, kept where it can't be read."""

import pytest

from agent.errors import ApiError
from agent.sources.kubernetes.facts import Namespace, Pod
from agent.sources.kubernetes.stores import NamespaceStore, PodStore
from tests.kubernetes_server import namespace, pod


class Seen(list[str]):
    def taken(self) -> list[str]:
        found = list(self)
        self.clear()
        return found


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def pods(seen: Seen) -> PodStore:
    store = PodStore(seen.append)
    store.replace([store.read(pod("a")), store.read(pod("b"))])
    assert seen.taken() == ["uid-a", "uid-b"]
    return store


def test_a_listing_tells_of_what_changed_and_of_nothing_else(pods: PodStore, seen: Seen) -> None:
    pods.replace([pods.read(pod("b", version="7")), pods.read(pod("c"))])
    assert seen == ["uid-a", "uid-c"]
    assert sorted(pods.pods) == ["uid-b", "uid-c"]
    assert pods.find("shop", "a") is None


def test_a_change_of_what_is_not_kept_is_none(pods: PodStore, seen: Seen) -> None:
    pods.put(pods.read({**pod("a", version="8"), "status": {"phase": "Running", "conditions": [{"type": "Ready"}]}}))
    assert seen == []


def test_the_same_name_with_another_uid_is_another_pod(pods: PodStore, seen: Seen) -> None:
    pods.put(pods.read(pod("a", uid="newer")))
    assert seen == ["uid-a", "newer"]
    found = pods.find("shop", "a")
    assert found is not None
    assert found.uid == "newer"
    pods.drop(pods.read(pod("a")))  # the older one's end, told late
    assert pods.find("shop", "a") == found


def test_the_same_name_with_another_uid_in_a_listing(pods: PodStore, seen: Seen) -> None:
    pods.replace([pods.read(pod("a", uid="newer")), pods.read(pod("b"))])
    assert seen == ["uid-a", "newer"]
    assert sorted(pods.pods) == ["newer", "uid-b"]


def test_a_pod_that_cannot_be_read_stays_as_it_was(pods: PodStore, seen: Seen) -> None:
    before = pods.pods["uid-a"]
    pods.put(pods.read(pod("a", hostNetwork="yes")))
    assert seen.taken() == ["uid-a"]
    assert pods.pods["uid-a"] == before
    assert "spec.hostNetwork = 'yes'" in str(pods.unreadable["uid-a"].error)
    pods.put(pods.read(pod("a", hostNetwork="yes", version="9")))
    assert seen.taken() == []
    pods.put(pods.read(pod("a")))
    assert seen.taken() == ["uid-a"]
    assert not pods.unreadable


def test_a_pod_that_never_could_be_read_is_known_all_the_same(pods: PodStore, seen: Seen) -> None:
    pods.put(pods.read(pod("c", hostNetwork="yes")))
    assert seen.taken() == ["uid-c"]
    assert "uid-c" not in pods.pods
    pods.replace([pods.read(pod("a")), pods.read(pod("b"))])
    assert seen == ["uid-c"]
    assert not pods.unreadable


def test_what_cannot_be_told_from_others_is_a_listing_that_failed(pods: PodStore) -> None:
    documents: list[dict[str, object]] = [{}, {"metadata": []}, {"metadata": {"name": "x", "namespace": "y"}}]
    for document in documents:
        with pytest.raises(ApiError, match="without name or uid"):
            pods.read(document)


def test_the_end_of_an_unknown_pod_is_no_news(pods: PodStore, seen: Seen) -> None:
    pods.drop(pods.read(pod("z")))
    assert seen == []


def test_namespaces_tell_of_their_labels(seen: Seen) -> None:
    store = NamespaceStore(seen.append)
    store.replace([store.read(namespace("shop", mode="ambient")), store.read(namespace("kube-system"))])
    assert seen.taken() == ["shop", "kube-system"]
    store.put(store.read({"metadata": {"name": "shop", "uid": "u", "labels": {"mode": "ambient"}}}))
    assert seen.taken() == []
    store.put(store.read({"metadata": {"name": "shop", "uid": "u", "labels": {"mode": 7}}}))
    assert seen.taken() == []
    assert store.namespaces["shop"] == Namespace(name="shop", labels={"mode": "ambient"})
    store.replace([store.read({"metadata": {"name": "shop", "uid": "u", "labels": {"mode": 7}}})])
    assert seen.taken() == ["kube-system"]
    store.drop(store.read(namespace("shop")))
    assert seen.taken() == ["shop"]


def test_pods_are_found_by_their_namespace(pods: PodStore) -> None:
    pods.put(pods.read(pod("far", namespace="other")))
    assert sorted(pods.of_namespace("shop")) == ["uid-a", "uid-b"]
    assert isinstance(pods.find("other", "far"), Pod)
