"""``sat3d weights``: the commands, and pulling with a list of the test's own."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sat3d import importing, pull, registry, store
from sat3d.cli.app import run
from sat3d.hookspecs import hookimpl
from sat3d.specs import WeightsListSpec
from sat3d.weights import load_weights, save_weights

COMMANDS = ("list", "show", "pull", "import", "remove", "path")


@dataclass
class World:
    """A store, a folder that stands for the web, and a list that names two files in it."""

    store: Path
    web: Path
    listed: Path

    def publish(self, name: str, data: bytes, **changes: object) -> None:
        """Put a file in the web and rewrite the list."""
        self.web.mkdir(exist_ok=True)
        (self.web / name).write_bytes(data)
        entries = [
            {
                "name": f"toy-{kind}",
                "title": "Toy weights",
                "domain": "stripes",
                "file": f"toy.{kind}",
                "page": "https://example.org/toy",
                "addresses": [f"https://example.org/toy.{kind}"],
                "licence": "Toy Licence 1.0",
                "licence_url": "https://example.org/licence",
                "commercial": "yes" if kind == "pkl" else "no",
                "goes_with": {"segmenter": "none"},
                **changes,
            }
            for kind in ("safetensors", "pkl")
        ]
        data_ = {"kind": "generator", "plugin": "toy", "weights": entries}
        self.listed.write_text(json.dumps(data_))  # JSON is YAML

    @property
    def mirror(self) -> str:
        return self.web.as_uri() + "/"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path / "store", tmp_path / "web", tmp_path / "list.yaml")
    monkeypatch.setenv("SAT3D_WEIGHTS", str(made.store))
    monkeypatch.delenv("SAT3D_OFFLINE", raising=False)
    weights = tmp_path / "made.safetensors"
    save_weights(weights, {"x": torch.ones(3)}, {"architecture": "toy"})
    made.publish("toy.safetensors", weights.read_bytes())

    @hookimpl
    def register_weights(register: Any) -> None:
        register(WeightsListSpec("toy", "toys", made.listed))

    with registry.registered("toy", SimpleNamespace(register_weights=register_weights)):
        yield made


def pulled(world: World, *more: str, name: str = "toy-safetensors") -> int:
    return run(["weights", "pull", name, "--mirror", world.mirror, "--quiet", *more])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(capsys, command):
    assert run(["weights", command, "--help"]) == 0
    assert f"\n    sat3d weights {command}" in capsys.readouterr().out


def test_the_list_says_what_is_here_and_commercial_ok_hides_the_rest(world, capsys):
    assert pulled(world, "--accept-licence") == 0
    save_weights(world.store / "mine.safetensors", {"x": torch.ones(1)}, {})
    capsys.readouterr()
    assert run(["weights", "list"]) == 0
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert lines["toy-safetensors"][1:4] == ["toy", "yes", "no"]
    assert lines["toy-pkl"][1:4] == ["toy", "no", "yes"]
    assert lines["mine"][1:3] == ["-", "yes"]
    assert "eg3d-ffhq512-128" in lines
    assert run(["weights", "list", "--commercial-ok", "--json"]) == 0
    shown = [row["name"] for row in json.loads(capsys.readouterr().out)["weights"]]
    assert shown == ["toy-pkl", "mine"]


def test_a_broken_list_is_named(world, capsys):
    world.listed.write_text("kind: nonsense")
    assert run(["weights", "list"]) == 0
    assert "problem: plugin 'toy' (by hand)" in capsys.readouterr().out


def test_show_tells_licence_addresses_and_what_is_in_the_store(world, capsys):
    assert run(["weights", "show", "toy-pkl"]) == 0
    out = capsys.readouterr().out
    assert "licence: Toy Licence 1.0\nlicence url: https://example.org/licence\n" in out
    assert "goes with:\n  segmenter: none\n" in out
    pulled(world, "--accept-licence")
    capsys.readouterr()
    assert run(["weights", "show", "toy-safetensors", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["path"] == str(world.store / "toy-safetensors.safetensors")
    assert facts["header"]["architecture"] == "toy"
    assert facts["pulled"]["address"] == world.mirror + "toy.safetensors"
    assert run(["weights", "show", "toy-pkg"]) == 2
    assert "Did you mean 'toy-pkl'" in capsys.readouterr().err


def test_pull_needs_the_licence_once(world, capsys):
    assert pulled(world) == 2
    error = capsys.readouterr().err
    assert "Toy Licence 1.0, https://example.org/licence" in error
    assert "--accept-licence" in error
    assert not world.store.exists() or store.names() == []
    assert pulled(world, "--accept-licence") == 0
    assert run(["weights", "remove", "toy-safetensors"]) == 0
    assert pulled(world) == 0, "accepted once is accepted"
    record = pull.read_records()["licences"]["https://example.org/licence"]
    assert record["licence"] == "Toy Licence 1.0"


def test_a_licence_that_changed_is_asked_for_again(world):
    assert pulled(world, "--accept-licence") == 0
    run(["weights", "remove", "toy-safetensors"])
    world.publish("x", b"", licence="Toy Licence 2.0")
    assert pulled(world) == 2


def test_pulled_weights_are_found_by_name_and_a_second_pull_does_nothing(world, capsys):
    assert pulled(world, "--accept-licence") == 0
    out = capsys.readouterr().out
    digest = hashlib.sha256((world.web / "toy.safetensors").read_bytes()).hexdigest()
    assert f"sha256 {digest}: recorded, not known" in out
    tensors, header = load_weights(store.resolve("toy-safetensors"))
    assert torch.equal(tensors["x"], torch.ones(3))
    assert header["architecture"] == "toy"
    assert not (world.store / "downloads" / "toy-safetensors").exists()
    (world.web / "toy.safetensors").unlink()
    assert pulled(world) == 0
    assert "already here" in capsys.readouterr().out


def test_another_file_than_at_the_first_pull_is_refused_until_it_is_forgotten(world, capsys):
    assert pulled(world, "--accept-licence") == 0
    run(["weights", "remove", "toy-safetensors"])
    save_weights(world.web / "toy.safetensors", {"x": torch.zeros(3)}, {"architecture": "toy"})
    world.publish("unused", b"", addresses=[])
    capsys.readouterr()
    assert pulled(world) == 1
    error = capsys.readouterr().err
    assert "sha256 is" in error
    assert "weights remove toy-safetensors --forget" in error
    assert store.names() == []
    assert run(["weights", "remove", "toy-safetensors", "--forget"]) == 0
    assert pulled(world) == 0


def test_a_known_hash_is_checked(world, capsys):
    world.publish("unused", b"", addresses=[], sha256="0" * 64)
    assert pulled(world, "--accept-licence") == 1
    assert "not 0000" in capsys.readouterr().err
    digest = hashlib.sha256((world.web / "toy.safetensors").read_bytes()).hexdigest()
    world.publish("unused", b"", addresses=[], sha256=digest[:8])
    assert pulled(world, "--accept-licence") == 0
    assert "recorded" not in capsys.readouterr().out


def test_offline_uses_file_addresses_only(world, capsys):
    command = ["weights", "pull", "toy-safetensors", "--accept-licence", "--offline", "--quiet"]
    assert run(command) == 2
    error = capsys.readouterr().err
    assert "no network is allowed" in error
    assert "Get 'toy.safetensors' from https://example.org/toy by hand" in error
    assert run([*command, "--mirror", "https://example.org/"]) == 2
    assert run([*command, "--mirror", world.mirror + "toy.safetensors"]) == 0


def test_without_a_mirror_the_published_address_is_asked(world, capsys):
    # The tests have no network; the refusal shows who was asked.
    arguments = ["weights", "pull", "toy-pkl", "--accept-licence", "--quiet"]
    pull_ = pull.fetch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pull, "fetch", lambda *a, **k: pull_(*a, **{**k, "wait": 0}))
        assert run(arguments) == 1
    error = capsys.readouterr().err
    assert "https://example.org/toy.pkl" in error
    assert "get it from https://example.org/toy by hand" in error


@pytest.mark.parametrize("mirror", ["ftp://x/", "/folder/", "http://", "http://[", "x"])
def test_a_mirror_that_is_no_address_is_refused(world, capsys, mirror):
    assert run(["weights", "pull", "toy-pkl", "--accept-licence", "--mirror", mirror]) == 2
    assert f"mirror '{mirror}' cannot be used" in capsys.readouterr().err


def test_a_file_that_is_no_weights_file_does_not_enter_the_store(world, capsys):
    world.publish("toy.safetensors", b"not tensors", addresses=[])
    assert pulled(world, "--accept-licence") == 2
    assert "not a readable .safetensors" in capsys.readouterr().err
    assert store.names() == []


def test_a_checkpoint_is_imported_with_what_the_list_knows(world, monkeypatch):
    world.publish("toy.pkl", b"a pickle")
    seen = {}

    def import_file(path: Path, name: str, *, header: dict[str, Any]) -> None:
        seen.update(path=path, name=name, header=header, data=path.read_bytes())
        save_weights(store.path_of(name), {"x": torch.ones(1)}, header)

    monkeypatch.setattr(importing, "import_file", import_file)
    assert pulled(world, "--accept-licence", name="toy-pkl") == 0
    assert (seen["name"], seen["data"]) == ("toy-pkl", b"a pickle")
    assert seen["header"]["licence"] == "Toy Licence 1.0"
    assert seen["header"]["goes_with"] == {"segmenter": "none"}
    assert not seen["path"].exists()
    assert store.names() == ["toy-pkl"]


def test_a_failed_import_keeps_the_download_and_remove_drops_it(world, capsys):
    world.publish("toy.pkl", b"no pickle at all")
    assert pulled(world, "--accept-licence", name="toy-pkl") == 2
    kept = world.store / "downloads" / "toy-pkl" / "toy.pkl"
    assert kept.read_bytes() == b"no pickle at all"
    assert store.names() == []
    assert run(["weights", "remove", "toy-pkl"]) == 0
    assert not kept.exists()
    assert run(["weights", "remove", "toy-pkl"]) == 2


def test_path_prints_the_store_and_weights(world, capsys):
    assert run(["weights", "path"]) == 0
    assert capsys.readouterr().out == f"{world.store}\n"
    assert run(["weights", "path", "toy-pkl"]) == 2
    assert "Run: sat3d weights pull toy-pkl" in capsys.readouterr().err
    pulled(world, "--accept-licence")
    capsys.readouterr()
    run(["weights", "path", "toy-safetensors"])
    assert capsys.readouterr().out == f"{world.store / 'toy-safetensors.safetensors'}\n"


@pytest.mark.parametrize("command", ["path", "remove", "show", "pull"])
@pytest.mark.parametrize("name", ["../escape", "/etc/passwd", "a\nb", ""])
def test_hostile_names_are_refused(world, capsys, command, name):
    assert run(["weights", command, name]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_damaged_records_are_one_line(world, capsys):
    world.store.mkdir()
    (world.store / "records.json").write_text("{")
    assert pulled(world, "--accept-licence") == 2
    assert "records.json' cannot be read" in capsys.readouterr().err
    (world.store / "records.json").write_text('["odd"]')
    assert pulled(world, "--accept-licence") == 0


def test_listing_imports_neither_torch_nor_a_network_client():
    import subprocess
    import sys

    code = (
        "import sys; from sat3d.cli.app import run; code = run(['weights', 'list']); "
        "print(code, sorted({'torch', 'open_clip', 'httpx2', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


def test_training_takes_the_weights_that_go_with_the_generators(monkeypatch):
    from sat3d.cli import loading, train_command
    from sat3d.qmm import QMM

    roles = {
        "clip": "ViT-B-32-quickgelu",
        "clip_pretrained": "openai",
        "segmenter": "bisenet",
        "segmenter_weights": "bisenet-celebamask",
    }
    generator: Any = SimpleNamespace(card=SimpleNamespace(goes_with=roles), device="cpu")
    asked: list[Any] = []
    monkeypatch.setattr(QMM, "load", lambda pack, *rest: asked.append(rest[:2]))
    monkeypatch.setattr(registry, "load_segmenter", lambda *rest: asked.append(rest[:2]))
    train_command._qmm(None, None, None, generator, None)
    loading.find_segmenter(None, generator)
    assert asked == [("ViT-B-32-quickgelu", "openai"), ("bisenet", "bisenet-celebamask")]
    # Another model or segmenter brings its own.
    train_command._qmm("other", None, None, generator, None)
    loading.find_segmenter("other", generator)
    assert asked[2:] == [("other", None), ("other", None)]


def test_another_file_cannot_be_imported_under_a_published_name(world, tmp_path, capsys):
    file = tmp_path / "mine.safetensors"
    save_weights(file, {"x": torch.ones(1)}, {"architecture": "toy"})
    assert run(["weights", "import", str(file), "--name", "bisenet-celebamask"]) == 2
    assert "is not the file published as 'bisenet-celebamask'" in capsys.readouterr().err
    assert store.names() == []


@pytest.mark.parametrize(("answer", "code"), [(True, 0), (False, 2)])
def test_whoever_sits_there_is_asked_for_the_licence(world, monkeypatch, capsys, answer, code):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda *_, **__: answer)
    assert pulled(world) == code
    error = capsys.readouterr().err
    assert "licence: Toy Licence 1.0\ncommercial use: no\nhttps://example.org/licence" in error


def test_ctrl_c_during_a_pull_says_how_to_go_on(world, monkeypatch, capsys):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pull, "fetch", stop)
    assert pulled(world, "--accept-licence") == 130
    assert "run the same command again to go on" in capsys.readouterr().err
