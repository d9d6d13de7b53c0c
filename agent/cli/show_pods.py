"""Pods and their node as text for people."""

from collections.abc import Mapping

from agent.cli import show
from agent.cli.failing import clean
from agent.cli.pods import Document, called, text
from agent.report import Report

_STEPS = {"captured": "green", "outside": "", "unreadable": "red", "unfit": "red"}
_MOST_PROBLEMS = 3


def table(found: tuple[tuple[Document, Report], ...]) -> None:
    """Print pods as a table; the reason comes last, since it may be long."""
    headings = ("POD", "STEP", "FOR", "UNCAPTURED", "OUTSIDE", "CAPTURED", "REASON")
    show.aligned(headings, [(_row(*each), _STEPS.get(_step(*each), "yellow")) for each in found], right=(2, 3, 4, 5))


def pod(document: Document, report: Report) -> None:
    """Print all that is known of a pod: who decided, how far it is and since when, its proxy, its table."""
    seconds, late = document.get("seconds"), document.get("uncaptured_seconds")
    if late is None:
        outside = "never"
    else:
        outside = f"{duration(late)}{', and still is' if document.get('waiting') is True else ''}"
    lines = {
        "wanted": f"{text(document, 'enrolment')}: {text(document, 'decision')}".rstrip(": "),
        "step": f"{text(document, 'step')} for {duration(seconds)}: {text(document, 'reason')}",
        "to do": text(document, "hint"),
        "uncaptured": outside,
        "namespace": " ".join(filter(None, (text(document, "netns"), _bracketed(text(document, "identity"))))),
        "table": f"{report.state}: {report.reason}" if report.reason else "",
        "API": f"ambient.istio.io/redirection={text(document, 'redirection')}" if document.get("redirection") else "",
        "uid": text(document, "uid"),
    }
    print(clean(called(document)))
    for name, said in lines.items():
        if said:
            print(f"  {name:<10} {_flat(said)}")
    for said in _texts(document.get("notes")):
        print(f"  {'note':<10} {_flat(said)}")
    for check, holds, said in report.checks:
        print(f"  {check:<10} {'ok' if holds else 'not'}: {_flat(said)}")


def node(status: Mapping[str, object]) -> None:
    """Print how the parts of a node of Kubernetes stand; nothing for another daemon."""
    found = status.get("kubernetes")
    if not isinstance(found, dict):
        return
    for name, said in (
        ("node", text(found, "node")),
        ("API", _api(found.get("api"))),
        ("proxies", _mesh(found.get("mesh"))),
        ("plugin", _plugin(found.get("plugin"))),
        ("probes", _probes(found.get("probes"))),
    ):
        if said:
            print(f"{name}: {_flat(said)}")


def duration(seconds: object) -> str:
    """Return a time in words: 0.4s, 12s, 5m, 3h, 8d."""
    if not isinstance(seconds, int | float):
        return "-"
    for most, unit, name in ((1, 1, "s"), (120, 1, "s"), (7200, 60, "m"), (172800, 3600, "h")):
        if seconds < most:
            return f"{seconds:.1f}{name}" if most == 1 else f"{seconds // unit:.0f}{name}"
    return f"{seconds // 86400:.0f}d"


def _step(document: Document, report: Report) -> str:
    """Return the step, but for a pod that the kernel shows otherwise."""
    said = text(document, "step")
    return str(report.state) if said == "captured" and not report.captured else said


def _row(document: Document, report: Report) -> tuple[str, ...]:
    step = _step(document, report)
    reason = report.reason if step != text(document, "step") else text(document, "reason")
    return (
        _flat(called(document)),
        step,
        duration(document.get("seconds")),
        duration(document.get("uncaptured_seconds")),
        str(report.kept_count),
        str(report.captured_count),
        _flat(reason),
    )


def _api(found: object) -> str:
    if not isinstance(found, dict):
        return ""
    heard = "connected" if found.get("connected") is True else f"not connected: {text(found, 'error')}"
    listed = "" if found.get("complete") is True else ", not yet listed whole"
    return f"{heard}{listed}; {found.get('pods')} pods, {found.get('unreadable')} unreadable"


def _mesh(found: object) -> str:
    if not isinstance(found, dict):
        return ""
    proxies = found.get("proxies")
    number = len(proxies) if isinstance(proxies, list) else 0
    said = f"{number} connected at {text(found, 'path')}; {found.get('acknowledged')} of {found.get('wanted')} pods"
    said += " acknowledged by the newest"
    if wrong := text(found, "socket"):
        said += f"; {wrong}"
    problems = found.get("problems")
    texts = [text(each, "text") for each in problems if isinstance(each, dict)] if isinstance(problems, list) else []
    return "; ".join((said, *texts[-_MOST_PROBLEMS:])) if not number else said


def _plugin(found: object) -> str:
    if not isinstance(found, dict):
        return "not installed by this agent"
    hint = text(found, "hint")
    return f"{'' if found.get('ready') is True else 'not ready: '}{text(found, 'reason')}" + (
        f" ({hint})" if hint else ""
    )


def _probes(found: object) -> str:
    if not isinstance(found, dict):
        return ""
    wrong = found.get("error")
    return f"{found.get('elements')} elements in the node's table" + (f"; {wrong}" if wrong else "")


def _texts(found: object) -> list[str]:
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []


def _bracketed(said: str) -> str:
    return f"({said})" if said else ""


def _flat(said: str) -> str:
    return clean(said).replace("\n", "; ")
