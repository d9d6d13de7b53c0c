"""The end of an agent's life: an upgrade leaves everything as it is, an uninstall leaves nothing.

They are told apart by whether the DaemonSet is still there. Where nobody can say, everything stays: pods go on as they
are, and what is left can be swept; a node that lost its plugin by mistake would start pods outside of the mesh.

An uninstall takes the plugin and its entry first, so that no pod waits for an agent that has gone. Then every pod is
released, its streams draining for as long as there is time, and the node's table goes last: without it, the probes of a
pod that still has rules would fail.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol, TypeVar

from agent.cni.installer import Installer
from agent.errors import WeirError
from agent.pods import leavings
from agent.pods.standing import PodState
from agent.sources.kubernetes.api import Presence
from agent.state import run_directory

log = logging.getLogger("weir")
T = TypeVar("T")

GRACE = 25.0  # seconds for all of it: terminationGracePeriodSeconds is 30
_ASKING = 4.0  # seconds to wait for the API's word
_PAUSE = 0.5  # between two questions
_ENDING = 5.0  # seconds that are kept for what comes after the drain: streams ended by force, proxies told, annotations
_LAST = 1.0  # and for the node's table
_FILES = 5.0  # seconds for the plugin and its entry: a disk that hangs must not keep pods captured


class Api(Protocol):
    """What is asked of the API: `agent.sources.kubernetes.api.Api`."""

    async def daemon_set(self, namespace: str, name: str) -> Presence:
        """Tell whether a DaemonSet is there and not being deleted. Raises nothing."""


class Pods(Protocol):
    """The pods of the node: `agent.pods.node.Pods`."""

    @property
    def settled(self) -> asyncio.Event:
        """Set when the pods that were there at the start are known."""

    def release_all(self, drain: float) -> None:
        """Want every pod outside, with so many seconds for its captured streams."""

    async def until_released(self, seconds: float) -> tuple[PodState, ...]:
        """Wait until nothing is left of any pod, at most so long; return those of which something is."""


class Probes(Protocol):
    """The node's table: `agent.pods.probes.NodeProbes`."""

    async def remove(self) -> None:
        """Take it away. Raises `WeirError`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What there is to take leave of.

    `installer` is None where no plugin was installed. `stop_keeping` ends the tasks that would put the plugin's entry
    and the node's table back. `daemon_set` is empty where no DaemonSet has started this process: then everything stays.
    `grace`: seconds for all of it. `node` is the node's name.
    """

    api: Api
    pods: Pods
    probes: Probes
    installer: Installer | None
    stop_keeping: Callable[[], Awaitable[None]]
    namespace: str
    daemon_set: str
    grace: float = GRACE
    node: str = "NODE"
    run_directory: Path | None = None


class Going(StrEnum):
    """Why the agent stops."""

    RESTART = "restart"
    UNINSTALL = "uninstall"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Departed:
    """What came of it: `left` is what an uninstall could not finish, in words."""

    going: Going
    left: tuple[str, ...] = ()


async def depart(parts: Parts) -> Departed:
    """Leave everything, or nothing. To be called at SIGTERM, with everything still working. Raises nothing."""
    end = _now() + parts.grace
    going = await going_for(parts.api, parts.namespace, parts.daemon_set)
    if going is not Going.UNINSTALL:
        if going is Going.UNKNOWN:
            log.warning(
                "the API doesn't say whether DaemonSet %s/%s is still there: everything stays as it is; if Weir was"
                " uninstalled: %s",
                parts.namespace,
                parts.daemon_set,
                _sweeping(parts),
            )
        return Departed(going=going)
    log.info("DaemonSet %s/%s is gone: uninstalling within %.0f s", parts.namespace, parts.daemon_set, parts.grace)
    left = await _uninstalled(parts, end)
    for each in left:
        log.warning("left behind: %s", each)
    if left:
        log.warning("to take away what is left: %s", _sweeping(parts))
    else:
        leavings.clear(parts.run_directory)
        log.info("nothing of Weir is left on this node")
    return Departed(going=going, left=left)


