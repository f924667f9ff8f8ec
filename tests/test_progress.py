"""Progress: silent in the library, seldom lines in a pipe, bars on a terminal."""

import io

import pytest

from sat3d.progress import SILENT, Live, Plain, clock_text, open_progress, values_text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_stream_decides_what_is_shown():
    assert isinstance(open_progress(io.StringIO()), Plain)
    assert isinstance(open_progress(Terminal()), Live)
    assert open_progress(Terminal(), quiet=True) is SILENT


def test_the_library_is_silent(capsys):
    with SILENT.phase("work", 3) as phase:
        phase.advance(values={"loss": 1.0})
        SILENT.note("nothing")
    assert capsys.readouterr() == ("", "")


def test_plain_lines_are_seldom_and_hold_losses_speed_and_time_left():
    stream, clock = io.StringIO(), Clock()
    with Plain(stream, clock).phase("training", 100) as phase:
        for _ in range(100):
            clock.now += 0.5
            phase.advance(values={"ref": 0.25})
    lines = stream.getvalue().splitlines()
    assert lines == [
        "training ...",
        "training 30/100  ref 0.25  2/s  0:35 left",
        "training 60/100  ref 0.25  2/s  0:20 left",
        "training 90/100  ref 0.25  2/s  0:05 left",
        "training 100/100  ref 0.25  2/s  took 0:50",
    ]


def test_a_resumed_phase_counts_what_was_done_before_but_not_into_the_speed():
    stream, clock = io.StringIO(), Clock()
    with Plain(stream, clock).phase("training", 100, start=90) as phase:
        clock.now += 20
        phase.advance(5)
    assert "training 95/100  0.25/s  0:20 left" in stream.getvalue()


def test_a_phase_that_fails_claims_no_end():
    stream = io.StringIO()
    with pytest.raises(ValueError, match="stop"), Plain(stream).phase("training", 10):
        raise ValueError("stop")
    assert "took" not in stream.getvalue()


def test_a_live_bar_shows_the_description_the_count_and_the_losses():
    stream = Terminal()
    live = Live(stream)
    with live.phase("training", 10) as phase:
        for _ in range(10):
            phase.advance(values={"ref": 0.25})
        live.note("kept [bold]as it is[/bold]")
    text = stream.getvalue()
    assert "training" in text
    assert "10/10" in text
    assert "kept [bold]as it is[/bold]" in text


def test_values_and_times_in_words():
    assert values_text({"ref": 0.12345, "src": 4.56e-05}) == "ref 0.123 src 4.56e-05"
    assert [clock_text(s) for s in (0, 59.6, 3600, -1)] == ["0:00", "1:00", "1:00:00", "0:00"]
