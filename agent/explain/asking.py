"""Who wants a target captured, and what a running daemon knows of it: what the kernel doesn't tell."""

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from agent.drift import Culprit, Drift, Kind
from agent.errors import WeirError
from agent.explain.facts import Word
from agent.local_api import Client
from agent.sources.kubernetes.facts import DATAPLANE_MODE
from agent.targets import Absent, Captured, Target
from rulesets.capture import Capture

Document = Mapping[str, object]

_STAYS = ("undecided", "unreadable")  # steps at which a pod stays as it was (docs/kubernetes.md)


def status_of_daemon() -> Document | None:
    """Return the status document of the daemon here; None where none runs, or it gives no answer."""
    client = Client()
    try:
        return client.status() if client.is_there() else None
    except WeirError:
        return None


def of_target(
    target: Target, status: Document | None, *, netns: bool, file: Path | None, settings: list[str] | None, again: str
) -> Word:
    """Return the word on a target of a file or of the command line. `again` are the arguments that mean it."""
    known = _report(status, target)
    where = file or (status or {}).get("file")
    by = f"--netns {target.netns} asks for it, with the file's defaults or Weir's own" if netns else ""
    by = by or f"{where or 'the target file'} wants it captured"
    changed = ", with --set of this command" if settings else ""
    if taken_out(known):
        changed = ", and `weir remove` has taken it out until `weir apply`"
    return Word(
        name=target.name,
        wanted=f"{by}{changed}",
        settings=_settings(target),
        daemon=known is not None,
        error=_error(known),
        mend=f"`weir apply {again}` has it captured again" if taken_out(known) else _text(known, "hint"),
        drifts=drifts(known),
        again=again,
    )


def wished(target: Target, status: Document | None) -> Target:
    """Return the target with the wish that the daemon has for it: none where a command took it out."""
    return replace(target, wish=Absent()) if taken_out(_report(status, target)) else target


def taken_out(report: Document | None) -> bool:
    """Tell whether the daemon wants nothing in a target although its file does."""
    return report is not None and report.get("state") in ("removed", "draining")


def of_pod(document: Document, status: Document | None) -> Word:
    """Return the word on a pod: label, annotation and selector that decided, and how far it has come."""
    kept = next((each for each in _reports(status) if each.get("netns") == (document.get("netns") or None)), None)
    known = document.get("target")
    report = known if isinstance(known, dict) else None
    settings, notes = document.get("settings"), document.get("notes")
    step, waiting = _text(document, "step"), document.get("captured") is not True
    told = [f"annotation: {each}" for each in (notes if isinstance(notes, list) else [])]
    redirection = _text(document, "redirection")
    told += [f"the API says ambient.istio.io/redirection={redirection}"] if redirection else []
    told += [f"step: {step}"] if step else []
    return Word(
        name=_text(document, "pod"),
        wanted=f"{_text(document, 'enrolment')}: {_text(document, 'decision') or _text(document, 'reason')}",
        notes=tuple(told),
        settings=settings if isinstance(settings, dict) else None,
        daemon=True,
        error=_error(report),
        mend=_text(document, "hint") or _labelled(document),
        # The node's own table has its drifts as well, and answers of the pod's probes stand on it.
        drifts=tuple(sorted((*(drifts(kept) or drifts(report)), *drifts(_probes(status))), key=lambda each: each.at)),
        waits=f"{step}: {_text(document, 'reason')}" if waiting else "",
        stays=step in _STAYS,
    )


def _probes(status: Document | None) -> Document | None:
    """Return what the daemon says of the node's table of probes."""
    node = (status or {}).get("kubernetes")
    probes = node.get("probes") if isinstance(node, dict) else None
    return probes if isinstance(probes, dict) else None


def _labelled(document: Document) -> str:
    """Return the command that has a pod captured that no label asks for; empty where labels don't decide."""
    if _text(document, "enrolment") != "outside" or DATAPLANE_MODE not in _text(document, "decision"):
        return ""
    name = shlex.join(("-n", _text(document, "namespace"), _text(document, "name")))
    return f"`kubectl label --overwrite pod {name} {DATAPLANE_MODE}=ambient` has it captured"


def drifts(document: Document | None) -> tuple[Drift, ...]:
    """Return the drifts of a document; one of a kind that this version doesn't know is left out."""
    listed = document.get("drifts") if document is not None else None
    found = (_drift(each) for each in listed if isinstance(each, dict)) if isinstance(listed, list) else ()
    return tuple(each for each in found if each is not None)


def _drift(document: Document) -> Drift | None:
    culprit, at = document.get("culprit"), document.get("at")
    try:
        return Drift(
            kind=Kind(_text(document, "kind")),
            said=_text(document, "said"),
            culprit=Culprit(pid=int(culprit["pid"]), name=str(culprit["name"])) if isinstance(culprit, dict) else None,
            at=float(at) if isinstance(at, int | float) else 0.0,
        )
    except (ValueError, KeyError, TypeError):
        return None


def _report(status: Document | None, target: Target) -> Document | None:
    return next((each for each in _reports(status) if each.get("netns") == target.netns), None)


def _reports(status: Document | None) -> tuple[Document, ...]:
    listed = status.get("targets") if status is not None else None
    return tuple(each for each in listed if isinstance(each, dict)) if isinstance(listed, list) else ()


def _error(report: Document | None) -> str:
    if report is None or report.get("captured") is True or report.get("state") not in ("failed", "waiting"):
        return ""
    return f"{_text(report, 'state')}: {_text(report, 'reason')}"


def _settings(target: Target) -> Mapping[str, object] | None:
    """Return the settings that aren't Weir's own, as a file has them."""
    if not isinstance(target.wish, Captured):
        return None
    ours, written = Capture().written(), target.wish.capture.written()
    return {name: value for name, value in written.items() if ours.get(name) != value}


def _text(document: Document | None, name: str) -> str:
    found = None if document is None else document.get(name)
    return found if isinstance(found, str) else ""
