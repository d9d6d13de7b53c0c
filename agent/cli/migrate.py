"""`weir migrate`: from another agent's rules to Weir's while connections run, and back."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.failing import tell
from agent.cli.options import (
    File,
    Names,
    Netns,
    Output,
    OutputOption,
    Settings,
    add,
    expected,
    need_root,
    pasted,
    refuse_unknown_slugs,
    targets,
)
from agent.errors import Busy, ConfigError, WeirError

if TYPE_CHECKING:
    from agent.cli.compared import Compared
    from agent.kernel.handle import Handle
    from agent.migration.run import Migrated
    from agent.targets import Target


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    add(app, migrate)


def migrate(
    names: Names = None,
    netns: Netns = None,
    file: File = None,
    settings: Settings = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Compare, show what would be put in and taken out, and change nothing.")
    ] = False,
    accept_differences: Annotated[
        bool,
        typer.Option(
            "--accept-differences", help="Go on although some packets will fare differently, or nobody can tell."
        ),
    ] = False,
    expect: Annotated[
        list[str] | None, expected("Take only this wanted difference, rather than every one. May be repeated.")
    ] = None,
    back: Annotated[
        bool, typer.Option("--back", help="Return: put the other agent's rules back, then take Weir's away.")
    ] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Move targets from another agent's rules to Weir's, without losing a connection.

    Istio's ambient rules (of either iptables, or its own nft tables), Cilium's for ztunnel, and rules that Weir wrote
    for iptables are found, and compared with what is wanted: wanted differences (`weir compare --help`) are told, any
    other keeps the target as it is. Weir's rules are put in and read back beside the old ones, which then go; all other
    rules stay as they are. What a killed command leaves half-done still captures, and the same command, or --back,
    takes it up. Each step is told on standard error.
    """
    refuse_unknown_slugs("migrate", expect or ())
    if back and (accept_differences or expect):
        given = "--accept-differences" if accept_differences else "--expect"
        raise ConfigError(f"migrate: {given} beside --back, which compares nothing", hint="leave one of them out")
    if not (names or netns):
        raise ConfigError("migrate: wants targets, or --netns", hint="`weir status` lists the targets")
    need_root("migrate")
    chosen = targets(names, netns, file, settings)
    if not dry_run:
        _refuse_held(chosen, back=back)

    from agent.cli.kernel import with_handles
    from agent.migration.run import Wanted
    from agent.migration.run import migrate as carry_out
    from agent.state import Records

    wanted = Wanted(
        back=back, dry_run=dry_run, accept_differences=accept_differences, expected=tuple(dict.fromkeys(expect or ()))
    )

    def run(target: "Target", handle: "Handle") -> "Migrated":
        of = f" of {target.name}" if len(chosen) > 1 else ""
        return carry_out(target, handle, Records(), wanted, lambda said: _tell(f"{said}{of}"))

    try:
        found = with_handles(chosen, run, progress=False)
    except KeyboardInterrupt:
        tell(WeirError("interrupted: what is half-done captures, and the same command or --back takes it up"))
        raise typer.Exit(130) from None
    if output is Output.JSON:
        print(json.dumps({"targets": [_document(target, result) for target, result in found]}, indent=2))
    else:
        again = pasted(netns or names or (), netns=bool(netns), file=file, settings=settings)
        for target, result in found:
            _print(target, result, dry_run=dry_run, again=again)
    codes = [_code(result) for _, result in found]
    raise typer.Exit(max(codes, default=0))


def refuse_half_migrated(chosen: "tuple[Target, ...]") -> None:
    """Raise `Busy` for a target of which a migration is under way, or was killed: nothing else may change its rules."""
    from agent.state import run_directory

    if not (run_directory() / "migrations").is_dir():
        return
    from agent.kernel.netns import Netns, identify
    from agent.migration.journal import Journal

    begun = {identify(Netns(each.netns).file): each for each in Journal(run_directory()).unfinished()}
    for target in chosen:
        found = begun.get(identify(Netns(target.netns).file))
        if found is not None:
            raise Busy(
                f"target {target.name!r}: its migration is half-done, at the step {found.step}",
                hint="`weir migrate` with the same arguments takes it up, and --back returns",
            )


def _refuse_held(chosen: "tuple[Target, ...]", *, back: bool) -> None:
    from agent.cli.held import held

    holding = held(chosen)
    if holding:
        wanted = "and would capture it again at once" if back else "and writes its rules itself"
        raise Busy(
            f"target {next(iter(holding.values()))!r}: the daemon holds it, {wanted}",
            hint="stop the daemon first: traffic goes on as it is"
            + ("" if back else "; or write migrate = true into its file, and the daemon migrates by itself"),
        )


def _tell(said: str) -> None:
    print(said, file=sys.stderr, flush=True)


def _code(result: "Migrated | WeirError") -> int:
    if isinstance(result, WeirError) or result.unknown:
        return 2
    return 1 if result.refused else 0


def _state(result: "Migrated") -> str:
    if result.refused:
        return "refused"
    if result.changed:
        return "returned" if result.back else "migrated"
    return "ready" if result.reason.startswith("would") else "nothing"


def _compared(result: "Migrated") -> "Compared | None":
    from agent.cli.compared import Compared
    from rulesets.vocabulary import Family

    if result.judged is None:
        return None
    judged = result.judged
    return Compared(here=judged.here, there=judged.there, families=tuple(Family), proof=judged.proof)


def _document(target: "Target", result: "Migrated | WeirError") -> dict[str, object]:
    named = {"target": target.name, "netns": target.netns}
    if isinstance(result, WeirError):
        return {**named, "state": "failed", "reason": str(result), "hint": result.hint}
    compared = _compared(result)
    return {
        **named,
        "state": _state(result),
        "reason": result.refused or result.reason,
        "owners": list(result.old.owners),
        "old": list(result.old.describe()),
        "changes": result.plan.describe().splitlines() if result.plan else [],
        "comparison": compared.document() if compared is not None else None,
    }


def _print(target: "Target", result: "Migrated | WeirError", *, dry_run: bool, again: str) -> None:
    from agent.cli import show
    from agent.cli.failing import clean

    if isinstance(result, WeirError):
        first, _, rest = clean(str(result)).partition("\n")
        print(f"failed     {target.name}: {first}", file=sys.stderr)
        for each in (*rest.splitlines(), *filter(None, [clean(result.hint)])):
            print(f"  {each}", file=sys.stderr)
        return
    print(clean(f"{_state(result):<10} {target.name}: {result.refused or result.reason}"))
    compared = _compared(result)
    if compared is not None and (dry_run or result.refused):
        compared.print_text("", hint=False)
    elif compared is not None:
        slugs = ", ".join(dict.fromkeys(each.wanted for each in compared.proof.expected))
        print(clean(f"  {compared.sentence()}{f' ({slugs})' if slugs else ''}"))
    if dry_run:
        mine, theirs = ("-", "+") if result.back else ("+", "-")
        for each in result.plan.describe().splitlines() if result.plan else ():
            print(clean(f"  {each}"))
        for each in result.old.describe():
            print(clean(f"  {theirs} {each}"))
        if result.back:
            print(f"  {mine} table inet {target.table}, and Weir's rules and routes")
    if result.refused:
        show.hint(
            f"`weir migrate {again} --accept-differences` goes on all the same; or change the target's settings first"
        )
    elif result.changed and not result.back:
        show.hint(f"`weir migrate {again} --back` returns")
    elif result.changed:
        show.hint("take the target out of the file, or `weir apply` and the daemon capture it again")
