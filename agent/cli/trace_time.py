"""`weir trace --time`: a table of Weir's chains, and how long packets are in each."""

import json
import threading
from typing import TYPE_CHECKING

from agent.cli.options import Output
from agent.errors import ConfigError, NamespaceMissing, TargetError
from agent.words import counted, printable

if TYPE_CHECKING:
    from agent.targets import Target
    from agent.trace.timing import Timing

SECONDS = 0.2
"""How long it measures where nothing is said."""


def refuse(words: list[str], **options: object) -> None:
    """Refuse what makes no sense when every packet is measured. Raises `ConfigError`."""
    if words:
        raise ConfigError(f"--time: measures every packet, so it takes no filter: {words[0]!r}")
    for name, value in options.items():
        if value is not None:
            raise ConfigError(f"--time: measures every packet, so it takes no --{name}: {value!r}")


def timed(target: "Target", seconds: float, output: Output, stop: threading.Event) -> "Timing":
    """Measure, and tell when that has begun. Raises as `agent.trace.timing.measure`, naming the target."""
    from agent.kernel.handle import Handle
    from agent.kernel.netns import Netns
    from agent.trace.timing import measure

    def ready() -> None:
        if output is Output.TEXT:
            print(f"{target.name}: measuring Weir's chains for {seconds:g} s", flush=True)

    handle = Handle(Netns(target.netns))
    try:
        return measure(handle, seconds, ready=ready, stop=stop)
    except NamespaceMissing as error:
        raise NamespaceMissing(f"target {target.name!r}: {error}", hint=error.hint) from None
    except TargetError as error:
        raise TargetError(f"target {target.name!r}: {error}", hint=error.hint) from None
    finally:
        handle.close()


def tell(timing: "Timing", output: Output) -> None:
    """Print what was measured."""
    if output is Output.JSON:
        print(json.dumps({"timing": timing.document()}), flush=True)
    else:
        print("\n" + "\n".join(lines(timing)), flush=True)


def lines(timing: "Timing") -> list[str]:
    """Return what was measured as text: a line for each chain, what was measured with it, and a summary."""
    names = [printable(each.chain) for each in timing.chains]
    width = max(map(len, names))
    shown = [f"{'chain':<{width}}  {'hook':<11}  {'packets':>9}  {'mean':>8}  {'p50':>8}  {'p99':>8}  {'share':>6}"]
    for name, each in zip(names, timing.chains, strict=True):
        times, share = each.times, timing.share(each)
        figures = ("-", "-", "-") if times is None else tuple(map(duration, (times.mean, times.p50, times.p99)))
        part = "-" if share is None else f"{share:.0%}"
        columns = "  ".join(f"{figure:>8}" for figure in figures)
        shown.append(f"{name:<{width}}  {each.hook:<11}  {each.packets:>9}  {columns}  {part:>6}")
        shown += [f"    with {printable(other)}" for other in each.beside]
        if each.stopped:
            shown.append(f"    {counted(each.stopped, 'packet')} went no further: dropped, or still on the way")
        if each.unmeasured:
            shown.append(f"    {counted(each.unmeasured, 'packet')} not measured: too many went no further")
    return [*shown, "", *_summary(timing)]


def _summary(timing: "Timing") -> list[str]:
    part = timing.nanoseconds / 1e9 / timing.seconds if timing.seconds else 0.0
    total = f"{duration(timing.nanoseconds)} in these chains within {timing.seconds:.2f} s: {part:.2%} of a processor"
    empty = [f"{duration(each.mean)} ({hook})" for hook, each in timing.empty.items() if each is not None]
    taken = [f"what measuring itself takes of each packet is taken off: {', '.join(empty)}"] if empty else []
    changed = ["rules were changed meanwhile: the figures may mix what was before with what came after"]
    return [total, *taken, *(changed if timing.changed else ())]


def duration(nanoseconds: float) -> str:
    """Return a time in the unit in which it is short to read."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.3g} {unit}"
    return f"{nanoseconds:.0f} ns"
