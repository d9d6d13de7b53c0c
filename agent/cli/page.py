"""A command's page of the manual, and the words that pages share."""

from dataclasses import dataclass, field

TARGETS = {
    "TARGET": "a name from the file; every target of the file where none is named",
    "--netns": "a namespace instead: NAME (as in `ip netns`), /PATH, pid:NUMBER, or host",
}
POD = {"pod/NAMESPACE/NAME": "a pod of this node, where the daemon keeps those of Kubernetes"}
ONE_TARGET = {**TARGETS, "TARGET": "a name from the file; may be left out where the file has one target"}
ERROR = "error: one message on standard error (with --output json a document on standard output)"
GENERAL_CODES = {
    "0": "same, done, or captured",
    "1": "differs, waits, or not captured",
    "2": ERROR,
    "130": "interrupted (Ctrl-C)",
}
MANIFESTS = "Kubernetes manifests instead; TARGET is then a workload, such as deployment/shop/web"
REPORTS = '{"targets": [REPORT, ...]}'
REPORT = (
    "REPORT: target, netns, state (unchanged, applied, removed, waiting, draining, degraded, failed), reason,"
    " hint, captured, changes, seconds, kept, kept_count, draining, captured_count, checks (check, holds, said),"
    " counters (rule, packets, bytes), rivals (certain, place, rule, packet, fate, why), owner"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One command's page: `short` stands in the list of commands, `examples` are command lines and what they do."""

    short: str
    examples: dict[str, str]
    codes: dict[str, str]
    targets: dict[str, str] | None = None
    terms: dict[str, dict[str, str]] = field(default_factory=dict)
    document: str = ""

    def sections(self) -> list[tuple[str, dict[str, str] | str]]:
        """Return headings, each with its terms and their meaning, or with a text."""
        shown: list[tuple[str, dict[str, str] | str]] = []
        if self.targets:
            shown.append(("Targets", self.targets))
        shown += self.terms.items()
        shown += [("Examples", self.examples), ("Exit codes", self.codes)]
        if self.document:
            shown.append(("Output with --output json", self.document))
        return shown
