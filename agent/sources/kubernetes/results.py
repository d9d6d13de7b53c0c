"""What capture would do with workloads: enrolled or not and why, and the rules that their pods would get.

A value that can be saved as JSON, read again, and compared with another: with that of another tree of manifests, say.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from agent.sources.kubernetes.annotations import asked
from agent.sources.kubernetes.eligibility import Decision, Enrolment, Policy, decide_for_template
from agent.sources.kubernetes.workloads import Manifests, Place, Problem, Workload, injected
from rulesets import nft, pod
from rulesets.capture import Capture
from rulesets.diff import Plan, diff
from rulesets.model import Ruleset
from rulesets.settings import CaptureError

VERSION = 1


class State(StrEnum):
    """How the pods of a workload would fare. `UNKNOWN`: nobody said what labels their namespace has."""

    CAPTURED = "captured"
    OUTSIDE = "outside"
    UNKNOWN = "unknown"
    UNREADABLE = "unreadable"


_STATES = {
    Enrolment.ENROLLED: State.CAPTURED,
    Enrolment.WAITING: State.CAPTURED,
    Enrolment.OUTSIDE: State.OUTSIDE,
    Enrolment.UNKNOWN: State.UNKNOWN,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What would become of one workload. `rules` are what its pods get, or would get if they are captured."""

    workload: str
    place: Place
    state: State
    reason: str
    notes: tuple[str, ...] = ()
    rules: Ruleset | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """What would become of all workloads, in their order; `others` counts other objects by kind."""

    results: tuple[Result, ...] = ()
    others: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    def rulesets(self) -> dict[Ruleset, tuple[Result, ...]]:
        """Return the different rulesets, each with the workloads whose pods would have it."""
        found: dict[Ruleset, list[Result]] = {}
        for each in self.results:
            if each.rules is not None:
                found.setdefault(each.rules, []).append(each)
        return {rules: tuple(some) for rules, some in found.items()}

    def document(self) -> dict[str, object]:
        """Return it as JSON can hold it; `saved` reads it again."""
        groups = {rules: number for number, rules in enumerate(self.rulesets())}
        return {
            "manifests": VERSION,
            "workloads": [_result_document(each, groups) for each in self.results],
            "rules": [json.loads(nft.render_json(each)) for each in groups],
            "others": dict(self.others),
            "errors": [
                {**_place_document(each.place), "workload": each.workload, "error": each.reason}
                for each in self.problems
            ],
        }


class SavedError(ValueError):
    """A text that is not what `Results.document` makes."""


def results_of(manifests: Manifests, policy: Policy, defaults: Capture) -> Results:
    """Return what would become of workloads. An annotation that can't be read is a problem, and the state says so."""
    problems = list(manifests.problems)
    results = tuple(_result(each, manifests, policy, defaults, problems) for each in manifests.workloads)
    return Results(results=results, others=manifests.others, problems=tuple(problems))


def _result(
    workload: Workload, manifests: Manifests, policy: Policy, defaults: Capture, problems: list[Problem]
) -> Result:
    namespace = manifests.namespaces.get(workload.pod.namespace)
    decision = decide_for_template(workload.pod, namespace, policy)
    state = _STATES[decision.enrolment]
    place = workload.place
    if state is State.OUTSIDE:
        return Result(workload=workload.name, place=place, state=state, reason=decision.reason)
    try:
        wanted = asked(workload.pod.annotations, defaults)
    except CaptureError as error:
        field_path = f"{workload.template}metadata.annotations[{error.setting!r}]"
        place = workload.place_of(field_path)
        problems.append(Problem(place=place, workload=workload.name, reason=str(error)))
        return Result(workload=workload.name, place=place, state=State.UNREADABLE, reason=str(error))
    sidecar = injected(workload.pod, namespace)
    warning = (f"{sidecar} asks for a sidecar, and a pod that gets one is not captured",) if sidecar else ()
    return Result(
        workload=workload.name,
        place=place,
        state=state,
        reason=_why(decision, state),
        notes=(*wanted.notes, *warning),
        rules=pod.build(wanted.capture),
    )


def _why(decision: Decision, state: State) -> str:
    return decision.reason if state is State.CAPTURED else f"{decision.reason}: add its Namespace to the manifests"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A workload that fares otherwise. `old` or `new` is None where it is only on the other side."""

    workload: str
    old: Result | None
    new: Result | None

    @property
    def plan(self) -> Plan:
        """What would change in its pods' rules."""
        return diff(self.old.rules if self.old else None, self.new.rules if self.new else None)

    def __bool__(self) -> bool:
        return self.old is None or self.new is None or self.old.state is not self.new.state or bool(self.plan)


def differences(old: Results, new: Results) -> tuple[Difference, ...]:
    """Return the workloads that are new, are gone, or change their state or their rules; by their names."""
    before = {each.workload: each for each in old.results}
    after = {each.workload: each for each in new.results}
    pairs = (Difference(workload=name, old=before.get(name), new=after.get(name)) for name in sorted({*before, *after}))
    return tuple(each for each in pairs if each)


def is_saved(text: str) -> bool:
    """Tell whether a text claims to be what `Results.document` made, in whichever order, rather than a manifest."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return text.lstrip().startswith("{") and '"manifests"' in text[:200]
    return isinstance(document, dict) and "manifests" in document and "kind" not in document


def saved(text: str) -> Results:
    """Return the results that a JSON document holds. Raises `SavedError`."""
    try:
        document = json.loads(text)
        if document["manifests"] != VERSION:
            raise SavedError(f"is of version {document['manifests']!r}, and this Weir reads version {VERSION}")
        groups = [_ruleset(each) for each in document["rules"]]
        return Results(
            results=tuple(_saved_result(each, groups) for each in document["workloads"]),
            others={str(kind): int(number) for kind, number in document["others"].items()},
            problems=tuple(
                Problem(place=_place(each), workload=str(each["workload"]), reason=str(each["error"]))
                for each in document["errors"]
            ),
        )
    except SavedError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise SavedError(f"is not what `weir render -f ... --output json` prints: {error!r}") from None


def _ruleset(document: object) -> Ruleset:
    found = nft.parse(json.dumps(document), pod.POD_TABLE)
    if found is None:
        raise SavedError(f"has rules without the table {pod.POD_TABLE}")
    return found


def _result_document(result: Result, groups: Mapping[Ruleset, int]) -> dict[str, object]:
    return {
        "workload": result.workload,
        **_place_document(result.place),
        "state": str(result.state),
        "reason": result.reason,
        "notes": list(result.notes),
        "rules": None if result.rules is None else groups[result.rules],
    }


def _saved_result(document: Mapping[str, object], groups: list[Ruleset]) -> Result:
    rules, notes = document["rules"], document["notes"]
    if not isinstance(notes, list) or not (rules is None or (isinstance(rules, int) and 0 <= rules < len(groups))):
        raise SavedError(f"has no rules number {rules!r}")
    return Result(
        workload=str(document["workload"]),
        place=_place(document),
        state=State(str(document["state"])),
        reason=str(document["reason"]),
        notes=tuple(map(str, notes)),
        rules=None if rules is None else groups[rules],
    )


def _place_document(place: Place) -> dict[str, object]:
    return {"file": place.file, "document": place.document, "line": place.line}


def _place(document: Mapping[str, object]) -> Place:
    number, line = document["document"], document["line"]
    if not isinstance(number, int) or not isinstance(line, int):
        raise SavedError("has a place without numbers")
    return Place(file=str(document["file"]), document=number, line=line)
