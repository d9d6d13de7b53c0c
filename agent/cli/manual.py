"""What `--help` says beside the options: examples, exit codes, targets and the JSON document."""

from typing import Any

from typer.core import TyperCommand, TyperGroup

from agent.cli.page import ERROR, GENERAL_CODES, MANIFESTS, ONE_TARGET, POD, REPORT, REPORTS, TARGETS, Page
from agent.cli.pages_of_seeing import SEEING
from agent.cli.trace_page import TRACING

PAGES = {
    "render": Page(
        short="Print the rules a target is to have",
        targets={**TARGETS, "-f MANIFESTS": MANIFESTS},
        examples={
            "weir render web": "the rules of the target web, as nft's text",
            "weir render --set dns=false": "the rules of a capture, without a file or a namespace",
            "weir render --set 'exclude_outbound_networks=[\"10.0.0.0/8\"]' --format json": "as `nft -j -f` loads it",
            "weir render -f manifests/": "which workloads would be captured and why, and the rules of their pods",
            "weir render -f - -n shop": "behind `helm template ... |` or `kustomize build ... |`",
        },
        codes={"0": "printed", "2": f"{ERROR}; of manifests, all that can't be read"},
        document='{"targets": [{"target": NAME, "netns": WHERE, "rules": {"nftables": [...]}}, ...]}\n'
        'Of manifests: {"manifests": 1, "workloads": [{"workload", "file", "document", "line", "state": "captured",'
        ' "outside", "unknown" (nobody says what labels the namespace has) or "unreadable", "reason", "notes",'
        ' "rules": a number or null}, ...], "rules": [{"nftables": [...]}, ...], "others": {KIND: NUMBER}, "errors":'
        ' [{"file", "document", "line", "workload", "error"}, ...]}',
    ),
    "diff": Page(
        short="Show what apply would change; change nothing",
        targets={**TARGETS, **POD, "-f OLD -f NEW": f"{MANIFESTS}; or what `weir render` printed of them as JSON"},
        examples={
            "weir diff": "every target of /etc/weir/weir.toml",
            "weir diff --netns web --set dns=false": "one namespace, with the file's defaults and one setting",
            "weir diff --file new.toml web db": "two targets of another file",
            "weir diff -f main/manifests -f manifests": "a gate for CI: does this change what is captured?",
            "weir diff -f captured.json -f manifests": "the same against a saved `weir render -f ... -o json`",
        },
        codes={"0": "nothing would change", "1": "something would", "2": f"{ERROR}; manifests of NEW can't be read"},
        document='Of manifests: {"differences": [{"workload", "old" and "new": {"state", "reason"} or null, "changes"},'
        ' ...], "compared", "old_errors", "errors"}.\n'
        f"{REPORTS}; what would change is in changes.\n{REPORT}",
    ),
    "verify": Page(
        short="Check that targets are captured",
        targets={**TARGETS, **POD},
        examples={
            "weir verify": "every target of the file: rules, routes, the proxy's ports, families, rivals",
            "weir verify --netns pid:4711": "the namespace of a process",
            "weir verify web --probe": "and real connections, out and in, that prove it",
        },
        codes={
            "0": "all are captured",
            "1": "one is not, or not wholly; with --probe also where no connection proved it",
            "2": ERROR,
        },
        document=f'{REPORTS}; what was checked is in checks.\nWith --probe also "probes": [{{"target", "direction",'
        f' "family", "captured": true, false or null (not proved), "said", "seen"}}, ...].\n{REPORT}',
    ),
    "status": Page(
        short="Show how targets stand, and their streams",
        targets={**TARGETS, **POD},
        examples={
            "weir status": "a table of the running daemon's targets, or of the file's",
            "weir status --netns web --output json": "one namespace, with every stream and counter",
            "weir status pod/shop/web-0": "a pod: who decided, how far it is, what it waits for, its table",
        },
        codes={"0": "all could be looked at, captured or not", "2": ERROR},
        document='{"targets": [REPORT, ...], "daemon": its own status, or null where none runs, "migrations": [{"name",'
        ' "netns", "direction", "step", "done"}, ...], "pods": [POD, ...] where targets are pods}.\n'
        "POD: pod, uid, namespace, name, enrolment, decision, step, captured, reason, hint, seconds (in this step),"
        " uncaptured_seconds, waiting, netns, identity, notes, redirection, settings, target\n" + REPORT,
    ),
    **SEEING,
    **TRACING,
    "doctor": Page(
        short="Examine this node: what is in the way, and what to do",
        targets={
            **TARGETS,
            "TARGET": "a name from the file; without one the node, and all of the file where it is",
            **POD,
        },
        terms={
            "Findings": {
                "error": "Something doesn't work, or won't.",
                "warning": "Something may not work, or ends badly one day.",
                "unchecked": "Nobody knows: it needs root, or couldn't be read.",
                "note": "Good to know. On a node that is no target itself, collisions are that.",
            }
        },
        examples={
            "weir doctor": "this node, and the targets of the file or the daemon",
            "weir doctor web --output json": "the node and one target, for a program",
            "weir doctor pod/shop/web-0": "the node and a pod of Kubernetes on it, in the agent's container",
            "weir doctor --netns host": "the node as a target: its own traffic is to be captured",
        },
        codes={"0": "all is well, but for notes", "1": "warnings, or something couldn't be checked", "2": "errors"},
        document='{"findings": [{"check", "where", "level", "what", "why", "do", "command"}, ...], "errors",'
        ' "warnings", "unchecked", "notes", "examined": ["node", TARGET, ...], "checks"}',
    ),
    "compare": Page(
        short="Prove two sets of rules equal, or show a packet",
        targets=ONE_TARGET,
        terms={
            "Wanted differences": {
                "forwarded-traffic": "Traffic that the namespace only forwards is left alone; the others capture it.",
                "address-kept": "Inbound keeps the address that was asked for; a redirect goes to the interface's"
                " first, or drops.",
                "zone-direction": "The proxy's DNS is tracked in a zone in the original direction only, not in both.",
                "mark-bits-kept": "A reply's packet mark keeps the bits outside the mask; a restore takes all from the"
                " connection.",
                "ingress-mark": "A packet that gets the proxy's mark on its way in doesn't mark its connection.",
                "redirected-mark": "A packet that first bears the proxy's mark on a redirected connection doesn't mark"
                " it.",
                "family-refused": "A family that isn't captured is refused rather than let past the proxy.",
            }
        },
        examples={
            "weir compare web --with legacy": "the rules web is to have, and those of iptables-legacy in it",
            "weir compare web --with legacy --with nft": "all rules in force there, of iptables and nft",
            "weir compare web --with v4.save --with v6.save": "saves of both families",
            "weir compare --against old.save --with new.save": "two files, without a target",
        },
        codes={
            "0": "equal for all packets, but for differences that were expected",
            "1": "not equal: some packet fares differently",
            "2": "unknown: a rule can't be read that may matter; or an " + ERROR,
        },
        document='{"answer": "equal", "not equal" or "unknown", "families", "here", "there", "cells", "differences":'
        ' [DIFFERENCE, ...], "expected": [DIFFERENCE, ...], "unknown", "reasons"}.\n'
        "DIFFERENCE: packet, what, wanted, sentence, here, there (table, chain, number, slug, rule)",
    ),
    "wait": Page(
        short="Wait until a target is captured, or free of Weir",
        targets={**ONE_TARGET, **POD},
        examples={
            "weir wait web": "return as soon as web is captured, after 30 s at most",
            "weir wait pod/shop/web-0 --timeout 60": "a pod of this node; one that isn't there yet is waited for",
            "weir wait web --for absent --timeout 5": "return as soon as nothing of Weir is in it",
        },
        codes={"0": "it is so", "1": "it was not so in time", "2": ERROR},
        document=f'{{"targets": [REPORT], "reached": true or false}}.\n{REPORT}',
    ),
    "apply": Page(
        short="Capture targets: write what differs",
        targets=TARGETS,
        examples={
            "weir apply": "every target of /etc/weir/weir.toml",
            "weir apply --dry-run web": "show what would change, as `weir diff` does",
            "weir apply --netns web --set established=reset": "one namespace; connections that are open end",
            "weir apply --netns host --confirm 60": "undone after a minute unless confirmed: for remote hosts",
        },
        codes={
            "0": "all is as wanted (with --confirm: kept)",
            "1": "a target waits, for its proxy say (with --confirm: undone; with --dry-run: something differs)",
            "2": ERROR,
        },
        document=f'{REPORTS}; with --confirm also "kept": true or false.\n{REPORT}',
    ),
    "remove": Page(
        short="Release targets: leave nothing behind",
        targets={**TARGETS, "TARGET": "a name from the file"},
        examples={
            "weir remove web": "now; captured streams end with an error",
            "weir remove web --drain 300": "captured streams may go on for five minutes",
            "weir remove --all": "every namespace on this machine, known or not, and the host's own",
        },
        codes={
            "0": "nothing is left",
            "1": "something is: a target was applied again meanwhile, or has to wait for another one",
            "2": ERROR,
            "130": "interrupted (Ctrl-C): a drain goes on, and the next weir command or the daemon finishes it",
        },
        document=f"{REPORTS}\n{REPORT}",
    ),
    "confirm": Page(
        short="Keep what `apply --confirm` wrote",
        targets=ONE_TARGET,
        examples={"weir confirm --netns host": "from any login, before the time is over"},
        codes={"0": "kept", "2": "error: nothing waits to be confirmed, say"},
        document='{"kept": true}',
    ),
    "migrate": Page(
        short="Move targets from another agent's rules to Weir's",
        targets={**TARGETS, "TARGET": "a name from the file"},
        examples={
            "weir migrate web --dry-run": "compare, and show what would be put in and taken out",
            "weir migrate web": "from Istio's rules, say, to Weir's, while connections run",
            "weir migrate web --back": "and back, with what was saved",
            "weir migrate --netns web --accept-differences": "although some packets will fare differently",
        },
        codes={
            "0": "migrated, or nothing to migrate (with --dry-run: nothing is in the way)",
            "1": "refused: some packet would fare differently",
            "2": "refused: nobody can tell whether all packets would fare alike; or an " + ERROR,
        },
        document='{"targets": [{"target", "netns", "state": "migrated", "returned", "nothing", "ready" (--dry-run),'
        ' "refused" or "failed", "reason", "owners", "old", "changes", "comparison": as `weir compare` prints it, or'
        " null}, ...]}",
    ),
    "daemon": Page(
        short="Keep the file's targets captured",
        examples={
            "weir daemon": "as the systemd unit starts it",
            "weir daemon --file ./weir.toml --listen none": "another file, no HTTP",
            "weir daemon --kubernetes --node worker-1": "as the DaemonSet of Weir's chart starts it",
        },
        codes={"0": "stopped by SIGTERM or SIGINT", "2": "error: it could not start, and changed nothing"},
    ),
}


