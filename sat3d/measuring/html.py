"""A report to look at: one HTML file with its plots and pictures inside, without script."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from torch import Tensor

from sat3d.images import to_pil
from sat3d.measuring import svg

if TYPE_CHECKING:
    from sat3d.evaluation import Evaluation
    from sat3d.measuring.attribute import Example

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #202124; background: #fff;
  max-width: 1080px; margin: 40px auto; padding: 0 24px; }
h1 { font-size: 26px; margin: 0; } h2 { font-size: 19px; margin: 44px 0 12px; }
p.sub { color: #5a5e66; margin: 4px 0 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 9px; text-align: right; border-bottom: 1px solid #e2e4e8; }
th { font-weight: 600; } th:first-child, td:first-child { text-align: left; }
tr:last-child td { font-weight: 600; border-bottom: 0; }
td small { color: #5a5e66; display: block; font-weight: 400; white-space: nowrap;
  font-size: 11px; }
th, td { vertical-align: top; }
figure { display: inline-block; margin: 0 20px 20px 0; vertical-align: top; }
figcaption { color: #5a5e66; font-size: 13px; }
figure svg { display: block; max-width: 100%; height: auto; }
.wide { overflow-x: auto; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(310px, 1fr)); gap: 14px; }
.trio { display: flex; gap: 4px; } .trio div { flex: 1; text-align: center; }
.trio img { width: 100%; border-radius: 6px; display: block; }
.trio span { color: #5a5e66; font-size: 12px; }
pre { background: #f6f7f9; padding: 12px; overflow-x: auto; font-size: 12px; }
""".strip()


def evaluation_html(evaluation: "Evaluation") -> bytes:
    """The report of an evaluation, whole in one file."""
    report = evaluation.figures
    parts = [
        _head(report),
        "<h2>Figures</h2>",
        f'<div class="wide">{_table(report)}</div>',
        _notes(report),
        "<h2>Attribute by attribute</h2>",
        _figure(_bars(report), "Points are means over the pairs, lines their intervals."),
        "<h2>What changed beside the attribute</h2>",
        _figure(
            _leaks(report),
            "Row: the attribute that was transferred. Column: share of results in which this "
            "other attribute reads differently from the source's.",
        ),
        _curves(report),
        _pictures(evaluation.examples),
        "<h2>Settings</h2>",
        f"<pre>{escape(json.dumps(report['settings'], indent=2))}</pre>",
    ]
    return _page(f"Evaluation of {report['generator']['name']} masks", parts).encode()


def _page(title: str, parts: Sequence[str]) -> str:
    # An empty icon keeps a browser from asking a server for one.
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _head(report: Mapping[str, Any]) -> str:
    generator = report["generator"]
    masks = report["masks"].get("path", report["masks"]["fingerprint"][:12])
    words = (
        f"generator {generator['name']} ({generator['weights']}), masks {masks}, reader "
        f"{report['reader']}, {report['pairs']} pairs for each attribute, "
        f"seed {report['settings']['seed']}"
    )
    return f'<h1>How well the masks do</h1><p class="sub">{escape(words)}</p>'


def _table(report: Mapping[str, Any]) -> str:
    """Attributes by figures, each with its interval below."""
    keys = list(report["mean"])
    head = "".join(f"<th>{escape(key.replace('_', ' '))}</th>" for key in keys)
    rows = []
    for name, figures in {**report["attributes"], "mean": report["mean"]}.items():
        cells = "".join(f"<td>{_cell(report, name, key, figures.get(key))}</td>" for key in keys)
        rows.append(f"<tr><td>{escape(name)}</td>{cells}</tr>")
    if report["unedited"]:
        cells = "".join(f"<td>{_plain(report['unedited'].get(key))}</td>" for key in keys)
        rows.insert(0, f"<tr><td>images as they are</td>{cells}</tr>")
    return f"<table><tr><th>attribute</th>{head}</tr>{''.join(rows)}</table>"


