"""The commands that look once and change nothing: render, diff, verify."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli import manifests, pods
from agent.cli.options import (
    File,
    Names,
    Netns,
    Output,
    OutputOption,
    Settings,
    add,
    daemons_file,
    need_root,
    only,
    pasted,
    settings_given,
    targets,
    with_settings,
)
from agent.errors import ConfigError, WeirError

if TYPE_CHECKING:
    from agent.kernel.handle import Handle
    from agent.report import Report
    from agent.targets import Target


class Format(StrEnum):
    """The two languages of nft."""

    NFT = "nft"
    JSON = "json"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    add(app, render, diff, verify)


def render(
    names: Names = None,
    netns: Netns = None,
    file: manifests.Files = None,
    settings: Settings = None,
    format: Annotated[  # noqa: A002 (the option's name)
        Format, typer.Option("--format", help="nft's text, or the JSON that `nft -j -f` loads.")
    ] = Format.NFT,
    namespace: manifests.Namespace = None,
    selectors: manifests.Selectors = None,
    exclude_namespace: manifests.Excluded = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Print the rules that a target is to have.

    Needs no root and looks at no namespace. Without a file, --set alone describes a capture. With Kubernetes manifests
    instead of a file, it says of each workload whether its pods would be captured and why, and prints their rules;
    --set then describes the cluster's defaults.

    The settings are those of the file: outbound_port, inbound_port, hbone_port, dns_port, dns, inbound, outbound,
    ingress, proxy_mark, proxy_user, proxy_cgroup, connection_mark, probe_sources, virtual_interfaces,
    exclude_interfaces, {include,exclude}_{outbound,inbound}_{ports,networks}, families, established, kept_deadline,
    when_proxy_absent, uncapturable, route_table, rule_priority, sample.
    """
    from agent.targets import Captured
    from rulesets import nft, pod

    asked = manifests.asked("render", file, names, netns, settings, namespace, selectors, exclude_namespace)
    if asked is not None:
        raise typer.Exit(manifests.render(asked, file or [], output, as_json=format is Format.JSON))
    alone = settings and not (names or netns or file)
    one = file[0] if file else None
    chosen = targets(None, ["settings"], None, settings) if alone else targets(names, netns, one, settings)
    wanted = [
        (each, pod.build(each.wish.capture, table=each.table)) for each in chosen if isinstance(each.wish, Captured)
    ]
    if output is Output.JSON:
        document = [
            {"target": target.name, "netns": target.netns, "rules": json.loads(nft.render_json(rules))}
            for target, rules in wanted
        ]
        print(json.dumps({"targets": document}, indent=2))
    elif format is Format.JSON:
        only("render --format json", chosen)
        print(nft.render_json(wanted[0][1]), end="")
    else:
        for target, rules in wanted:
            heading = f"# target {target.name}, netns {target.netns!r}\n" if len(wanted) > 1 else ""
            print(f"{heading}{nft.render(rules)}", end="")


