"""The frame of the command line: help, errors, exit codes, what is imported."""

import json
import subprocess
import sys

import pytest

import sat3d
from sat3d.cli import app as frame
from sat3d.cli import plugins_command
from sat3d.errors import Interrupted, PluginError, Sat3dError, UsageError

COMMANDS = ("train", "transfer", "invert", "evaluate", "weights", "plugins", "doctor")


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Make ``sat3d plugins`` fail with this error."""

    def discover() -> None:
        raise error

    monkeypatch.setattr("sat3d.registry.discover", discover)


def test_help_lists_every_command(capsys):
    assert frame.run(["--help"]) == 0
    out = capsys.readouterr().out
    for command in COMMANDS:
        assert f"\n  {command} " in out


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_shows_examples(capsys, command):
    assert frame.run([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert "Example" in out
    assert f"\n    sat3d {command}" in out  # on a line of its own, not re-wrapped


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from sat3d.cli.app import run; code = run(sys.argv[1:]); "
        "heavy = {'torch', 'open_clip', 'numpy', 'PIL', 'yaml'}; "
        # Some versions of typer use these two themselves for the options of one command.
        "heavy |= {'pydantic', 'rich'} if sys.argv[1].startswith('--') else set(); "
        "print(code, sorted(heavy & set(sys.modules)))"
    )
    for arguments in (["--help"], ["--version"], *([command, "--help"] for command in COMMANDS)):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1] == "0 []", arguments


def test_listing_plugins_imports_neither_torch_nor_open_clip():
    code = (
        "import sys; from sat3d.cli.app import run; code = run(['plugins']); "
        "print(code, sorted({'torch', 'open_clip', 'numpy', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


def test_the_version_is_the_packages(capsys):
    assert frame.run(["--version"]) == 0
    assert capsys.readouterr().out == f"sat3d {sat3d.__version__}\n"


def test_python_dash_m_runs_the_command_line():
    done = subprocess.run(
        [sys.executable, "-m", "sat3d", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"sat3d {sat3d.__version__}\n"


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["plugins", "--nonsense"], ["plugins", "extra"], ["--nonsense"]]
)
def test_wrong_use_exits_2_and_says_so_on_standard_error(capsys, arguments):
    assert frame.run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Error" in captured.err


def test_no_arguments_show_the_help(capsys):
    frame.run([])
    captured = capsys.readouterr()
    assert "Commands:" in captured.out + captured.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Sat3dError("disk full"), 1),
        (PluginError("broken"), 1),
        (UsageError("unknown name"), 2),
        (Interrupted("stopped; saved in x"), 130),
    ],
)
def test_an_error_is_one_line_and_has_its_exit_code(monkeypatch, capsys, error, code):
    failing(monkeypatch, error)
    assert frame.run(["plugins"]) == code
    captured = capsys.readouterr()
    assert captured.err == f"error: {error}\n"
    assert captured.out == ""


def test_a_long_message_stays_on_one_line(monkeypatch, capsys):
    failing(monkeypatch, UsageError("word " * 100 + "end"))
    frame.run(["plugins"])
    assert capsys.readouterr().err.count("\n") == 1


def test_a_message_cannot_control_the_terminal(monkeypatch, capsys):
    failing(monkeypatch, UsageError("no file 'a\nb\x1b[2Jc\udcff[red]ü'"))
    frame.run(["plugins"])
    assert capsys.readouterr().err == "error: no file 'a\\nb\\x1b[2Jc\\udcff[red]ü'\n"


def test_an_unexpected_exception_is_one_line_that_names_debug(monkeypatch, capsys):
    failing(monkeypatch, ZeroDivisionError("by zero"))
    assert frame.run(["plugins"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("unexpected ZeroDivisionError: by zero; run with --debug")
    assert err.count("\n") == 1


def test_a_system_error_is_told_in_the_systems_words(monkeypatch, capsys):
    failing(monkeypatch, OSError(28, "No space left on device", "runs/a.png"))
    assert frame.run(["plugins"]) == 1
    assert capsys.readouterr().err == "error: No space left on device: 'runs/a.png'\n"


def test_ctrl_c_exits_130_without_a_traceback(monkeypatch, capsys):
    failing(monkeypatch, KeyboardInterrupt())
    assert frame.run(["plugins"]) == 130
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--debug", "plugins"], ["plugins", "--debug"]])
@pytest.mark.parametrize("error", [UsageError("wrong"), ZeroDivisionError("by zero")])
def test_debug_shows_the_traceback_wherever_it_stands(monkeypatch, capsys, arguments, error):
    failing(monkeypatch, error)
    assert frame.run(arguments) == (2 if isinstance(error, UsageError) else 1)
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert type(error).__name__ in err


def test_a_closed_pipe_is_no_traceback():
    script = f"{sys.executable} -m sat3d plugins | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


BROKEN = "import no_such_module_at_all"


def test_plugins_lists_offers_and_then_problems(capsys, installer):
    installer.install("sat3d-bad", BROKEN, version="3.1")
    assert frame.run(["plugins"]) == 0
    lines = capsys.readouterr().out.splitlines()
    faces = next(line for line in lines if " faces " in line)
    assert faces.split("  ")[0] == "descriptor pack"
    assert f"sat3d {sat3d.__version__}" in faces
    problem = next(line for line in lines if line.startswith("problem: plugin 'sat3d_bad'"))
    assert "(sat3d-bad 3.1): ModuleNotFoundError" in problem
    assert lines.index(faces) < lines.index(problem)


def test_plugins_as_json_can_be_read_by_programs(capsys, installer):
    installer.install("sat3d-bad", BROKEN)
    assert frame.run(["plugins", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    offer = next(o for o in data["offers"] if o["name"] == "faces")
    assert offer["kind"] == "descriptor pack"
    assert offer["distribution"] == "sat3d"
    assert offer["version"] == sat3d.__version__
    assert data["problems"][-1]["plugin"] == "sat3d_bad"


def test_what_plugins_say_cannot_control_the_terminal(capsys, installer):
    installer.install("sat3d-bad", "raise ValueError('\\x1b[2J')")
    frame.run(["plugins"])
    assert "ValueError: \\x1b[2J" in capsys.readouterr().out


def test_plugins_docstring_is_the_help(capsys):
    frame.run(["plugins", "--help"])
    assert plugins_command.plugins.__doc__ is not None
    assert plugins_command.plugins.__doc__.splitlines()[0] in capsys.readouterr().out
