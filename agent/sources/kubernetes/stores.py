"""What is known of a node's pods and of the namespaces: replaced by a listing, changed by events.

An object that can't be read stays as it was, and is said to be unreadable.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from agent.errors import ApiError
from agent.sources.kubernetes.facts import FieldError, Namespace, Pod, namespace_of, pod_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """An object that can't be read: `error` names the field. What it was when last readable is kept beside it."""

    namespace: str
    name: str
    uid: str
    error: FieldError


class PodStore:
    """Pods by uid and by name; tells of each whose kept facts have changed."""

    def __init__(self, changed: Callable[[str], None]) -> None:
        self._changed = changed
        self._by_name: dict[tuple[str, str], str] = {}
        self.pods: dict[str, Pod] = {}
        self.unreadable: dict[str, Unreadable] = {}

    def read(self, document: Mapping[str, object]) -> Pod | Unreadable:
        """Return what is kept of a pod."""
        try:
            return pod_of(document)
        except FieldError as error:
            return _unreadable(document, error)

    def replace(self, entries: Iterable[Pod | Unreadable]) -> None:
        """Take a whole listing."""
        found = {each.uid: each for each in entries}
        for uid in [*self.pods, *(each for each in self.unreadable if each not in self.pods)]:
            if uid not in found:
                self._forget(uid)
        for each in found.values():
            self.put(each)

    def put(self, entry: Pod | Unreadable) -> None:
        """Take a pod. One of the same name with another uid is gone."""
        name = (entry.namespace, entry.name)
        before = self._by_name.get(name)
        if before is not None and before != entry.uid:
            self._forget(before)
        self._by_name[name] = entry.uid
        if isinstance(entry, Unreadable):
            known = self.unreadable.get(entry.uid)
            self.unreadable[entry.uid] = entry
            if known is None or str(known.error) != str(entry.error):
                self._changed(entry.uid)
            return
        was_unreadable = self.unreadable.pop(entry.uid, None) is not None
        if self.pods.get(entry.uid) != entry or was_unreadable:
            self.pods[entry.uid] = entry
            self._changed(entry.uid)

    def drop(self, entry: Pod | Unreadable) -> None:
        """Take the word that a pod is gone."""
        if entry.uid in self.pods or entry.uid in self.unreadable:
            self._forget(entry.uid)

    def find(self, namespace: str, name: str) -> Pod | None:
        """Return the pod that has a name."""
        return self.pods.get(self._by_name.get((namespace, name), ""))

    def of_namespace(self, namespace: str) -> Iterator[str]:
        """Return the uids of a namespace's pods."""
        return iter([uid for (each, _), uid in self._by_name.items() if each == namespace])

    def _forget(self, uid: str) -> None:
        known = self.pods.pop(uid, None)
        unreadable = self.unreadable.pop(uid, None)
        entry = known or unreadable
        if entry is not None and self._by_name.get((entry.namespace, entry.name)) == uid:
            del self._by_name[entry.namespace, entry.name]
        self._changed(uid)


class NamespaceStore:
    """Namespaces by name; tells of each whose labels have changed."""

    def __init__(self, changed: Callable[[str], None]) -> None:
        self._changed = changed
        self.namespaces: dict[str, Namespace] = {}

    def read(self, document: Mapping[str, object]) -> Namespace | Unreadable:
        """Return what is kept of a namespace."""
        try:
            return namespace_of(document)
        except FieldError as error:
            unreadable = _unreadable(document, error)
            return replace(unreadable, namespace=unreadable.name)

    def replace(self, entries: Iterable[Namespace | Unreadable]) -> None:
        """Take a whole listing."""
        found = {each.name: each for each in entries}
        for name in [each for each in self.namespaces if each not in found]:
            del self.namespaces[name]
            self._changed(name)
        for each in found.values():
            self.put(each)

    def put(self, entry: Namespace | Unreadable) -> None:
        """Take a namespace; one that can't be read stays as it was."""
        if isinstance(entry, Namespace) and self.namespaces.get(entry.name) != entry:
            self.namespaces[entry.name] = entry
            self._changed(entry.name)

    def drop(self, entry: Namespace | Unreadable) -> None:
        """Take the word that a namespace is gone."""
        if self.namespaces.pop(entry.name, None) is not None:
            self._changed(entry.name)


def _unreadable(document: Mapping[str, object], error: FieldError) -> Unreadable:
    """Return what stands for an object that can't be read. Raises `ApiError` where it can't be told from others."""
    metadata = document.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    namespace, name, uid = (metadata.get(key) for key in ("namespace", "name", "uid"))
    if not isinstance(uid, str) or not isinstance(name, str) or not uid or not name:
        raise ApiError(f"the API has sent an object without name or uid: {error}") from None
    return Unreadable(namespace=namespace if isinstance(namespace, str) else "", name=name, uid=uid, error=error)
