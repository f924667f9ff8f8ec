"""Small plots as inline SVG: no script, no font, no file of their own."""

from collections.abc import Mapping, Sequence
from html import escape

INKS = ("#3b6fb6", "#c8553d", "#4f9d69", "#8d5a97", "#b98b1d", "#3d8b99", "#7a7f87", "#a24a6a")
_GRID, _TEXT = "#e2e4e8", "#5a5e66"
_LEFT, _TOP, _BOTTOM = 48, 16, 40

Point = tuple[float, float, float]
"""Value, low, high."""


def dots(
    title: str, names: Sequence[str], series: Mapping[str, Sequence[Point | None]], top: float = 1.0
) -> str:
    """Values with their intervals: one place for each name, one colour for each series."""
    width, height = max(420, _LEFT + 96 * len(names)), 260
    frame = _Frame(width, height, 0.0, max(1, len(names)), _low(series), top)
    body = [frame.axes(_ticks(frame.low, top))]
    for k, name in enumerate(names):
        body.append(_label(frame.x(k + 0.5), height - _BOTTOM + 18, name))
    for s, points in enumerate(series.values()):
        shift = (s + 1) / (len(series) + 1)
        for k, point in enumerate(points):
            if point is not None:
                body.append(_whisker(frame, k + shift, point, INKS[s % len(INKS)]))
    legend, more = _legend(list(series), width, height)
    return _svg(title, width, height + more, [*body, legend])


def lines(
    title: str, series: Mapping[str, Sequence[tuple[float, float]]], across: str, top: float = 1.0
) -> str:
    """Curves of (x, y) points, one colour for each; ``across`` names the x axis."""
    width, height = 420, 260
    xs = [x for points in series.values() for x, _ in points] or [0.0, 1.0]
    left, right = min(xs), max(xs)
    frame = _Frame(width, height, left, right if right > left else left + 1.0, 0.0, top)
    body = [frame.axes(_ticks(0.0, top))]
    for k in range(6):
        x = left + (frame.right - left) * k / 5
        body.append(_label(frame.x(x), height - _BOTTOM + 16, f"{x:g}"))
    body.append(_label(frame.x((left + frame.right) / 2), height - _BOTTOM + 33, across))
    for s, points in enumerate(series.values()):
        ink = INKS[s % len(INKS)]
        path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)
        body.append(f'<polyline points="{path}" fill="none" stroke="{ink}" stroke-width="2"/>')
    legend, more = _legend(list(series), width, height)
    return _svg(title, width, height + more, [*body, legend])


def matrix(
    title: str, rows: Sequence[str], columns: Sequence[str], cells: Mapping[tuple[str, str], float]
) -> str:
    """A table of shares from 0 to 1, darker where larger; missing cells stay empty."""
    left, size, step = 110, 72, 30
    width, height = left + size * len(columns) + 8, 34 + step * len(rows) + 8
    body = [_label(left + size * (c + 0.5), 22, name) for c, name in enumerate(columns)]
    for r, row in enumerate(rows):
        y = 34 + step * r
        body.append(_label(left - 8, y + 19, row, "end"))
        for c, column in enumerate(columns):
            value = cells.get((row, column))
            if value is None:
                continue
            share = min(1.0, max(0.0, value))
            shade = f"{0.05 + 0.95 * share:.3f}"
            ink = "#fff" if share > 0.5 else "#202124"
            body.append(
                f'<rect x="{left + size * c + 1}" y="{y + 1}" width="{size - 2}"'
                f' height="{step - 2}" rx="3" fill="#c8553d" fill-opacity="{shade}"/>'
            )
            body.append(_label(left + size * (c + 0.5), y + 19, f"{value:.3f}", ink=ink))
    return _svg(title, width, height, body)


class _Frame:
    """Places of values inside the axes."""

    def __init__(
        self, width: int, height: int, left: float, right: float, low: float, top: float
    ) -> None:
        self.width, self.height = width, height
        self.left, self.right, self.low, self.top = left, right, low, top

    def x(self, value: float) -> float:
        room = self.width - _LEFT - 12
        return _LEFT + room * (value - self.left) / (self.right - self.left)

    def y(self, value: float) -> float:
        room = self.height - _TOP - _BOTTOM
        inside = min(max(value, self.low), self.top)
        return _TOP + room * (self.top - inside) / (self.top - self.low)

    def axes(self, ticks: Sequence[float]) -> str:
        """Horizontal lines with their values."""
        parts = []
        for tick in ticks:
            y = self.y(tick)
            parts.append(
                f'<line x1="{_LEFT}" x2="{self.width - 12}" y1="{y:.1f}" y2="{y:.1f}"'
                f' stroke="{_GRID}"/>' + _label(_LEFT - 6, y + 4, f"{tick:g}", "end")
            )
        return "".join(parts)


def _low(series: Mapping[str, Sequence[Point | None]]) -> float:
    """0, or -1 where something is negative."""
    lows = [point[1] for points in series.values() for point in points if point is not None]
    return -1.0 if min(lows, default=0.0) < 0 else 0.0


def _ticks(low: float, top: float) -> list[float]:
    return [round(low + (top - low) * k / 5, 4) for k in range(6)]


def _whisker(frame: _Frame, x: float, point: Point, ink: str) -> str:
    value, low, high = (frame.y(y) for y in point)
    place = frame.x(x)
    return (
        f'<line x1="{place:.1f}" x2="{place:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="{ink}"'
        f' stroke-width="2"/><circle cx="{place:.1f}" cy="{value:.1f}" r="4" fill="{ink}"/>'
    )


def _label(x: float, y: float, text: str, anchor: str = "middle", ink: str = _TEXT) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="12" fill="{ink}">'
        f"{escape(text)}</text>"
    )


def _legend(names: Sequence[str], width: int, top: int) -> tuple[str, int]:
    """Names with their colours in as many lines as they need, and the height of these."""
    parts, x, y = [], float(_LEFT), top + 9
    for k, name in enumerate(names):
        room = 24 + 6.8 * len(name)
        if x + room > width and x > _LEFT:
            x, y = float(_LEFT), y + 18
        ink = INKS[k % len(INKS)]
        parts.append(f'<rect x="{x:.0f}" y="{y - 9}" width="9" height="9" fill="{ink}"/>')
        parts.append(_label(x + 13, y, name, "start"))
        x += room
    return "".join(parts), y + 9 - top


def _svg(title: str, width: int, height: int, body: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img"'
        f' aria-label="{escape(title)}"><title>{escape(title)}</title>{"".join(body)}</svg>'
    )
