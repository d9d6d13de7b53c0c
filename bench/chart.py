"""Reports as one SVG: a bar for each way, on a logarithmic scale. In middle tones, for light and dark pages alike."""

import math
from collections.abc import Iterable, Sequence
from xml.sax.saxutils import escape, quoteattr

from bench.machine import Machine
from bench.report import Report, ratio
from bench.sampling import Result

_WIDTH, _MARGIN = 860, 16
_LEFT, _RIGHT = 250, 230  # where names end, and what stands behind bars
_BAR, _ROW, _TITLE, _AXIS, _GAP = 14, 24, 40, 26, 14
# Each has a contrast of at least 3 to white and to GitHub's dark page, #0d1117 (WCAG 2.1, 1.4.11).
_WORDS, _LINES, _OWN, _FLOOR, _OTHER = "#79828d", "#79828d", "#2a9d4f", "#c27c0e", "#6d87b0"
COLOURS = (_WORDS, _OWN, _FLOOR, _OTHER)
_FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"


def drawn(reports: Sequence[Report], machine: Machine) -> str:
    """Return the plot of some reports: medians, each panel with a scale of its own."""
    parts: list[str] = []
    at = _MARGIN
    for report in reports:
        parts += _panel(report, at)
        at += _height(report)
    parts.append(_text(_MARGIN, at + 14, f"Medians; shorter is better. {machine.words}.", size=11))
    height = at + 14 + _MARGIN
    size = f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family={quoteattr(_FONT)} role="img">'
    title = f"<title>{escape('; '.join(each.about for each in reports))}</title>"
    return "\n".join((opening, title, *parts, "</svg>", ""))


def decades(values: Iterable[float]) -> tuple[int, int]:
    """Return the powers of ten between which all values lie, at least one apart."""
    positive = [value for value in values if value > 0]
    if not positive:
        return 0, 1
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    return low, max(high, low + 1)


def _height(report: Report) -> int:
    return _TITLE + _ROW * len(report.bars) + _AXIS + _GAP


def _panel(report: Report, top: int) -> list[str]:
    scale, bars = report.unit.scale, sorted(report.bars, key=lambda each: each.p50)
    low, high = decades(each.p50 * scale for each in bars)
    wide = _WIDTH - _LEFT - _RIGHT
    bottom = top + _TITLE + _ROW * len(bars)

    def along(value: float) -> float:
        return wide * (math.log10(value) - low) / (high - low) if value > 0 else 0.0

    parts = [_text(_MARGIN, top + 18, report.about, size=14, weight=600)]
    for power in range(low, high + 1):
        x = _LEFT + along(10.0**power)
        parts.append(
            f'<line x1="{x:.1f}" y1="{top + _TITLE - 6}" x2="{x:.1f}" y2="{bottom}" stroke="{_LINES}"'
            ' stroke-opacity="0.35"/>'
        )
        parts.append(_text(x, bottom + 15, f"{10.0**power:g} {report.unit.word}", size=11, anchor="middle"))
    for number, each in enumerate(bars):
        parts += _bar(report, each, top + _TITLE + _ROW * number, along(each.p50 * scale))
    return parts


def _bar(report: Report, each: Result, y: float, length: float) -> list[str]:
    own = each.name == report.subject
    colour = _OWN if own or each.name.startswith("Weir") else _FLOOR if each.name.startswith("floor") else _OTHER
    value = each.p50 * report.unit.scale
    said = f"{value:.0f} {report.unit.word}" if value >= 1000 else f"{value:.3g} {report.unit.word}"
    if not own and (share := report.ratios.get(each.name)):
        said += f" (Weir takes {ratio(share)} of it)"
    baseline = y + _BAR - 3
    return [
        _text(_LEFT - 8, baseline, each.name, size=12, anchor="end", weight=600 if own else 400),
        f'<rect x="{_LEFT}" y="{y}" width="{max(length, 2):.1f}" height="{_BAR}" rx="2" fill="{colour}"/>',
        _text(_LEFT + max(length, 2) + 6, baseline, said, size=12),
    ]


def _text(x: float, y: float, words: str, *, size: int, anchor: str = "start", weight: int = 400) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}"'
        f' fill="{_WORDS}">{escape(words)}</text>'
    )
