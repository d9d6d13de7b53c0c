"""Trying each feature in a throw-away namespace, which is nowhere named and ends with the thread that made it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

from agent.errors import FeatureMissing, KernelError, LibraryMissing, WeirError
from agent.kernel import entering
from agent.kernel.features.declared import FEATURES, Feature
from agent.kernel.memory import give_back
from agent.kernel.nftables import Tables


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Whether a feature is present; `said` is what the kernel answered where it isn't.

    `tried` is false where the proof would have needed another feature that is missing: that one is what to look at.
    """

    feature: Feature
    present: bool
    said: str = ""
    tried: bool = True

    def __str__(self) -> str:
        """Say all that an operator needs, in one line."""
        name, option = self.feature.name, self.feature.option
        if self.present:
            return f"{name} ({option}): there"
        if not self.tried:
            return f"{name} ({option}): {self.said}"
        return f"{name} is missing ({option}, Linux {self.feature.since}): {self.said}; instead: {self.feature.instead}"

    def error(self) -> FeatureMissing:
        """Return the finding as what is raised by those who can't do without."""
        feature = self.feature
        return FeatureMissing(
            feature=feature.name,
            option=feature.option,
            statement="",
            said=self.said,
            hint=f"a kernel with {feature.option}, of Linux {feature.since} or later",
        )


class Edge(Protocol):
    """What proofs go through. It is made in the throw-away namespace."""

    def load(self, text: str) -> None:
        """Load nft text in one transaction. Raises `WeirError` or `OSError` where the kernel refuses."""

    def run(self, proof: Callable[[], None]) -> None:
        """Call a proof that is a function. Raises what it raises."""

    def close(self) -> None:
        """Let go of the namespace."""


class ThisKernel:
    """The kernel that runs here."""

    def __init__(self) -> None:
        self._tables = Tables()

    def load(self, text: str) -> None:
        """Load nft text."""
        self._tables.load(text)

    def run(self, proof: Callable[[], None]) -> None:
        """Call a proof."""
        proof()

    def close(self) -> None:
        """Let go of the namespace."""
        self._tables.close()


def probe(edge: Callable[[], Edge] = ThisKernel) -> tuple[Finding, ...]:
    """Try every feature and return what was found, in the order of `FEATURES`. The caller's namespace is not touched.

    Raises `PermissionMissing` where this process may not make a namespace or change one, `LibraryMissing` without
    libnftables.
    """

    def inside() -> tuple[Finding, ...]:
        entering.leave_for_new_namespace()
        with closing(edge()) as made:
            return _findings(made)

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="weir-features") as thrown_away:
        findings = thrown_away.submit(inside).result()
    give_back()  # 8 MB of an agent, which would keep them for good
    return findings


def missing(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Return the features that this kernel lacks, without those that only could not be tried therefore."""
    return tuple(each for each in findings if each.tried and not each.present)


def missing_needed(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Return the missing features without which nothing is to be started."""
    return tuple(each for each in missing(findings) if each.feature.needed)


def _findings(edge: Edge) -> tuple[Finding, ...]:
    # A transaction that fails waits for grace periods of the kernel, 8 to 34 ms, one that succeeds doesn't: so all
    # rules are loaded at once, and one by one only when that fails.
    texts = [each.proof for each in FEATURES if isinstance(each.proof, str)]
    all_load = _refusal(lambda: edge.load("".join(texts))) is None
    found: dict[str, Finding] = {}
    for feature in FEATURES:
        found[feature.name] = _finding(feature, edge, found, all_load=all_load)
    return tuple(found.values())


def _finding(feature: Feature, edge: Edge, found: dict[str, Finding], *, all_load: bool) -> Finding:
    lacking = [name for name in feature.builds_on if not found[name].present]
    if lacking:
        said = f"not tried, since it builds on what is missing: {', '.join(lacking)}"
        return Finding(feature=feature, present=False, said=said, tried=False)
    proof = feature.proof
    if isinstance(proof, str):
        refusal = None if all_load else _refusal(lambda: edge.load(proof))
    else:
        refusal = _refusal(lambda: edge.run(proof))
    return Finding(feature=feature, present=refusal is None, said=refusal or "")


def _refusal(attempt: Callable[[], None]) -> str | None:
    try:
        attempt()
    except LibraryMissing:
        raise
    except KernelError as error:
        return error.said
    except (WeirError, OSError) as error:
        return str(error)
    return None
