"""The figures as CSV and as a report that a browser opens."""

import csv
import io
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sat3d.errors import UsageError
from sat3d.evaluation import MEASURES, EvaluateSettings, Evaluation, evaluate_all, parse_measures
from sat3d.interfaces import Embedding
from sat3d.measuring import svg
from sat3d.measuring.html import data_url, evaluation_html
from sat3d.measuring.tables import evaluation_csv, to_csv
from sat3d.testing import STRIPES, ToyGenerator, ToyReader, ToySegmenter, part_masks, toy_masks

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
QUICK = EvaluateSettings(
    pairs=12, bank=40, multi_view_pairs=4, curve_pairs=4, curve=(0.0, 1.0, 2.0), measure=MEASURES
)


class Seeing(ToyReader):
    """Sees the colours themselves; the frame's tells who is shown."""

    asked = 0

    def embed(self, image: Tensor) -> Embedding:
        type(self).asked += len(image)
        masks = part_masks(*image.shape[-2:]).to(image)
        colours = torch.einsum("bchw,phw->bpc", image, masks) / masks.sum(dim=(1, 2))[:, None]
        parts = {name: colours[:, k] for k, name in enumerate(STRIPES)}
        return Embedding(self.read(image), parts, colours.flatten(1), colours[:, 3])


def run(settings: EvaluateSettings = QUICK, reader: ToyReader | None = None) -> Evaluation:
    generator = ToyGenerator(is_3d=True)
    masks = toy_masks(generator)
    return evaluate_all(generator, masks, reader or Seeing(), ToySegmenter(), settings, examples=2)


@pytest.fixture(scope="module")
def found() -> Evaluation:
    return run()


def test_every_figure_that_was_asked_for_is_there(found: Evaluation) -> None:
    mean = found.figures["mean"]
    for key in ("detail", "identity", "preservation", "reprojection"):
        assert mean[key] is not None, key
        low, high = found.figures["intervals"]["mean"][key]
        assert low <= mean[key] <= high
    assert mean["detail"] > 0.9  # the right masks give the reference's very colour
    assert mean["identity"] > 0.95  # and do not touch the frame
    assert mean["preservation"] > 0.95
    assert "lpips" not in mean
    assert any("LPIPS" in note for note in found.figures["notes"])
    assert found.figures["unedited"].keys() >= {"reprojection", "multi_view"}


def test_curves_start_at_no_edit_and_use_what_is_measured_already(found: Evaluation) -> None:
    for name, points in found.figures["curves"].items():
        assert [point["intensity"] for point in points] == [0.0, 1.0, 2.0]
        assert points[0]["success"] == points[0]["leakage"] == 0.0
        assert points[1]["success"] >= 0.75, name


def test_leaks_go_from_each_attribute_to_each_other(found: Evaluation) -> None:
    for name, leaks in found.figures["leaks_to"].items():
        assert set(leaks) == set(STRIPES) - {name}
        mean = sum(leaks.values()) / 2
        assert mean == pytest.approx(found.figures["attributes"][name]["leakage"])


def test_each_image_is_looked_at_once() -> None:
    Seeing.asked = 0
    settings = QUICK.model_copy(update={"measure": ("detail", "identity", "kid", "curves")})
    run(settings)
    # The bank and the edits; the sides and the curves need values alone.
    assert Seeing.asked == 40 + 3 * 12


def test_without_an_embedding_detail_is_measured_on_the_probabilities() -> None:
    figures = run(reader=ToyReader()).figures
    assert figures["mean"]["detail"] > 0.5
    assert figures["mean"]["identity"] is None


def test_one_seed_is_one_report_but_for_the_seconds(found: Evaluation) -> None:
    texts = []
    for figures in (found.figures, run().figures):
        texts.append(json.dumps({k: v for k, v in figures.items() if k != "seconds"}))
    assert texts[0] == texts[1]


def test_measures_are_named_or_all_or_core() -> None:
    assert parse_measures("core") == ()
    assert parse_measures("all") == parse_measures("core,all") == MEASURES
    assert parse_measures("kid, detail") == ("detail", "kid")
    with pytest.raises(UsageError, match="unknown figure 'detial'. Did you mean 'detail'"):
        parse_measures("detial")


def test_csv_has_a_row_for_each_figure(found: Evaluation) -> None:
    rows = list(csv.DictReader(io.StringIO(evaluation_csv(found.figures).decode())))
    assert len(rows) == (len(STRIPES) + 1) * len(found.figures["mean"])
    one = next(r for r in rows if r["attribute"] == "top" and r["figure"] == "success")
    assert float(one["value"]) == found.figures["attributes"]["top"]["success"]
    assert float(one["low"]) <= float(one["value"]) <= float(one["high"])
    precision = next(r for r in rows if r["figure"] == "precision")
    assert precision["low"] == ""  # no mean over pairs


def test_csv_quotes_what_would_break_it() -> None:
    assert to_csv(("a", "b"), [('x,"y"', None)]) == b'a,b\n"x,""y""",\n'


# ---------------------------------------------------------------- HTML


