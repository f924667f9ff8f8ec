"""Third-party plugins broken in every way that is known: one line each, and the others go on."""

import json

import pytest

from sat3d.cli.app import run

HEAD = "from pathlib import Path\nimport sat3d\nfrom sat3d import hookimpl\n"
HOOK = "\n\n@hookimpl\ndef register_{}(register):\n    "
GENERATOR = HOOK.format("generators") + "register(sat3d.GeneratorSpec('mine', 'x', {}))\n"
TOY = "__import__('sat3d.testing', fromlist=['x']).ToyGenerator()"
GOOD = HEAD + GENERATOR.format(f"lambda w, d: {TOY}")
MISSING = "__import__('sat3d.weights', fromlist=['x']).load_weights(Path('/no/such.safetensors'))"

BROKEN = {
    "an error while it is imported": ("1 / 0\n", "ZeroDivisionError: division by zero"),
    "an exit while it is imported": ("raise SystemExit(3)\n", "SystemExit: 3"),
    "a syntax error": ("def (\n", "SyntaxError"),
    "a dependency that is missing": (
        "import no_such_package\n",
        "ModuleNotFoundError: No module named 'no_such_package'",
    ),
    "a hook with wrong arguments": (
        HEAD + "\n\n@hookimpl\ndef register_generators(registr):\n    pass\n",
        "Argument(s) {'registr'} are declared in the hookimpl but can not be found in the hookspec",
    ),
    "a hook that does not exist": (
        HEAD + "\n\n@hookimpl\ndef register_generator(register):\n    pass\n",
        "unknown hook 'register_generator'",
    ),
    "a hook that fails": (
        HEAD + HOOK.format("generators") + "raise OSError('no disk')\n",
        "register_generators failed: OSError: no disk",
    ),
    "a spec of the wrong type": (
        HEAD + HOOK.format("generators") + "register('mine')\n",
        "registered 'mine', not a GeneratorSpec",
    ),
    "no hook at all": ("x = 1\n", "it implements no hook"),
    "a name that is taken": (
        HEAD + HOOK.format("generators") + "register(sat3d.GeneratorSpec('eg3d', 'x', print))\n",
        "generator 'eg3d' is already offered by plugin 'eg3d' of sat3d",
    ),
    "a loader that gives something else": (
        HEAD + GENERATOR.format("lambda w, d: 'no generator'"),
        "loads 'mine' as a str, not a sat3d.Generator",
    ),
    "a loader with wrong arguments": (
        HEAD + GENERATOR.format("lambda w: 0"),
        "cannot load 'mine': TypeError",
    ),
    "weights that are missing": (
        HEAD + GENERATOR.format(f"lambda w, d: {MISSING}"),
        "generator 'mine' does not load: no file '/no/such.safetensors'",
    ),
    "a text-image model without its files": (
        HEAD
        + HOOK.format("clip_models")
        + "register(sat3d.ClipSpec('mine', 'x', Path('/no/c.json'), Path('/no/w.safetensors')))\n",
        "clip model 'mine' (sat3d-bad 1.0): there is no file '/no/c.json'",
    ),
    "a pack that is not there": (
        HEAD
        + HOOK.format("descriptors")
        + "register(sat3d.DescriptorSpec('mine', 'x', Path('/no/pack.yaml')))\n",
        "descriptor pack 'mine': cannot read pack '/no/pack.yaml'",
    ),
    "a slow import": (
        "import time\ntime.sleep(2.2)\n" + HEAD + HOOK.format("generators") + "pass\n",
        "s to import, and every command waits for it",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_doctor_names_and_explains_it_and_all_others_go_on(how, installer, capsys):
    code, expected = BROKEN[how]
    installer.install("sat3d-bad", code, point="bad")
    installer.install("sat3d-good", GOOD.replace("'mine'", "'fine'"), point="good")
    assert run(["doctor", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    told = [line for line in report["problems"] if expected in line]
    assert len(told) == 1, report["problems"]
    assert "\n" not in told[0]
    others = [x for x in report["problems"] if "sat3d-bad" not in x and "'mine'" not in x]
    assert not [x for x in others if "plugin" in x], others
    assert report["facts"]["generator fine"] == "sat3d-good 1.0"
    assert report["facts"]["generator eg3d"].startswith("sat3d ")


def test_a_good_third_party_plugin_is_no_problem(installer, capsys):
    installer.install("sat3d-good", GOOD, point="good")
    run(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert not [line for line in report["problems"] if "good" in line or "mine" in line]
