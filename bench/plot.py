"""The two pictures of docs/bench.md, as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from bench.measure import Result

COLOURS = ("#9aa0a6", "#c2185b", "#1e88e5", "#43a047", "#fb8c00", "#8e24aa", "#6d4c41", "#546e7a")
WIDTH, BAR, GAP, LEFT, HEADLINE = 760, 11, 26, 210, 24


def _document(height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" '
        'font-family="sans-serif" font-size="11">\n'
        f'<rect width="{WIDTH}" height="{height:.0f}" fill="white"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _text(x: float, y: float, text: str, anchor: str = "start", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(text)}</text>'


def costs(results: Sequence[Result], names: Sequence[str]) -> str:
    """A group of bars for each work: the cost relative to sockd's, cut at `most`."""
    most = 4.0
    unit = (WIDTH - LEFT - 60) / most
    parts = [
        _text(LEFT, 16, "CPU of the server per request, relative to sockd (line); microseconds")
    ]
    y = float(HEADLINE + 6)
    for result in results:
        base = result.costs.get("sockd")
        if not base:
            continue
        shown = [name for name in names if name in result.costs]
        parts.append(_text(LEFT - 78, y + len(shown) * BAR / 2 + 4, result.title, "end"))
        for name in shown:
            cost = result.costs[name]
            width = min(cost / base, most) * unit
            colour = COLOURS[names.index(name) % len(COLOURS)]
            small = ' font-size="9"'
            parts.append(_text(LEFT - 4, y + 9, name, "end", small))
            parts.append(
                f'<rect x="{LEFT}" y="{y:.1f}" width="{width:.1f}" height="{BAR - 2}" '
                f'fill="{colour}"/>'
            )
            beyond = " →" if cost / base > most else ""
            parts.append(_text(LEFT + width + 4, y + 9, f"{cost:.1f}{beyond}", "start", small))
            y += BAR
        y += GAP - BAR
    line = LEFT + unit
    parts.append(
        f'<line x1="{line:.1f}" y1="{HEADLINE}" x2="{line:.1f}" y2="{y:.1f}" stroke="#333" '
        'stroke-dasharray="3 3"/>'
    )
    return _document(y, parts)


def connections(points: Mapping[int, tuple[float, float]]) -> str:
    """Two lines over the number of connections, on a logarithmic axis: C's cost and sockd's."""
    left, right, top, bottom = 60, WIDTH - 90, 34, 280
    most = max(max(pair) for pair in points.values()) * 1.15
    span = math.log(max(points)) - math.log(min(points)) or 1

    def x(count: int) -> float:
        return left + (math.log(count) - math.log(min(points))) / span * (right - left)

    def y(cost: float) -> float:
        return bottom - cost / most * (bottom - top)

    parts = [_text(left, 16, "microseconds of CPU per request, by number of connections")]
    step = 10 ** math.floor(math.log10(most / 2))
    step *= 5 if most / step > 25 else 2 if most / step > 10 else 1
    for tick in range(int(most / step) + 1):
        parts.append(
            f'<line x1="{left}" y1="{y(tick * step):.1f}" x2="{right}" y2="{y(tick * step):.1f}" '
            'stroke="#ddd"/>'
        )
        parts.append(_text(left - 6, y(tick * step) + 4, f"{tick * step:g}", "end"))
    for count in points:
        parts.append(_text(x(count), bottom + 18, f"{count:,}", "middle"))
    for which, (name, colour) in enumerate((("C", COLOURS[0]), ("sockd", COLOURS[1]))):
        path = " ".join(f"{x(n):.1f},{y(pair[which]):.1f}" for n, pair in points.items())
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        last = max(points)
        parts.append(_text(x(last) + 6, y(points[last][which]) + 4, name))
    return _document(bottom + 34, parts)
