"""The API server as the agent needs it: one pod or namespace asked for, the annotation of a pod's state, Events.

Rights it takes: pods get, list and watch; namespaces get, list and watch; pods/status patch; events of events.k8s.io
create and patch; daemonsets get. The listing of a node's pods is kept by `agent.sources.kubernetes.informer`.
"""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from agent.errors import ApiError
from agent.sources.kubernetes.counting import CallCount
from agent.sources.kubernetes.events import Events
from agent.sources.kubernetes.facts import REDIRECTION, FieldError, Namespace, Pod, mapping, namespace_of, pod_of

if TYPE_CHECKING:  # its libraries take memory that an agent without Kubernetes can do without
    from agent.sources.kubernetes.calls import Calls

SIDECAR_LABEL = "security.istio.io/tlsMode=istio"
_PATIENCE = 2.0  # seconds for what Events still wait, when the agent ends
# What the API lets an object be called. Nothing else is there, and nothing else may become part of a path.
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


class Presence(StrEnum):
    """What the API says of a DaemonSet. `FORBIDDEN`: it says nothing, since the account may do nothing at all."""

    THERE = "there"
    GONE = "gone"
    FORBIDDEN = "forbidden"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Written:
    """The API has what was written."""


@dataclass(frozen=True, slots=True)
class Gone:
    """The pod is not there any more, though another one may have its name."""


class Api:
    """One API server. To be used in one loop; every request has a deadline of some seconds and is counted."""

    def __init__(self, calls: "Calls", *, node: str) -> None:
        """`node` is the name that Events say they come from."""
        self.requests = calls
        self._events = Events(calls, node=node)

    @classmethod
    def open(cls, kubeconfig: Path | None = None, *, node: str) -> "Api":
        """Return the API of a kubeconfig, or of the cluster that this runs in. Nothing is asked of it yet.

        Raises `ConfigError`.
        """
        from agent.sources.kubernetes.calls import Calls
        from agent.sources.kubernetes.clients import open_client

        return cls(Calls(open_client(kubeconfig)), node=node)

    async def close(self) -> None:
        """Send the Events that wait, for two seconds at most, and close the connections."""
        await self._events.close(_PATIENCE)
        await self.requests.close()

    def calls(self) -> tuple[CallCount, ...]:
        """Return how requests have fared so far, for metrics."""
        return self.requests.counted()

    @property
    def events_dropped(self) -> int:
        """How many Events were not told: too many of one pod, or the API didn't take them."""
        return self._events.dropped

    async def pod(self, namespace: str, name: str) -> Pod | None:
        """Return the pod that has a name now, whatever a listing knows; None where there is none. Raises `ApiError`."""
        found = await self._object(f"/api/v1/namespaces/{namespace}/pods/{name}", "pods", namespace, name)
        try:
            return None if found is None else pod_of(found)
        except FieldError as error:
            raise ApiError(f"pod/{namespace}/{name}: {error}", status=200) from None

    async def namespace(self, name: str) -> Namespace | None:
        """Return a namespace; None where there is none. Raises `ApiError`."""
        found = await self._object(f"/api/v1/namespaces/{name}", "namespaces", name)
        try:
            return None if found is None else namespace_of(found)
        except FieldError as error:
            raise ApiError(f"namespace/{name}: {error}", status=200) from None

    async def redirect_state(self, pod: Pod, value: str | None) -> Written | Gone:
        """Set the annotation that says whether a pod is captured; None takes it away. Raises `ApiError`.

        Never that of another pod with the same name: the pod's uid is part of what is written, and the API refuses to
        change it.
        """
        body = {"metadata": {"uid": pod.uid, "annotations": {REDIRECTION: value}}}
        try:
            await self.requests.patch(
                f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}/status", body, resource="pods/status"
            )
        except ApiError as error:
            if error.status == 404:
                return Gone()
            if error.status in (409, 422):  # another uid, or several who write at once
                there = await self._object(
                    f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}", "pods", pod.namespace, pod.name
                )
                if there is None or mapping("metadata", there.get("metadata")).get("uid") != pod.uid:
                    return Gone()
            raise
        return Written()

    async def event(self, pod: Pod, reason: str, note: str, *, warning: bool) -> None:
        """Tell of something on a pod; `reason` is one word in CamelCase. Returns at once, and never raises.

        The same once more becomes a series of the first. Of one pod a few a minute are told; the rest are counted.
        """
        self._events.tell(pod, reason, note, warning=warning)

    async def daemon_set(self, namespace: str, name: str) -> Presence:
        """Tell whether a DaemonSet is there and to stay. Raises nothing.

        An account that has lost all rights is told apart, since an uninstall takes those too; so does an API server for
        a moment while it starts. A token that isn't taken says nothing, for it ends with the agent's pod, which
        somebody may have deleted by force.
        """
        try:
            path = f"/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}"
            found = await self._object(path, "daemonsets", namespace, name)
            metadata = {} if found is None else mapping("metadata", found.get("metadata"))
        except FieldError:
            return Presence.UNKNOWN
        except ApiError as error:
            return await self._without_rights() if error.status == 403 else Presence.UNKNOWN
        going = found is None or metadata.get("deletionTimestamp") is not None
        return Presence.GONE if going else Presence.THERE

    async def sidecars_elsewhere(self, most: int = 500) -> tuple[Pod, ...]:
        """Return pods of the whole cluster with the label of Istio's sidecars, so many at most. Raises `ApiError`.

        Those that can't be read are left out.
        """
        from agent.sources.kubernetes.calls import PAGE_DEADLINE, document, page

        data = await self.requests.get(
            "/api/v1/pods",
            resource="pods",
            verb="list",
            query={"labelSelector": SIDECAR_LABEL, "limit": str(most)},
            seconds=PAGE_DEADLINE,
        )
        found: list[Pod] = []
        for each in page(data, "the listing of pods with sidecars").items:
            try:
                found.append(pod_of(document(each)))
            except FieldError:
                continue
        return tuple(found)

    async def _without_rights(self) -> Presence:
        """Tell whether the account has lost everything; a single right that is missing says nothing."""
        try:
            await self.requests.get("/api/v1/namespaces", resource="namespaces", verb="list", query={"limit": "1"})
        except ApiError as error:
            return Presence.FORBIDDEN if error.status == 403 else Presence.UNKNOWN
        return Presence.UNKNOWN

    async def _object(self, path: str, resource: str, *names: str) -> Mapping[str, object] | None:
        from agent.sources.kubernetes.calls import document

        if not all(_NAME.fullmatch(each) for each in names):
            return None
        try:
            data = await self.requests.get(path, resource=resource)
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        try:
            return mapping(resource, document(data))
        except FieldError as error:
            raise ApiError(f"GET {path}: {error}", status=200) from None


async def opened(kubeconfig: Path | None, *, node: str) -> Api:
    """Return `Api.open` without keeping the loop waiting: its imports and the certificates take some 100 ms."""
    return await asyncio.to_thread(Api.open, kubeconfig, node=node)