class _Tags(HTMLParser):
    """All (tag, attributes), and whether every tag is closed in order."""

    VOID = frozenset({"meta", "link", "img", "line", "rect", "circle", "polyline"})

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parse(page: bytes) -> _Tags:
    tags = _Tags()
    tags.feed(page.decode())
    assert tags.open == []
    return tags


def test_the_report_is_whole_in_one_file(found: Evaluation) -> None:
    page = evaluation_html(found)
    tags = parse(page).tags
    images = [attrs for tag, attrs in tags if tag == "img"]
    assert len(images) == 3 * 2 * len(STRIPES)
    assert all(str(a["src"]).startswith("data:image/jpeg;base64,") and a["alt"] for a in images)
    assert sum(tag == "svg" for tag, _ in tags) == 4
    for tag, attrs in tags:
        assert tag != "script"
        for key in ("src", "href"):
            assert str(attrs.get(key) or "data:").startswith("data:"), (tag, attrs)
    assert not re.search(rb"url\(|@import", page)


def test_names_from_outside_do_not_become_markup(found: Evaluation) -> None:
    figures: Mapping[str, Any] = {
        **found.figures,
        "masks": {"path": "<script>alert(1)</script>", "fingerprint": ""},
        "notes": ["<b>"],
    }
    page = evaluation_html(Evaluation(dict(figures), {"<i>": found.examples["top"]}))
    assert b"<script" not in page
    assert b"<b>" not in page
    assert b"<i>" not in page


def test_a_report_of_the_core_figures_alone_has_no_curves() -> None:
    page = evaluation_html(run(QUICK.model_copy(update={"measure": ()})))
    assert b"<h2>Intensity</h2>" not in page
    parse(page)


def test_a_plot_puts_values_where_they_belong() -> None:
    text = svg.dots("t", ["a"], {"s": [(0.5, 0.25, 0.75)], "u": [None]})
    ys = [float(y) for y in re.findall(r'c?y[12]?="([\d.]+)"', text)]
    centre = float(re.findall(r'cy="([\d.]+)"', text)[0])
    assert min(ys) <= centre <= max(ys)
    low, high = re.findall(r'y1="([\d.]+)" y2="([\d.]+)" stroke="#3', text)[0]
    assert centre == pytest.approx((float(low) + float(high)) / 2)
    assert text.count("<circle") == 1
    curve = svg.lines("t", {"s": [(0.0, 0.0), (1.0, 1.0)]}, "x")
    first, last = re.findall(r'points="([\d.]+),([\d.]+) ([\d.]+),([\d.]+)"', curve)[0][1::2]
    assert float(first) > float(last)  # up is less
    assert "0.250" in svg.matrix("t", ["a"], ["b"], {("a", "b"): 0.25})


def test_negative_figures_get_an_axis_below_zero() -> None:
    assert ">-1<" in svg.dots("t", ["a"], {"s": [(-0.5, -0.6, -0.4)]})


def _browser() -> str | None:
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


@pytest.mark.skipif(_browser() is None, reason=f"none of {', '.join(BROWSERS)} is installed")
def test_a_browser_opens_the_report_without_complaint(found: Evaluation, tmp_path: Path) -> None:
    """The page as it is must be silent; a probe added to a copy tells whether pictures load."""
    page = evaluation_html(found).decode()
    probe = (
        "<script>addEventListener('load', () => { const all = [...document.images];"
        "const ok = all.filter(i => i.complete && i.naturalWidth > 0).length;"
        "const plots = [...document.querySelectorAll('svg')]"
        ".filter(s => s.getBoundingClientRect().height > 50).length;"
        "document.body.dataset.probe = `${ok}/${all.length} ${plots}`; });</script></body>"
    )
    (tmp_path / "plain.html").write_text(page)
    (tmp_path / "probe.html").write_text(page.replace("</body>", probe))
    _, complaints = _open(tmp_path / "plain.html", tmp_path)
    assert complaints == []
    dom, complaints = _open(tmp_path / "probe.html", tmp_path)
    assert complaints == []
    assert 'data-probe="18/18 4"' in dom
    # The check can fail: a broken picture and an error are noticed.
    broken = page.replace("</body>", f"<script>oops()</script>{probe}")
    broken = broken.replace("data:image/jpeg;base64,", "missing/", 1)
    (tmp_path / "broken.html").write_text(broken)
    dom, complaints = _open(tmp_path / "broken.html", tmp_path)
    assert 'data-probe="17/18 4"' in dom
    assert any("oops is not defined" in line for line in complaints)


def _open(page: Path, folder: Path) -> tuple[str, list[str]]:
    """(document after loading, console messages and failed loads)."""
    browser = _browser()
    assert browser is not None
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         "--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}",
         "--run-all-compositor-stages-before-draw", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    lines = done.stderr.splitlines()
    return done.stdout, [x for x in lines if "CONSOLE" in x or "ERR_" in x]


def test_a_picture_survives_the_way_into_the_page() -> None:
    import base64

    from PIL import Image

    image = torch.full((3, 16, 16), 0.5)
    data = base64.b64decode(data_url(image).split(",", 1)[1])
    pixel = Image.open(io.BytesIO(data)).getpixel((8, 8))
    assert pixel == pytest.approx((191, 191, 191), abs=2)  # JPEG
