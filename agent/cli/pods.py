"""Pods of this node as targets: ``pod/NAMESPACE/NAME``, as the daemon here knows them."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from agent.errors import ConfigError, DaemonError

if TYPE_CHECKING:
    from agent.report import Report
    from agent.targets import Target

PREFIX = "pod/"


class UnknownPodError(ConfigError):
    """The daemon has no pod of that name."""


Document = Mapping[str, object]
"""How the daemon says that a pod stands: `agent.pods.standing.PodState.document`."""


def meant(names: Iterable[str] | None) -> bool:
    """Tell whether names mean pods."""
    return any(name.startswith(PREFIX) for name in names or ())


def refuse(names: Iterable[str] | None) -> None:
    """Refuse pods where a command changes something: on a node of Kubernetes, labels do. Raises `ConfigError`."""
    for name in names or ():
        if name.startswith(PREFIX):
            raise ConfigError(
                f"target {name!r}: whether a pod is captured is said by the cluster's labels, and done by the daemon",
                hint="`kubectl label pod -n NAMESPACE NAME istio.io/dataplane-mode=none` takes one out, =ambient in",
            )


def documents(names: Iterable[str]) -> tuple[Document, ...]:
    """Return what the daemon knows of pods. Raises `ConfigError` for one that it doesn't, `DaemonError`."""
    names = tuple(dict.fromkeys(names))
    for name in names:
        if name.count("/") != 2 or not name.startswith(PREFIX) or not all(name.split("/")):
            raise ConfigError(
                f"target {name!r}: beside a pod, a target is a pod: pod/NAMESPACE/NAME", hint="such as pod/shop/web-0"
            )
    known = of_daemon(_status())
    if known is None:
        raise ConfigError(
            f"target {names[0]!r}: the daemon here runs without --kubernetes, and knows no pods",
            hint="name targets of its file; `weir status` lists them",
        )
    return tuple(_named(name, known) for name in names)


def of_daemon(status: Mapping[str, object] | None) -> tuple[Document, ...] | None:
    """Return the pods of a daemon's status document; None where it isn't one of a node of Kubernetes."""
    found = None if status is None else status.get("pods")
    return tuple(each for each in found if isinstance(each, dict)) if isinstance(found, list) else None


def text(document: Document, name: str) -> str:
    """Return a text of a document; empty where it has none."""
    found = document.get(name)
    return found if isinstance(found, str) else ""


def called(document: Document) -> str:
    """Return the pod's name as a target."""
    return text(document, "pod")


def target(document: Document) -> "Target | None":
    """Return the target that a pod is; None while the daemon knows no namespace of it, or not how it is captured.

    Raises `DaemonError` where that can't be read: daemon and command are of different versions.
    """
    from agent.errors import TargetError
    from agent.targets import Absent, Captured, Target
    from rulesets.capture import Capture
    from rulesets.settings import CaptureError

    name, netns, settings = called(document), text(document, "netns"), document.get("settings")
    if not netns:
        return None
    if text(document, "step") in ("outside", "draining", "releasing"):
        return Target(name=name, netns=netns, wish=Absent())
    if not isinstance(settings, dict):
        return None
    try:
        return Target(name=name, netns=netns, wish=Captured(capture=Capture.parse(settings)))
    except (CaptureError, TargetError) as error:
        raise DaemonError(f"{name}: the daemon is of another version: {error}") from None


def report(document: Document) -> "Report":
    """Return the report of a pod that can't be looked at, by what the daemon says of it."""
    from agent.report import Report
    from agent.targets import State

    states = {"outside": State.REMOVED, "draining": State.DRAINING}
    return Report(
        target=called(document),
        netns=text(document, "netns") or "-",
        state=states.get(text(document, "step"), State.WAITING),
        reason=text(document, "reason"),
        hint=text(document, "hint"),
    )


def with_word(report: "Report", document: Document) -> "Report":
    """Return a look at a pod with the daemon's word: it isn't captured before proxy and node's table know it."""
    from dataclasses import replace

    from agent.targets import State

    step, captured = text(document, "step"), document.get("captured") is True
    if step == "outside" or report.state is State.FAILED:
        return report
    said = step if captured else f"{step}: {text(document, 'reason')}"
    checked = replace(report, checks=(*report.checks, ("daemon", captured, said)))
    if captured:
        return checked
    state = State.DRAINING if step == "draining" else State.WAITING
    return replace(checked, captured=False, state=state, reason=text(document, "reason"), hint=text(document, "hint"))


def _status() -> Mapping[str, object]:
    from agent.local_api import Client

    client = Client()
    if not client.is_there():
        raise ConfigError(
            "no daemon runs here that could know pods",
            hint="on another machine, `kubectl weir` asks the agent of the pod's node",
        )
    return client.status()


def _named(name: str, known: Iterable[Document]) -> Document:
    known = tuple(known)
    for each in known:
        if called(each) == name:
            return each
    import difflib

    nearest = difflib.get_close_matches(name, map(called, known), n=1)
    raise UnknownPodError(
        f"target {name!r}: no pod of this node is called so",
        hint=f"did you mean {nearest[0]!r}?" if nearest else "`kubectl weir` asks the agent of the pod's node",
    )