async def going_for(api: Api, namespace: str, daemon_set: str, seconds: float = _ASKING) -> Going:
    """Tell why the agent stops: a DaemonSet that is gone is asked for twice, and after silence for some seconds.

    An account without any right stands for one that is gone only where nothing else is heard in all that time: rights
    are missing for a moment, too, while an API server starts or somebody writes them anew.
    """
    if not daemon_set:
        return Going.RESTART
    end = _now() + seconds
    heard: set[Presence] = set()
    forbidden: list[float] = []  # when
    while (left := end - _now()) > 0:
        with suppress(TimeoutError):
            async with asyncio.timeout(left):
                answer = await api.daemon_set(namespace, daemon_set)
            if answer is Presence.THERE:
                return Going.RESTART
            if answer is Presence.GONE and answer in heard:
                return Going.UNINSTALL
            heard.add(answer)
            forbidden += [_now()] if answer is Presence.FORBIDDEN else []
        await asyncio.sleep(min(_PAUSE, max(0.0, end - _now())))
    # To the end, and not once before an API that has been silent since.
    lasting = bool(forbidden) and end - forbidden[-1] < seconds / 2 < forbidden[-1] - forbidden[0]
    return Going.UNINSTALL if lasting and Presence.UNKNOWN not in heard else Going.UNKNOWN


async def _uninstalled(parts: Parts, end: float) -> tuple[str, ...]:
    """Take everything away; return what is left."""
    left: list[str] = []
    await _tried("the tasks that keep it in place", parts.stop_keeping(), left, end)
    if parts.installer is not None:
        left += await _off_the_node(parts, parts.installer, min(end, _now() + _FILES))
    pods = await _tried("pods", _released(parts.pods, end), left, end)
    if not parts.pods.settled.is_set():
        left.append("pods that an earlier life of the agent captured: the API never listed this node's pods")
    left += [f"{each} (netns {each.netns or 'unknown'}): {each.step}: {each.reason}" for each in pods or ()]
    if pods or pods is None or not parts.pods.settled.is_set():
        left.append("the node's table for probes: it stays for those pods' sake")
    else:
        await _tried("the node's table for probes", parts.probes.remove(), left, end)
    return tuple(left)


async def _released(pods: Pods, end: float) -> tuple[PodState, ...]:
    """Release every pod; return those that were not released in time."""
    with suppress(TimeoutError):  # an agent that has just started may not know yet what an earlier one captured
        async with asyncio.timeout((end - _now()) / 3):
            await pods.settled.wait()
    pods.release_all(max(0.0, end - _now() - _ENDING - _LAST))
    return await pods.until_released(max(0.0, end - _now() - _LAST))


async def _off_the_node(parts: Parts, installer: Installer, end: float) -> list[str]:
    """Take the plugin off the node, and then the note of where it is (`Installing` writes that)."""
    taking = asyncio.to_thread(leavings.removed, [installer], parts.run_directory)
    left: list[str] = []
    found = await _tried(f"the plugin in {installer.wanted.conf_directory}", taking, left, end)
    return [*left, *(found or ())]


def _sweeping(parts: Parts) -> str:
    """Return the line that sweeps a node, where Weir isn't installed: from its image, with the node's root in /host."""
    folder = parts.run_directory or run_directory()
    debug = f"kubectl debug node/{parts.node} -it --profile=sysadmin --image=IMAGE-OF-WEIR"
    return f"`{debug} -- env WEIR_RUN_DIR={leavings.NODE}{folder} weir remove --all`"


async def _tried(what: str, doing: Awaitable[T], left: list[str], end: float) -> T | None:
    """Return what comes of something, or note why nothing does."""
    try:
        async with asyncio.timeout(max(0.1, end - _now())):
            return await doing
    except TimeoutError:
        left.append(f"{what}: was not done in time")
    except WeirError as error:
        left.append(f"{what}: {error}")
    except Exception as error:  # whatever fails here, the rest is tried
        log.exception("%s", what)
        left.append(f"{what}: {error!r}")
    return None


def _now() -> float:
    return asyncio.get_running_loop().time()
