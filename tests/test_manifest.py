"""Lists of pairs: what is read, and that nothing bad gets through."""

import os
from pathlib import Path

import pytest

from sat3d.artifact import Masks
from sat3d.errors import InputError
from sat3d.images import write_png
from sat3d.latents import from_seed
from sat3d.manifest import read_manifest
from sat3d.testing import ToyGenerator, toy_masks
from sat3d.transfers import draw

HEADER = "source,reference,attributes,intensity,name\n"


@pytest.fixture
def masks() -> Masks:
    return toy_masks(ToyGenerator())


@pytest.fixture
def read(tmp_path: Path, masks: Masks):
    def run(text: str | bytes, intensity: float = 1.0):
        path = tmp_path / "pairs.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_manifest(path, masks, intensity)

    return run


def test_rows_hold_what_the_columns_say_in_any_order_and_case(read):
    found = read("Name, Attribute ,reference,SOURCE\none,TOP; middle,seed:8,seed:3\n", 1.5)
    (row,) = found.rows
    assert not found.problems
    assert (row.line, row.name, row.source, row.reference) == (2, "one", "seed:3", "seed:8")
    assert row.attributes == ("top", "middle"), "by the pack's own names"
    assert row.intensity == 1.5, "the one given, as the list has none"


def test_lines_are_counted_with_blank_and_quoted_ones(read):
    rows = '"seed:3",seed:8,"top\n",a\nseed:x,b.png,top,b\n'
    text = f"\ufeffsource,reference,attributes,name\n\n,,,\n{rows}"
    found = read(text)
    assert [(row.line, row.name) for row in found.rows] == [(4, "a")]
    assert found.problems[0].startswith("line 6: 'seed:x': after seed:")


def test_a_name_is_made_from_the_number_of_the_pair(read):
    found = read("source,reference,attributes\nseed:1,seed:2,top\nseed:1,seed:3,top\n")
    assert [row.name for row in found.rows] == ["pair-000001", "pair-000002"]


def test_paths_are_relative_to_the_list(read, tmp_path: Path):
    generator = ToyGenerator()
    (tmp_path / "in").mkdir()
    write_png(tmp_path / "in" / "a.png", draw(generator, from_seed(generator, 1)))
    row = read(f"{HEADER}in/a.png,seed:1,top,,\n").rows[0]
    assert Path(row.source) == tmp_path / "in" / "a.png"


BAD = [
    ("seed:1,seed:2,topp,,", "Did you mean 'top'"),
    ("seed:1,seed:2,,,", "no attribute"),
    ("seed:1,seed:2,top;top,,", "twice"),
    ("seed:1,,top,,", "is missing"),
    ("seed:1,gone.png,top,,", "does not exist"),
    ("seed:1,../../etc/passwd,top,,", "is no source"),
    ("seed:1,seed:2,top,much,", "is no number"),
    ("seed:1,seed:2,top,nan,", "outside -100 to 100"),
    ("seed:1,seed:2,top,,../evil", "cannot be a file name"),
    ("seed:1,seed:2,top,,.hidden", "cannot be a file name"),
    ("seed:1,seed:2,top,,C:x", "cannot be a file name"),
    ("seed:1,seed:2,top,,GOOD", "is that of line 2"),
    ("seed:1,seed:2,top", "3 cells do not fit"),
    ("seed:1,seed:2,top,,x,extra", "6 cells do not fit"),
]


@pytest.mark.parametrize(("line", "message"), BAD)
def test_a_bad_row_is_named_by_its_line_and_the_others_stay(read, line: str, message: str):
    found = read(f"{HEADER}seed:1,seed:2,top,,good\n{line}\nseed:5,seed:6,middle,2,last\n")
    assert [row.name for row in found.rows] == ["good", "last"]
    (problem,) = found.problems
    assert problem.startswith("line 3: ") and message in problem
    assert "\n" not in problem


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (HEADER, "no pairs"),
        ("source;reference;attributes\nseed:1;seed:2;top\n", "divided by commas"),
        ("source,reference\nseed:1,seed:2\n", "lacks 'attributes'"),
        ("source,reference,attributes,colour\n", "does not know 'colour'"),
        ("source,reference,attribute,attributes\n", "has 'attributes' twice"),
        (b"source,reference,attributes\nseed:1,\xff,top\n", "not UTF-8 text (line 2)"),
        (f'{HEADER}"seed:1,seed:2,top,,\n', "line 2"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused_in_one_line(read, text, message: str):
    with pytest.raises(InputError) as caught:
        read(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_list_and_a_folder_are_refused(tmp_path: Path, masks: Masks):
    for path in (tmp_path / "gone.csv", tmp_path):
        with pytest.raises(InputError, match="cannot read manifest"):
            read_manifest(path, masks)


def test_a_pipe_is_refused_and_not_waited_for(masks: Masks, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(InputError, match="is not a file"):
        read_manifest(tmp_path / "pipe.csv", masks)
