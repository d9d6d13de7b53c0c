"""`weir render -f` and `weir diff -f` on Kubernetes manifests: what would be captured, without a cluster."""

import json
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.options import Output, settings_given
from agent.errors import ConfigError
from agent.words import counted

if TYPE_CHECKING:
    from agent.sources.kubernetes.eligibility import Policy
    from agent.sources.kubernetes.results import Results
    from rulesets.capture import Capture

Files = Annotated[
    list[Path] | None,
    typer.Option(
        "--file",
        "-f",
        metavar="FILE",
        help="The target file; by default a running daemon's, or /etc/weir/weir.toml. Or Kubernetes manifests: a"
        " folder, a .yaml, .yml or .json file, or - for standard input; several may be given.",
    ),
]
Namespace = Annotated[
    str | None,
    typer.Option("--namespace", "-n", metavar="NAME", help="Of manifests that name none, instead of default."),
]
Selectors = Annotated[
    Path | None,
    typer.Option(
        "--selectors",
        metavar="FILE",
        help="What is captured: a list of podSelector and namespaceSelector, as Istio's ambient.enablementSelectors.",
    ),
]
Excluded = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude-namespace",
        metavar="NAME",
        help="A namespace whose pods are never captured, instead of kube-system. May be repeated.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a command line asks of manifests. `names` are those of workloads; none means all."""

    names: tuple[str, ...]
    namespace: str
    policy: "Policy"
    defaults: "Capture"

    def results(self, paths: Iterable[Path]) -> "Results":
        """Return what would become of all workloads. Raises `ConfigError`."""
        from agent.sources.kubernetes import manifests
        from agent.sources.kubernetes.results import results_of

        return results_of(manifests.read(paths, namespace=self.namespace), self.policy, self.defaults)


def asked(
    command: str,
    files: list[Path] | None,
    names: list[str] | None,
    netns: list[str] | None,
    settings: list[str] | None,
    namespace: str | None,
    selectors: Path | None,
    excluded: list[str] | None,
) -> Question | None:
    """Return what a command line asks of manifests; None where it names a target file, or nothing.

    Raises `ConfigError` for options that don't go together.
    """
    from rulesets.capture import Capture
    from rulesets.settings import CaptureError

    if not _are_meant(command, files or []):
        options = {"--namespace": namespace, "--selectors": selectors, "--exclude-namespace": excluded}
        for option in (name for name, value in options.items() if value):
            raise ConfigError(
                f"{command}: {option}: goes with manifests, and there are none",
                hint="name some with --file: a folder, a .yaml file, or - for standard input",
            )
        return None
    if netns:
        raise ConfigError(
            f"{command}: --netns {netns[0]!r}: manifests have no namespaces of the kernel",
            hint="name workloads, such as deployment/shop/web",
        )
    try:
        defaults = Capture().changed(settings_given(settings))
    except CaptureError as error:
        raise ConfigError(f"--set: {error}") from None
    return Question(
        names=tuple(dict.fromkeys(names or ())),
        namespace=namespace or "default",
        policy=_policy(selectors, excluded),
        defaults=defaults,
    )


def _are_meant(command: str, files: list[Path]) -> bool:
    """Tell whether files are manifests rather than the target file. Raises `ConfigError` for both at once."""
    if not files:
        return False
    from agent.sources.kubernetes.manifests import are_manifests

    kinds = [are_manifests(each) for each in files]
    if any(kinds) and not all(kinds):
        raise ConfigError(
            f"{command}: {files[kinds.index(False)]}: is no folder of manifests, nor called .yaml, .yml or .json",
            hint="a target file and manifests don't go together",
        )
    if len([each for each in files if str(each) == "-"]) > 1:
        raise ConfigError(f"{command}: -: standard input can be read only once", hint="save one of them to a file")
    if not any(kinds) and len(files) > 1:
        raise ConfigError(f"{command}: --file is given {len(files)} times, and there is one target file")
    return any(kinds)


