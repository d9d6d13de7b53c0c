"""The command that shows how everything stands: status."""

from typing import TYPE_CHECKING

import typer

from agent.cli import pods
from agent.cli.look import failed, inspected, looked_at, looked_at_pods
from agent.cli.options import File, Names, Netns, Output, OutputOption, add, need_root, targets

if TYPE_CHECKING:
    from agent.migration.journal import Progress
    from agent.report import Report


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    add(app, status)


def status(
    names: Names = None,
    netns: Netns = None,
    file: File = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show how targets stand: state and reason, streams outside, streams that a release waits for, rivals.

    What is shown is observed now in the kernel; a running daemon adds why it waits or fails. Without a file and a
    target, the targets of the running daemon are shown. OUTSIDE counts the streams that were open before the target
    was captured and stay outside, CAPTURED those that go through the proxy. Rivals are as in `weir verify`.

    On a node of Kubernetes the targets are its pods: the step that each has come to and for how long, who decided that
    it is to be captured, how long it ran outside. Without a target, also how the API is heard, which proxies are
    connected, whether the plugin is in place, and migrations that somebody began and nobody ended.
    """
    from agent.cli import show, show_pods
    from agent.local_api import Client

    need_root("status")
    client = Client()
    daemon = client.status() if client.is_there() else None
    everything = not (names or netns)
    half_done = _half_done() if everything else ()
    known = pods.of_daemon(daemon)
    if pods.meant(names) or (known is not None and everything and file is None):
        documents = pods.documents(names) if names else known or ()
        reports = looked_at(names, netns, file, None, weigh=True)[1] if names else looked_at_pods(documents)[1]
        shown = dict(zip((pods.called(each) for each in documents), documents, strict=True))
    else:
        reports = tuple(_explained(each, daemon) for each in inspected(targets(names, netns, file, None), weigh=True))
        shown = {}
    if output is Output.JSON:
        more = {"pods": list(shown.values())} if shown else {}
        show.as_json(reports, daemon=daemon, migrations=[_document(each) for each in half_done], **more)
    else:
        good = sum(each.captured for each in reports)
        what = "pods" if known is not None and not netns else "targets"
        print(f"{good} of {len(reports)} {what} captured; {_daemon_words(daemon)}")
        _print_pods(shown, reports) if shown else show.table(reports)
        for each in reports:
            if names and each.target in shown:
                show_pods.pod(shown[each.target], each)
            show.rivals(each)
            show.streams(each)
        if everything and daemon is not None:
            show_pods.node(daemon)
        for each in filter(failed, reports):
            show.line(each)
        for progress in half_done:
            print(f"migration of {progress.name} (netns {progress.netns}): half-done, at step {progress.step}")
        show.hint(_what_to_do(half_done, tuple(shown.values())))
    raise typer.Exit(2 if any(map(failed, reports)) else 0)


def _print_pods(shown: "dict[str, pods.Document]", reports: "tuple[Report, ...]") -> None:
    from agent.cli import show_pods

    show_pods.table(tuple((shown[each.target], each) for each in reports))


def _half_done() -> "tuple[Progress, ...]":
    """Return the migrations that somebody began and nobody ended."""
    from agent.migration.journal import Journal
    from agent.state import run_directory

    return Journal(run_directory()).unfinished()


def _document(progress: "Progress") -> dict[str, object]:
    return {name: value for name, value in progress.document().items() if name not in ("old", "cookie")}


def _what_to_do(half_done: "tuple[Progress, ...]", documents: "tuple[pods.Document, ...]") -> str:
    """Return what to do about what is half-done, or about the pod that waits longest."""
    if half_done:
        import shlex

        where = shlex.join(("--netns", half_done[0].netns))
        return f"`weir migrate {where}` goes on with a migration, `weir migrate {where} --back` takes it back"
    waiting = [each for each in documents if each.get("waiting") is True and pods.text(each, "hint")]
    longest = max(waiting, key=_seconds, default=None)
    return "" if longest is None else f"{pods.called(longest)}: {pods.text(longest, 'hint')}"


def _seconds(document: "pods.Document") -> float:
    seconds = document.get("seconds")
    return seconds if isinstance(seconds, int | float) else 0.0


def _explained(report: "Report", daemon: dict[str, object] | None) -> "Report":
    """Add what the daemon says of a target that isn't as it wants it."""
    from dataclasses import replace

    known = daemon.get("targets") if daemon else None
    for each in known if isinstance(known, list) else ():
        same = each["target"] == report.target and each["netns"] == report.netns
        if same and not report.captured and each["state"] in ("waiting", "failed"):
            return replace(report, state=type(report.state)(each["state"]), reason=each["reason"], hint=each["hint"])
    return report


def _daemon_words(daemon: dict[str, object] | None) -> str:
    if daemon is None:
        return "no daemon is running"
    error = daemon.get("file_error")
    return f"the daemon ({daemon.get('pid')}) keeps them" + (f"; its file is bad: {error}" if error else "")
