"""`weir compare`: whether two rulesets treat every packet alike, or the packet that they treat differently."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.options import (
    File,
    OneName,
    OneNetns,
    Output,
    OutputOption,
    Settings,
    add,
    expected,
    need_root,
    one_target,
    pasted,
    refuse_unknown_slugs,
    targets,
)
from agent.errors import ConfigError, WeirError

if TYPE_CHECKING:
    from agent.against import Rules
    from agent.kernel.handle import Handle
    from agent.targets import Target
    from rulesets.equivalence import Proof
    from rulesets.vocabulary import Family

_LIVE = ("legacy", "nft")


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    add(app, compare)


def compare(
    name: OneName = None,
    other: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="legacy|nft|FILE",
            help="The rules of the other side. May be repeated: all of them are in force together.",
        ),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            metavar="legacy|nft|FILE",
            help="Rules of this side, instead of those that a target is to have. May be repeated.",
        ),
    ] = None,
    expect: Annotated[
        list[str] | None, expected("A wanted difference (below) that is shown, and counts as equal. May be repeated.")
    ] = None,
    netns: OneNetns = None,
    file: File = None,
    settings: Settings = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Prove that two sets of rules treat all packets alike, or show a packet that they don't.

    This side is what a target is to have. The other is what iptables-legacy has in its namespace (legacy), all that
    nf_tables has there, the rules of iptables-nft among it (nft), or a file: what iptables-save, ip6tables-save or
    `nft -j list ruleset` printed. A family of which the files of a side don't tell is not compared. Files need no
    root. Without a file of targets, --set alone describes a capture.
    """
    from agent.cli.compared import Compared

    refuse_unknown_slugs("compare", expect or ())
    if not other:
        raise ConfigError("compare: with what? there is no --with", hint="`weir compare --help` shows what there is")
    live = any(each in _LIVE for each in (*other, *(against or ())))
    named = bool(name or netns)
    target = None
    if against is None or live:
        alone = settings and not (named or file or live)
        target = only_settings(settings) if alone else one_target("compare", name, netns, file, settings)
    elif named or file or settings:
        raise ConfigError(
            "compare: both sides are files, so no target is meant",
            hint="leave out --against, or TARGET, --file and --set",
        )
    here, there = sides(target, against, other)
    families, proof = proved(here, there, tuple(expect or ()))
    again = pasted(
        [netns[0] if netns else name or ""] if named else [], netns=bool(netns), file=file, settings=settings
    )
    compared = Compared(here=here, there=there, families=families, proof=proof)
    if output is Output.JSON:
        compared.print_json()
    else:
        compared.print_text("" if against else f"weir render {again}".strip())
    raise typer.Exit(compared.code)


def only_settings(settings: list[str] | None) -> "Target":
    """Return the capture that settings alone describe."""
    (found,) = targets(None, ["settings"], None, settings)
    return replace(found, name="these settings")


def sides(target: "Target | None", against: list[str] | None, other: list[str]) -> "tuple[Rules, Rules]":
    """Return the rules of both sides, looking at the target's namespace where that is asked for. Raises `WeirError`."""
    from agent.against import Live, Rules, in_force_at_once, of_file, together, wish

    def look(_: "Target", handle: "Handle") -> dict[str, Rules]:
        found = in_force_at_once(handle, [Live(each) for each in dict.fromkeys(asked) if each in _LIVE])
        return {str(live): rules for live, rules in found.items()}

    asked = [*(against or ()), *other]
    files = {each: of_file(Path(each)) for each in dict.fromkeys(asked) if each not in _LIVE}
    found: dict[str, Rules] = {}
    if target is not None and len(files) < len(set(asked)):
        from agent.cli.kernel import with_handles

        need_root("compare")
        ((_, looked),) = with_handles([target], look)
        if isinstance(looked, WeirError):
            raise looked
        found = looked
    every = {**files, **found}
    chosen = [together(every[each] for each in dict.fromkeys(some)) for some in (against or (), other)]
    return (wish(target) if target is not None and not against else chosen[0]), chosen[1]


def proved(here: "Rules", there: "Rules", expected: tuple[str, ...]) -> "tuple[tuple[Family, ...], Proof]":
    """Return the families that both sides tell of, and whether packets of these fare alike."""
    from agent.against import only
    from rulesets.equivalence import Equal, Unknown, prove
    from rulesets.vocabulary import Family

    families = tuple(each for each in Family if each in here.families & there.families)
    if not families:
        raise ConfigError(f"compare: {here.name} and {there.name} are of different families")
    unread = tuple(dict.fromkeys((*here.unread, *there.unread)))
    if unread:
        return families, Unknown(cells=0, unknown=0, reasons=unread)
    one, two = here.rulesets, there.rulesets
    if len(families) == 1:
        one, two = (tuple(only(each, families[0]) for each in some) for some in (one, two))
    proof = prove(one, two, expected=expected)
    if isinstance(proof, Equal):
        return families, proof
    compat = (f"{each} holds parts of iptables' own, which nft doesn't tell" for each in (*here.compat, *there.compat))
    return families, replace(proof, reasons=tuple(dict.fromkeys((*proof.reasons, *compat))))