def render(question: Question, paths: list[Path], output: Output, *, as_json: bool) -> int:
    """Print what would be captured and the rules; return the exit code: 0 printed, 2 something can't be read."""
    from agent.cli import manifests_text as text
    from rulesets import nft

    found = question.results(paths)
    refuse_unknown(question.names, (found,))
    if question.names:
        found = replace(found, results=tuple(each for each in found.results if each.workload in question.names))
    groups = found.rulesets()
    if output is Output.JSON:
        print(json.dumps(found.document(), indent=2))
        return 2 if found.problems else 0
    if not as_json:
        text.states(found)
        for rules, some in groups.items():
            text.heading(some)
            print(nft.render(rules), end="")
    elif len(groups) == 1:
        print(nft.render_json(next(iter(groups))), end="")
    else:
        raise ConfigError(
            f"render --format json: wants one ruleset, and these workloads have {len(groups)}",
            hint="name a workload, or use --output json",
        )
    text.problems(found)
    return 2 if found.problems else 0


def diff(question: Question, paths: list[Path], output: Output) -> int:
    """Print what capture would change; return the exit code: 0 nothing, 1 something, 2 the new one can't be read.

    An old one that can't be read isn't the same as the new one, and putting it right must be possible: 1.
    """
    from agent.cli import manifests_text as text
    from agent.sources.kubernetes.results import differences

    if len(paths) != 2:
        raise ConfigError(
            f"diff: got {counted(len(paths), 'set')} of manifests, and wants two, the old and the new",
            hint="weir diff -f OLD -f NEW; OLD may be what `weir render -f ... --output json` printed",
        )
    old, new = (_side(question, path) for path in paths)
    refuse_unknown(question.names, (old, new))
    changed = [each for each in differences(old, new) if not question.names or each.workload in question.names]
    compared = set(question.names) or {each.workload for side in (old, new) for each in side.results}
    if output is Output.JSON:
        text.differences_as_json(changed, len(compared), old, new)
    else:
        text.differences(changed, len(compared), whole=not (old.problems or new.problems))
        text.problems(old, "old: ")
        text.problems(new, "new: " if old.problems else "")
        there = next((each.workload for each in changed if each.new), None)
        if there is not None and paths[1].suffix.lower() != ".json" and str(paths[1]) != "-":
            print(text.line(f"`weir render {shlex.join(['-f', str(paths[1]), there])}` prints its rules"))
    return 2 if new.problems else int(bool(changed or old.problems))


def refuse_unknown(names: Iterable[str], sides: Iterable["Results"]) -> None:
    """Refuse names that no workload has. Raises `ConfigError`."""
    known = [each.workload for side in sides for each in side.results]
    for name in names:
        if name not in known:
            import difflib

            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else "as kind/namespace/name: deployment/shop/web"
            raise ConfigError(f"workload {name!r}: the manifests have no such one", hint=hint)


def _side(question: Question, path: Path) -> "Results":
    from agent.sources.kubernetes import results
    from agent.sources.kubernetes.manifests import STANDARD_INPUT, text_of

    if path != STANDARD_INPUT and not path.is_dir() and path.suffix.lower() == ".json":
        text = text_of(path)
        if results.is_saved(text):
            try:
                return results.saved(text)
            except results.SavedError as error:
                raise ConfigError(f"{path}: {error}") from None
    return question.results((path,))


def _policy(selectors: Path | None, excluded: list[str] | None) -> "Policy":
    from agent.sources.kubernetes import manifests
    from agent.sources.kubernetes.eligibility import Policy

    policy = Policy() if excluded is None else Policy(excluded_namespaces=tuple(excluded))
    if selectors is None:
        return policy
    text = manifests.text_of(selectors)
    return replace(policy, enablement=manifests.enablement(text, f"--selectors {selectors}"))