class Command(TyperCommand):
    """A command whose help ends with its page."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 (typer's signature)
        """Write the page of this command."""
        for heading, content in PAGES[self.name or ""].sections():
            _write(formatter, heading, content)


class Group(TyperGroup):
    """The command of all commands."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 (typer's signature)
        """Write what holds for every command."""
        _write(formatter, "Targets", TARGETS)
        first = {"weir diff --netns web": "what would change", "weir apply --netns web": "change it"}
        _write(formatter, "Examples", {**first, "weir COMMAND --help": "options, examples and exit codes of a command"})
        _write(formatter, "Exit codes", GENERAL_CODES)
        files = {"/etc/weir/weir.toml": "the targets", "/run/weir": "sockets, locks, deadlines (WEIR_RUN_DIR)"}
        _write(formatter, "Files", files)


def _write(formatter: Any, heading: str, content: dict[str, str] | str) -> None:
    with formatter.section(heading):
        if isinstance(content, str):
            for part in content.splitlines():
                formatter.write_text(part)
        elif max(map(len, content)) <= 24:
            formatter.write_dl(list(content.items()))
        else:  # command lines, to be pasted: each whole, with what it does below
            for line, meaning in content.items():
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")
                with formatter.indentation(), formatter.indentation():
                    formatter.write_text(meaning)