def _cell(report: Mapping[str, Any], name: str, key: str, value: float | None) -> str:
    if value is None:
        return "&#8211;"
    bounds = _bounds(report, name, key)
    digits = 3 if bounds and bounds[1] < 0.1 else 2
    small = ""
    if bounds:
        small = f"<small>{bounds[0]:.{digits}f}&#8211;{bounds[1]:.{digits}f}</small>"
    return f"{value:.3f}{small}"


def _plain(value: Any) -> str:
    """A figure of unedited images: a number, or the mean of one for each attribute."""
    if isinstance(value, dict):
        value = sum(value.values()) / len(value)
    return "" if value is None else f"{value:.3f}"


def _bounds(report: Mapping[str, Any], name: str, key: str) -> Sequence[float] | None:
    known = report["intervals"]
    found: Sequence[float] | None = (
        known["mean"] if name == "mean" else known["attributes"][name]
    ).get(key)
    return found


def _notes(report: Mapping[str, Any]) -> str:
    lines = [*report["notes"], *(f"'{name}' is not read." for name in report["unmeasured"])]
    return "".join(f'<p class="sub">{escape(line)}</p>' for line in lines)


def _figure(plot: str, caption: str) -> str:
    return f'<figure class="wide">{plot}<figcaption>{escape(caption)}</figcaption></figure>'


def _bars(report: Mapping[str, Any]) -> str:
    shown = [
        key
        for key in ("success", "leakage", "multi_view", "detail", "identity")
        if report["mean"].get(key) is not None
    ]
    parts = {**report["attributes"], "mean": report["mean"]}
    series: dict[str, list[svg.Point | None]] = {key: [] for key in shown}
    for name, figures in parts.items():
        for key in shown:
            value = figures.get(key)
            low, high = _bounds(report, name, key) or (value, value)
            point = None if value is None or low is None else (value, low, high)
            series[key].append(point)
    return svg.dots("figures of each attribute", list(parts), series)


def _leaks(report: Mapping[str, Any]) -> str:
    names = list(report["attributes"])
    leaks = report["leaks_to"]
    seen = dict.fromkeys(other for found in leaks.values() for other in found)
    columns = [name for name in names if name in seen] + [x for x in seen if x not in names]
    cells = {(row, other): share for row in names for other, share in leaks[row].items()}
    return svg.matrix("leakage from each attribute to the others", names, columns, cells)


def _curves(report: Mapping[str, Any]) -> str:
    if not report["curves"]:
        return ""
    plots = []
    for key in ("success", "leakage"):
        series = {
            name: [(p["intensity"], p[key]) for p in points if p[key] is not None]
            for name, points in report["curves"].items()
        }
        caption = f"{key} of the first {report['settings']['curve_pairs']} pairs"
        plots.append(_figure(svg.lines(f"{key} by intensity", series, "intensity"), caption))
    return "<h2>Intensity</h2>" + "".join(plots)


def _pictures(examples: Mapping[str, Sequence["Example"]]) -> str:
    parts = []
    for name, found in examples.items():
        if found:
            trios = "".join(_trio(name, example) for example in found)
            parts.append(f'<h2>{escape(name)}</h2><div class="grid">{trios}</div>')
    return "".join(parts)


def _trio(name: str, example: "Example") -> str:
    images = {
        "source": example.source,
        "reference": example.reference,
        "result": example.result,
    }
    cells = "".join(
        f'<div><img src="{data_url(image)}" alt="{escape(name)}: {word}"><span>{word}</span></div>'
        for word, image in images.items()
    )
    return f'<div class="trio">{cells}</div>'


def data_url(image: Tensor) -> str:
    """[3, H, W] in [-1, 1] as the address of a JPEG that is the address itself."""
    buffer = io.BytesIO()
    to_pil(image).save(buffer, format="JPEG", quality=90, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
