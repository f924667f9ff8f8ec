"""The measuring module, on a tiny open_clip model with random weights."""

import json
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from sat3d.descriptors import DescriptorPack, parse_pack
from sat3d.errors import InputError, Sat3dError, UsageError
from sat3d.qmm import IDS, QMM, ROWS, WORDS, pack_words, unpack_words
from sat3d.registry import Catalogue, Offer
from sat3d.specs import ClipSpec

CPU = torch.device("cpu")
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {
        "context_length": 12,
        "vocab_size": 49408,
        "width": 16,
        "heads": 2,
        "layers": 1,
    },
}
PACK = {
    "name": "fruit",
    "title": "Fruit",
    "domain": "fruit",
    "template": "a bowl of {}",
    "attributes": [
        {
            "name": "kind",
            "title": "Kind",
            "groups": [
                {"name": "round", "phrases": ["apples", "plums", "melons"]},
                {"name": "ripe", "phrases": ["ripe fruit", "green fruit"]},
            ],
        },
        {
            "name": "amount",
            "title": "Amount",
            "groups": [{"name": "amount", "phrases": ["one piece", "two pieces"]}],
        },
    ],
    "pool": {
        "exclude": [{"name": "bad", "phrases": ["bad fruit", "good fruit"], "phrase": "bad fruit"}],
        "quotas": [
            {"name": "big", "phrases": ["small", "big", "huge"], "phrase": "big", "share": 0.4}
        ],
    },
}


def write_model(folder: Path, name: str, seed: int = 0) -> ClipSpec:
    """A plugin's model on disk: configuration and random weights."""
    config, weights = folder / f"{name}.json", folder / f"{name}.safetensors"
    config.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(config)
    torch.manual_seed(seed)
    model = open_clip.create_model(name, pretrained_text=False)
    save_file({k: v.contiguous().half() for k, v in model.state_dict().items()}, weights)
    return ClipSpec(name, "random", config, weights)


def offering(*specs: ClipSpec) -> Catalogue:
    return Catalogue(clip_models={s.name: Offer(s, "test", "test", "1") for s in specs})


@pytest.fixture(scope="module")
def pack() -> DescriptorPack:
    return parse_pack(PACK, "the test")


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ClipSpec:
    return write_model(tmp_path_factory.mktemp("clip"), "tiny-for-tests")