def diff(
    names: Names = None,
    netns: Netns = None,
    file: manifests.Files = None,
    settings: Settings = None,
    namespace: manifests.Namespace = None,
    selectors: manifests.Selectors = None,
    exclude_namespace: manifests.Excluded = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show what apply would change. Writes nothing.

    With Kubernetes manifests, -f OLD -f NEW, show what would change for workloads: which would be captured that were
    not, or no longer, and whose pods would have other rules. That needs no root and no cluster.
    """
    asked = manifests.asked("diff", file, names, netns, settings, namespace, selectors, exclude_namespace)
    if asked is not None:
        raise typer.Exit(manifests.diff(asked, file or [], output))
    need_root("diff")
    raise typer.Exit(differences(names, netns, file[0] if file else None, settings, output))


def differences(
    names: list[str] | None, netns: list[str] | None, file: Path | None, settings: list[str] | None, output: Output
) -> int:
    """Show what apply would change; return the exit code: 0 nothing, 1 something, 2 error."""
    from agent.cli import show

    chosen, reports = looked_at(names, netns, file, settings)
    differing = [each for each in reports if each.changes]
    if output is Output.JSON:
        show.as_json(reports)
    else:
        for each in reports:
            if each.changes:
                show.line(each, "differs", _to_change(each))
                show.changes(each)
            elif failed(each):
                show.line(each)
            else:
                show.line(each, "same", _unchanged(each))
        again = pasted(_meant(differing, netns), netns=bool(netns), file=file, settings=settings)
        refused = _why_not(chosen, differing) if settings else ""
        show.hint(refused or (_what_apply_does(differing, again) if differing else ""))
    return 2 if any(map(failed, reports)) else int(bool(differing))


def verify(
    names: Names = None,
    netns: Netns = None,
    file: File = None,
    settings: Settings = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Make real connections too, out and in, which prove that they are captured.")
    ] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Check that targets are captured: their rules, their routes, the proxy's ports, their address families.

    Rivals are rules of others that are met before Weir's and take traffic that is to be captured, each with a packet
    that it takes: then the target isn't wholly captured. Where nobody can tell whether one does, that is shown and
    changes nothing. Whatever stands before Weir's chains is read, iptables' rules of both flavours among it; where
    there is nothing of iptables, none of its programs is started.

    With --probe a connection is made from inside each target to an address that is nobody's (192.0.2.1, 2001:db8::1),
    and a SYN is sent in by the other end of its link, in each family: what was seen of them proves capture, or that
    there is none. Neither bears a byte, each waits for a second at most, and both are reset at once.
    """
    from agent.cli import probing, show

    need_root("verify")
    chosen, reports = looked_at(names, netns, file, settings, weigh=True)
    proofs = probing.proofs(chosen) if probe else {}
    missing = [each for each in reports if not each.captured]
    if output is Output.JSON:
        show.as_json(reports, **({"probes": probing.documents(proofs)} if probe else {}))
    else:
        for each in reports:
            holding = sum(holds for _, holds, _ in each.checks)
            word, of = "captured" if each.captured else "", len(each.checks)
            show.line(each, word, f"{holding} of {of} checks hold" if of else "")
            show.checks(each)
            probing.show(proofs.get(each.target, ()))
            show.rivals(each)
        without_proxy = [each for each in missing if any(name == "proxy" and not ok for name, ok, _ in each.checks)]
        if without_proxy:
            some = ", ".join(map(show.name, without_proxy[:3])) + (", ..." if len(without_proxy) > 3 else "")
            show.hint(f"start the proxy in {some}, or narrow `families` to those on which it listens")
        differing = [each for each in missing if each.changes]
        if differing:
            again = pasted(_meant(differing, netns), netns=bool(netns), file=file, settings=settings)
            show.hint(f"`weir diff {again}` shows what is missing")
        if any(rival.certain for each in missing for rival in each.rivals):
            show.hint(
                "take those rules away or put them behind Weir's (after -100), or leave what they take uncaptured"
            )
        if not missing and probing.refuted(proofs):
            show.hint("the rules are as wanted, and a connection was not captured: `weir explain` says what it meets")
        elif not missing and probing.silent(proofs):
            show.hint(f"the rules are as wanted, and no connection proved it: {', '.join(probing.silent(proofs))}")
    unproved = probing.refuted(proofs) or bool(probing.silent(proofs))
    raise typer.Exit(2 if any(map(failed, reports)) else bool(missing) or unproved)


def looked_at(
    names: list[str] | None,
    netns: list[str] | None,
    file: Path | None,
    settings: list[str] | None,
    *,
    weigh: bool = False,
) -> "tuple[tuple[Target, ...], tuple[Report, ...]]":
    """Return the targets that a command line means, and a report of each; a pod without a namespace is no target."""
    if not pods.meant(names):
        chosen = targets(names, netns, file, settings)
        return chosen, inspected(chosen, weigh=weigh)
    if netns or file is not None:
        raise ConfigError("a pod is captured as the daemon says: leave out --netns and --file")
    return looked_at_pods(pods.documents(names or ()), settings, weigh=weigh)


def looked_at_pods(
    documents: "tuple[pods.Document, ...]", settings: list[str] | None = None, *, weigh: bool = False
) -> "tuple[tuple[Target, ...], tuple[Report, ...]]":
    """Return the targets that pods are, and a report of each pod: a look with the daemon's word, or that alone."""
    found = [pods.target(each) for each in documents]
    chosen = with_settings(tuple(each for each in found if each is not None), settings_given(settings))
    seen = iter(inspected(chosen, weigh=weigh))
    return chosen, tuple(
        pods.report(document) if target is None else pods.with_word(next(seen), document)
        for document, target in zip(documents, found, strict=True)
    )


def inspected(chosen: "tuple[Target, ...]", *, weigh: bool = False) -> "tuple[Report, ...]":
    """Look at targets, and return a report of each; one that can't be looked at has failed. `weigh`: at rivals too."""
    from functools import partial

    from agent import report
    from agent.cli.kernel import with_handles
    from agent.kernel import portid
    from agent.local_api import Client

    keepers = portid.sockets_of(Client().process()) if weigh else None
    return tuple(
        report.of_error(target, found) if isinstance(found, WeirError) else found
        for target, found in with_handles(chosen, partial(look, weigh=weigh, keepers=keepers))
    )


def look(target: "Target", handle: "Handle", *, weigh: bool = False, keepers: frozenset[int] | None = None) -> "Report":
    """Look at a target once, in a worker; `weigh` and `keepers` are those of `inspect`. Raises `WeirError`."""
    from agent import report
    from agent.inspection import inspect
    from agent.state import Records

    return report.of_inspection(inspect(target, handle, Records(), weigh=weigh, keepers=keepers))


def failed(report: "Report") -> bool:
    """Tell whether a target could not be looked at, or not be changed."""
    return report.state == "failed"


def _unchanged(report: "Report") -> str:
    but = "" if report.captured else f", but it is {report.state}: {report.reason}"
    return f"nothing would change{but}"


def _to_change(report: "Report") -> str:
    added = sum(each.startswith("  +") for each in report.changes)
    removed = sum(each.startswith("  -") for each in report.changes)
    return f"{added} to add, {removed} to remove"


def _meant(reports: "list[Report]", netns: list[str] | None) -> list[str]:
    return [each.netns if netns else each.target for each in reports]


def _what_apply_does(reports: "list[Report]", arguments: str) -> str:
    if any(each.state == "waiting" and ("proxy", False, each.reason) in each.checks for each in reports):
        says = f"`weir verify {arguments}` says where it doesn't"
        return f"`weir apply {arguments}` makes it so once the proxy answers; {says}"
    return f"`weir apply {arguments}` makes it so"


def _why_not(chosen: "tuple[Target, ...]", differing: "list[Report]") -> str:
    """Return why apply can't write settings of the command line: a daemon holds a target, with those of its file."""
    from agent.cli.held import held

    places = {each.netns for each in differing}
    name = next(iter(held(tuple(each for each in chosen if each.netns in places)).values()), "")
    if not name:
        return ""
    return f"the daemon holds {name}, and takes its settings from its file: change {daemons_file() or 'that'}"