@pytest.fixture(scope="module")
def qmm(pack: DescriptorPack, spec: ClipSpec) -> QMM:
    return QMM.load(pack, spec.name, None, CPU, offering(spec))


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(3, 3, 40, 40, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_phrases_of_all_groups_stand_in_the_packs_order(qmm: QMM) -> None:
    assert qmm.group_sizes == (3, 2, 2)
    assert qmm.attribute_of_phrase.tolist() == [0, 0, 0, 0, 0, 1, 1]
    assert qmm.attribute_of_phrase.dtype == torch.int64


def test_phrases_are_encoded_in_the_packs_template(qmm: QMM, spec: ClipSpec) -> None:
    model = open_clip.create_model(spec.name, pretrained=str(spec.weights))
    tokens = open_clip.get_tokenizer(spec.name)(["a bowl of melons"])
    wanted = model.eval().encode_text(tokens, normalize=True)
    # The same float32 operations, only in another batch.
    assert torch.allclose(qmm.phrases[2:3], wanted, atol=1e-5)


def test_probabilities_are_a_softmax_within_each_group(qmm: QMM, image: torch.Tensor) -> None:
    embedding = qmm.encode_image(image)
    found = qmm.probabilities(embedding)
    assert found.shape == (3, 7)
    for group in found.split(qmm.group_sizes, dim=1):
        assert torch.allclose(group.sum(1), torch.ones(3), atol=1e-5)
    model = qmm._model
    scores = model.logit_scale.exp() * embedding @ qmm.phrases[3:5].T
    assert torch.allclose(found[:, 3:5], scores.softmax(1), atol=1e-5)
    assert torch.equal(found, qmm.measure(image))


def test_embeddings_have_length_one_whatever_the_images_size(qmm: QMM) -> None:
    for size in (24, 32, 70):
        embedding = qmm.encode_image(torch.rand(2, 3, size, size) * 2 - 1)
        assert embedding.shape == (2, 16)
        assert torch.allclose(embedding.norm(dim=1), torch.ones(2), atol=1e-5)


def test_an_image_is_measured_the_same_alone_and_in_a_batch(qmm: QMM, image: torch.Tensor) -> None:
    # Matrix products of another size may round differently in float32.
    assert torch.allclose(qmm.measure(image)[1:2], qmm.measure(image[1:2]), atol=1e-5)


def test_images_are_normalised_from_minus_one_to_one(qmm: QMM) -> None:
    grey = torch.zeros(1, 3, 32, 32)
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(3, 1, 1)
    std = torch.tensor(open_clip.OPENAI_DATASET_STD).view(3, 1, 1)
    wanted = qmm._model.encode_image((grey + 0.5 - mean) / std, normalize=True)
    assert torch.allclose(qmm.encode_image(grey), wanted, atol=1e-6)


def test_gradient_reaches_the_image_and_no_weight(qmm: QMM, image: torch.Tensor) -> None:
    image.requires_grad_()
    qmm.measure(image)[:, 0].sum().backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0
    assert all(p.grad is None and not p.requires_grad for p in qmm._model.parameters())
    assert not qmm.phrases.requires_grad


def test_rule_probability_is_the_phrases_share_among_the_rules_phrases(
    qmm: QMM, pack: DescriptorPack, image: torch.Tensor
) -> None:
    quota = pack.pool.quotas[0]
    embedding = qmm.encode_image(image)
    each = [
        qmm.rule_probability(embedding, quota.model_copy(update={"phrase": phrase}))
        for phrase in quota.phrases
    ]
    assert torch.allclose(torch.stack(each).sum(0), torch.ones(3), atol=1e-5)
    scores = qmm._model.logit_scale.exp() * embedding @ qmm.encode_phrases(quota.phrases).T
    wanted = scores.softmax(1)[:, 1]
    assert torch.allclose(qmm.rule_probability(embedding, quota), wanted, atol=1e-5)


def test_softness_makes_probabilities_less_sure(
    pack: DescriptorPack, spec: ClipSpec, image: torch.Tensor
) -> None:
    sharp, soft = (
        QMM.load(pack, spec.name, None, CPU, offering(spec), softness=s) for s in (0.1, 4.0)
    )
    assert sharp.confidence(image).shape == (3,)
    assert (sharp.confidence(image) > soft.confidence(image)).all()
    with pytest.raises(UsageError, match="softness is 0"):
        QMM.load(pack, spec.name, None, CPU, offering(spec), softness=0.0)


def test_reading_names_every_phrase(qmm: QMM, image: torch.Tensor) -> None:
    reading = qmm.read(image[:1])
    assert list(reading) == ["kind", "amount"]
    assert list(reading["kind"]["round"]) == ["apples", "plums", "melons"]
    values = [v for groups in reading.values() for g in groups.values() for v in g.values()]
    assert values == qmm.measure(image[:1])[0].tolist()


def test_identity_tells_weights_apart(pack: DescriptorPack, qmm: QMM, tmp_path: Path) -> None:
    other = write_model(tmp_path, "tiny-other", seed=1)
    found = QMM.load(pack, other.name, None, CPU, offering(other)).identity
    assert found["name"] == "tiny-other"
    assert found["pretrained"] == "tiny-other.safetensors"
    assert len(found["fingerprint"]) == 64
    assert found["fingerprint"] != qmm.identity["fingerprint"]


def test_a_path_replaces_the_weights_of_a_plugins_model(
    pack: DescriptorPack, spec: ClipSpec, tmp_path: Path
) -> None:
    other = write_model(tmp_path, "tiny-replacement", seed=2)
    found = QMM.load(pack, spec.name, str(other.weights), CPU, offering(spec))
    wanted = QMM.load(pack, other.name, None, CPU, offering(other))
    assert found.identity["fingerprint"] == wanted.identity["fingerprint"]


# ---------------------------------------------------------------- packed words


def seen_tokens(pack: DescriptorPack) -> torch.Tensor:
    rules = (*pack.pool.exclude, *pack.pool.quotas)
    said = [p for a in pack.attributes for g in a.groups for p in g.phrases]
    said += [p for rule in rules for p in rule.phrases]
    return open_clip.tokenize([pack.prompt(p) for p in said], context_length=12).unique()


@pytest.fixture(scope="module")
def few_words(spec: ClipSpec, pack: DescriptorPack, tmp_path_factory: pytest.TempPathFactory):
    """The model's weights with the rows of the pack's words only, packed."""
    packed = pack_words(load_file(spec.weights), seen_tokens(pack))
    path = tmp_path_factory.mktemp("packed") / "packed.safetensors"
    save_file(packed, path)
    return path


def test_packed_words_measure_exactly_as_the_full_table(
    pack: DescriptorPack,
    spec: ClipSpec,
    qmm: QMM,
    few_words: Path,
    image: torch.Tensor,
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = QMM.load(pack, spec.name, str(few_words), CPU, offering(spec))
    assert torch.equal(found.phrases, qmm.phrases)
    assert torch.equal(found.measure(image), qmm.measure(image))
    assert found.identity["pretrained"] == "packed.safetensors"
    assert not [r for r in caplog.records if r.name.startswith("sat3d")]
    # 49408 rows of 16 halves are 1.6 MB.
    assert few_words.stat().st_size < spec.weights.stat().st_size - 1_500_000


def test_unpacking_is_the_inverse_of_packing_but_for_rows_never_seen() -> None:
    table, seen = torch.randn(9, 4), torch.tensor([0, 3, 8])
    packed = pack_words({WORDS: table, "other": torch.ones(2)}, seen)
    assert packed.keys() == {IDS, ROWS, "other"}
    state = unpack_words(packed, 9)
    assert state.keys() == {WORDS, "other"}
    assert torch.equal(state[WORDS][seen], table[seen])
    assert state[WORDS].bool().any(dim=1).nonzero().squeeze(1).tolist() == [0, 3, 8]


def test_words_never_seen_are_named_and_known_ones_are_not(
    pack: DescriptorPack, spec: ClipSpec, few_words: Path, caplog: pytest.LogCaptureFixture
) -> None:
    qmm = QMM.load(pack, spec.name, str(few_words), CPU, offering(spec))
    caplog.clear()
    qmm.encode_phrases(["apples", "purple melons and one violin"])
    (record,) = [r for r in caplog.records if r.name == "sat3d.qmm"]
    assert "never trained on 'and', 'purple', 'violin':" in record.getMessage()


@pytest.mark.parametrize(
    ("ids", "rows"),
    [
        (torch.tensor([0, 49408]), torch.ones(2, 16)),
        (torch.tensor([-1, 5]), torch.ones(2, 16)),
        (torch.tensor([5, 5]), torch.ones(2, 16)),
        (torch.tensor([5, 6]), torch.ones(3, 16)),
        (torch.tensor([5.0, 6.0]), torch.ones(2, 16)),
        (torch.tensor([[5, 6]]), torch.ones(2, 16)),
        (torch.tensor([5, 6]), torch.ones(2)),
        (torch.tensor([5, 6]), torch.ones(2, 17)),
    ],
)
def test_packed_words_that_do_not_fit_are_refused(
    pack: DescriptorPack, spec: ClipSpec, tmp_path: Path, ids: torch.Tensor, rows: torch.Tensor
) -> None:
    state = load_file(spec.weights)
    del state[WORDS]
    path = tmp_path / "bad.safetensors"
    save_file({**state, IDS: ids, ROWS: rows}, path)
    with pytest.raises(
        InputError, match=r"bad\.safetensors' does not fit text-image model"
    ) as caught:
        load(pack, spec.name, str(path), spec)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- what goes wrong


def load(pack: DescriptorPack, clip: str, pretrained: str | None, *specs: ClipSpec) -> QMM:
    return QMM.load(pack, clip, pretrained, CPU, offering(*specs))


@pytest.mark.parametrize(("clip", "tag"), [("ViT-B-32", "openai"), ("RN50", "yfcc15m")])
def test_weights_trained_with_quickgelu_are_refused_without_it(
    pack: DescriptorPack, clip: str, tag: str
) -> None:
    with pytest.raises(UsageError, match=f"with QuickGELU.*Use --clip {clip}-quickgelu"):
        load(pack, clip, tag)


def test_weights_trained_without_quickgelu_are_refused_with_it(
    pack: DescriptorPack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda *_: {"url": "x"})
    with pytest.raises(UsageError, match=r"without QuickGELU.*Use --clip ViT-B-32\."):
        load(pack, "ViT-B-32-quickgelu", "openai")


def test_an_unknown_model_is_refused_with_the_nearest_name(
    pack: DescriptorPack, spec: ClipSpec
) -> None:
    with pytest.raises(UsageError, match="Did you mean 'ViT-B-32-quickgelu'"):
        load(pack, "ViT-B32-quickgelu", "openai", spec)
    with pytest.raises(UsageError, match="Did you mean 'tiny-for-tests'.*Known: tiny-for-tests"):
        load(pack, "tiny-for-test", None, spec)


def test_unknown_or_missing_weights_are_refused_with_the_known_ones(pack: DescriptorPack) -> None:
    with pytest.raises(UsageError, match="'opnai'.*Did you mean 'openai'"):
        load(pack, "ViT-B-32-quickgelu", "opnai")
    with pytest.raises(UsageError, match="needs weights.*openai"):
        load(pack, "ViT-B-32-quickgelu", None)


def test_a_model_that_cannot_be_downloaded_is_one_clear_failure(
    pack: DescriptorPack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("open_clip.factory.download_pretrained", refuse)
    with pytest.raises(
        Sat3dError, match="cannot get.*no network.*Connect to the network"
    ) as caught:
        load(pack, "ViT-B-32-quickgelu", "openai")
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)


def test_weights_that_are_damaged_or_of_another_model_are_refused(
    pack: DescriptorPack, spec: ClipSpec, tmp_path: Path
) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(spec.weights.read_bytes()[:1000])
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(1)}, other)
    for path in (cut, other):
        with pytest.raises(InputError, match="does not fit text-image model") as caught:
            load(pack, spec.name, str(path), spec)
        assert "\n" not in str(caught.value)


def test_a_plugins_model_without_its_files_is_refused(
    pack: DescriptorPack, spec: ClipSpec, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="has no weights"):
        load(pack, spec.name, str(tmp_path / "none.safetensors"), spec)
    broken = ClipSpec("broken", "", tmp_path / "none.json", spec.weights)
    with pytest.raises(InputError, match="cannot read"):
        load(pack, "broken", None, broken)
