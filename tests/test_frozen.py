"""The networks of a step: low precision where it may be, no waiting, graphs.

Without a GPU its way is still walked: tensors without values that say they are on one take the
branches for GPUs, in the right types, and any host read of a value is an error.
"""

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.subjects import Subject, tiny
from sat3d import frozen, objective
from sat3d.descent import make_optimiser
from sat3d.engine import train
from sat3d.frozen import Frozen, Launcher, Networks
from sat3d.losses import total_loss
from sat3d.objective import Setup, make_setup, measure_edit
from sat3d.pool import build_pool
from sat3d.precision import exact, low_dtype, lower, shortened
from sat3d.regions import RegionTable, region_table
from sat3d.settings import PRESETS, TrainSettings, override
from sat3d.testing import ToyGenerator, ToyMeasure, ToySegmenter, toy_pack

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def subject() -> Subject:
    return tiny(CPU)


@pytest.fixture(scope="module")
def setup(subject: Subject) -> Setup:
    ways = settings("softness=2", "targets=2")
    return make_setup(*subject.parts, ways, build_pool(*subject.parts, ways))


def table_of(subject: Subject) -> RegionTable:
    names = subject.segmenter.labels, subject.segmenter.name
    return region_table(subject.pack, *names, subject.segmenter.device)


def networks(subject: Subject, **changes: object) -> Networks:
    known = subject.generator, subject.qmm, subject.segmenter, table_of(subject)
    return Networks(*known, **{"draft": True, "compare_size": 8, **changes})


def codes(subject: Subject, count: int = 3) -> tuple[Tensor, Tensor]:
    generator = subject.generator
    styles = generator.styles(generator.map(generator.sample_latents(count, 1)))
    return styles.detach(), generator.sample_cameras(count, 1)


class Watch(TorchDispatchMode):
    """Fails where the host would read a value or send one; keeps every operation's types."""

    READS = ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal", "masked_select")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, tuple[torch.dtype, ...]]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        places = args[1] if name in ("index", "index_put", "index_put_") else ()
        counted = any(isinstance(x, Tensor) and x.dtype == torch.bool for x in places)
        assert name not in self.READS and not counted, f"the host reads a value: {name}"
        result = func(*args, **(kwargs or {}))
        flat = [x for x in (*args, result) if isinstance(x, Tensor)]
        # A number on the CPU is an argument, unless it is sent for its own sake.
        devices = {x.device.type for x in flat if x.ndim or "copy" in name}
        assert len(devices) <= 1, f"{name} sends values between {devices}"
        self.seen.append((name, tuple(x.dtype for x in flat)))
        return result


def moved(subject: Subject, make: Callable[[Tensor], Tensor]) -> None:
    """Replace all tensors of the networks by what ``make`` makes of them."""
    qmm, before = subject.qmm, torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    for module in (subject.generator.network, qmm._model, subject.segmenter._network):
        module._apply(make)
    torch.__future__.set_overwrite_module_params_on_conversion(before)
    for name in ("_mean", "_std", "_scale", "phrases", "attribute_of_phrase"):
        setattr(qmm, name, make(getattr(qmm, name)))


@pytest.fixture
def nowhere() -> Iterator[Subject]:
    """The tiny subject without values on a GPU that is not there, under a mode that plays it."""
    subject = tiny(CPU)
    with FakeTensorMode(allow_non_fake_inputs=True):
        moved(subject, lambda x: torch.empty_strided(x.shape, x.stride(), dtype=x.dtype,
                                                     device="cuda"))  # fmt: skip
        yield subject


@pytest.fixture
def _autocast_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch refuses autocast for a GPU that is not there."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)


@pytest.mark.parametrize("draft", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.usefixtures("_autocast_for_nobody")
def test_a_step_on_a_gpu_reads_nothing_and_is_short_only_where_it_may(
    nowhere: Subject, precision: str, draft: bool
) -> None:
    plain = networks(nowhere, precision=precision, draft=draft)
    size = nowhere.generator.layout.channels
    styles = torch.randn(3, size, device="cuda", requires_grad=True)
    camera = torch.randn(3, 25, device="cuda")
    with Watch() as watch:
        image, found = plain.measure(styles, camera)
        (masks,) = plain.outline(image.detach())
    assert image.dtype == found.dtype == torch.float32
    assert masks.dtype == torch.bool
    assert image.device.type == found.device.type == masks.device.type == "cuda"
    short = {name for name, types in watch.seen if torch.bfloat16 in types}
    if precision == "float32":
        assert not short
        return
    assert all(types[0] == torch.bfloat16 for name, types in watch.seen if name == "convolution"), (
        "a convolution is long"
    )
    # Geometry, statistics, the march along rays, sums and probabilities.
    exact_ones = {"cumprod", "exp", "sort", "searchsorted", "cumsum", "rsqrt", "grid_sampler_2d",
                  "_softmax", "scatter", "gather", "argmax"}  # fmt: skip
    assert short & exact_ones == set()
    assert exact_ones <= {name for name, _ in watch.seen} | short, "the list names what never runs"


def pairs(subject: Subject, count: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    chosen = torch.arange(len(subject.pack.attributes)) == torch.arange(count)[:, None]
    return torch.arange(count), torch.arange(count) + 2, chosen


def test_a_step_and_its_descent_read_no_value(subject: Subject, setup: Setup) -> None:
    rows, columns = len(subject.pack.attributes) + 1, subject.generator.layout.editable_channels
    matrix = torch.randn(columns, rows, generator=torch.Generator().manual_seed(0))
    optimiser, before = (
        make_optimiser(matrix.requires_grad_(), setup.settings),
        matrix.detach().clone(),
    )
    for _ in range(7):  # past its warm-up, which it counts itself
        with Watch():
            parts, _, _ = measure_edit(setup, matrix.T, pairs(subject))
            total_loss(parts, setup.settings.weights).backward()
            optimiser.step()
    assert not torch.equal(matrix, before)


def test_what_surrounds_the_networks_reads_nothing_on_a_gpu(
    subject: Subject, setup: Setup, nowhere: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Codes from the pool, the edit and the losses; only the way there of the pairs is left out."""

    def there(x: Tensor) -> Tensor:
        return torch.empty_like(x, device="cuda")

    names = ("styles", "cameras", "images", "probabilities", "regions")
    table = dataclasses.replace(setup.pool.table, member=there(setup.pool.table.member))
    held = {name: there(getattr(setup.pool, name)) for name in names}
    pool = dataclasses.replace(setup.pool, table=table, **held)
    parts = nowhere.generator, nowhere.qmm, nowhere.segmenter
    setup = dataclasses.replace(
        setup,
        pool=pool,
        frozen=Frozen(*parts, table, setup.settings),
        **{name: there(getattr(setup, name)) for name in ("owner", "member", "editable")},
    )
    sent = tuple(map(there, pairs(subject)))
    monkeypatch.setattr(objective, "_sent", lambda *_: sent)
    logits = there(torch.zeros(len(subject.pack.attributes) + 1, len(setup.editable)))
    with Watch() as watch:
        parts, _, _ = measure_edit(setup, logits.requires_grad_(), pairs(subject))
        total = total_loss(parts, setup.settings.weights)
    assert total.device.type == "cuda"
    assert len(watch.seen) > 100


def reads(work: Callable[[], object]) -> set[str]:
    """Which reads a profile sees. Some gradients take another way when a mode watches them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some profilers tell how they are to be used
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            work()
    names = {x.key.removeprefix("aten::") for x in seen.key_averages()}
    return names & set(Watch.READS)


def test_neither_a_step_nor_its_gradient_reads_a_value(subject: Subject, setup: Setup) -> None:
    plain, (styles, camera) = networks(subject), codes(subject)
    styles.requires_grad_()
    rows, columns = len(subject.pack.attributes) + 1, len(setup.editable)
    matrix = torch.zeros(columns, rows, requires_grad=True)

    def networks_alone() -> None:
        image, found = plain.measure(styles, camera)
        plain.outline(image.detach())
        (found.sum() + image.square().sum()).backward()

    def step() -> None:
        parts, _, _ = measure_edit(setup, matrix.T, pairs(subject))
        total_loss(parts, setup.settings.weights).backward()

    assert reads(networks_alone) == set()
    assert styles.grad is not None
    assert reads(step) == set()
    assert reads(lambda: torch.rand(3, requires_grad=True).cumprod(0).sum().backward())


def test_the_gradient_takes_a_gpus_way_without_reading_a_value() -> None:
    """Tensors without values do not take the branches for CPUs."""
    subject = tiny(CPU)
    moved(subject, lambda x: x.to("meta"))
    plain = networks(subject)
    styles = torch.randn(3, subject.generator.layout.channels, device="meta", requires_grad=True)
    with Watch():
        image, found = plain.measure(styles, torch.randn(3, 25, device="meta"))
        (grad,) = torch.autograd.grad(found.sum() + image.sum(), styles)
    assert grad.shape == styles.shape


def test_the_watch_catches_what_it_should() -> None:
    with Watch(), pytest.raises(AssertionError, match="reads a value"):
        torch.ones(2).sum().item()
    with Watch(), pytest.raises(AssertionError, match="reads a value"):
        torch.ones(2)[torch.ones(2).bool()]
    with Watch(), pytest.raises(AssertionError, match="sends values"):
        torch.ones(2).to("meta")


def cosine(one: Tensor, two: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one.flatten(), two.flatten(), dim=0))


def test_bfloat16_stays_close_in_values_and_gradients(subject: Subject) -> None:
    results = []
    for precision in ("float32", "bfloat16"):
        styles, camera = codes(subject)
        styles.requires_grad_()
        image, found = networks(subject, precision=precision).measure(styles, camera)
        assert image.dtype == found.dtype == torch.float32
        grad = torch.autograd.grad(found.square().sum() + image.square().mean(), styles)[0]
        results.append((image.detach(), found.detach(), grad))
    (image, found, grad), (image16, found16, grad16) = results
    assert not torch.equal(image, image16), "bfloat16 was not used"
    # Eight bits a number: a few per mille in each of some twenty layers.
    assert (image - image16).norm() <= 0.03 * image.norm()
    assert (found - found16).abs().max() <= 0.05
    assert cosine(grad, grad16) >= 0.97


def test_marks_change_nothing_without_autocast() -> None:
    x = torch.randn(3)
    assert lower(x) is x
    assert low_dtype(x) is None
    with exact(x):
        assert not torch.is_autocast_enabled("cpu")
    with shortened(CPU, "float32"):
        assert not torch.is_autocast_enabled("cpu")
    with shortened(CPU, "bfloat16"):
        assert lower(x).dtype == torch.bfloat16
        assert lower(x.double()).dtype == torch.float64
        with exact(x):
            assert (x[None] @ x[:, None]).dtype == torch.float32
        assert (x[None] @ x[:, None]).dtype == torch.bfloat16


@pytest.mark.parametrize("is_3d", [False, True])
def test_features_that_are_not_kept_give_the_same_gradient(is_3d: bool) -> None:
    generator, pack = ToyGenerator(is_3d), toy_pack()
    styles = generator.styles(generator.map(generator.sample_latents(4, 0))).requires_grad_()
    camera, kept, results = generator.sample_cameras(4, 0), [], []
    for checkpointing in (False, True):
        ways = {"checkpointing": checkpointing, "chunk": 3}  # the last of four is alone
        plain = Networks(generator, ToyMeasure(pack), None, None, **ways)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, sizes=sizes: sizes.append(x.numel()) or x, lambda x: x
        ):
            image, found = plain.measure(styles, camera)
        kept.append(sum(sizes))
        grad = torch.autograd.grad(found.square().sum() + image.square().sum(), styles)[0]
        results.append((image, found, grad))
    for one, two in zip(*results, strict=True):
        # Products of other shapes are summed in another order, by some processors.
        assert torch.allclose(one, two, rtol=1e-5, atol=1e-6 * one.abs().max().item())
    assert kept[1] < kept[0] / 2


def settings(*changes: str) -> TrainSettings:
    return override(PRESETS["quick"], ["pool_size=8", "draft=true", *changes])


def test_what_cannot_be_captured_runs_as_it_is_with_one_note(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*_: object) -> Callable:
        raise RuntimeError("no driver\nhere")

    launcher = Launcher(lambda x: (x * 2,), "steps", refuse, gradient=True)
    x = torch.ones(3, requires_grad=True)
    for _ in range(3):
        assert torch.equal(launcher(x)[0], x * 2)
    (note,) = caplog.records
    assert (
        note.getMessage()
        == "steps: cannot be captured as a CUDA graph (no driver here); slower without."
    )


def test_only_calls_like_the_first_are_fast() -> None:
    made: list[tuple[int, ...]] = []

    def capture(work: Callable, _: tuple[Tensor, ...]) -> Callable:
        def fast(x: Tensor) -> tuple[Tensor]:
            made.append(tuple(x.shape))
            return work(x)

        return fast

    launcher = Launcher(lambda x: (x * 2,), "steps", capture, gradient=True)
    with torch.no_grad():
        launcher(torch.ones(5))  # asks for no gradient, so it is not the first
    assert made == []
    launcher(torch.ones(3, requires_grad=True))
    assert made == [(3,)]
    launcher(torch.ones(4, requires_grad=True))
    assert made == [(3,)]
    launcher(torch.ones(3))
    assert made == [(3,), (3,)]


@pytest.mark.parametrize(("device", "graphs"), [("cuda", True), ("cuda", False), ("cpu", True)])
def test_networks_are_captured_on_a_gpu_where_that_is_asked(device: str, graphs: bool) -> None:
    generator = SimpleNamespace(device=torch.device(device))
    networks = Frozen(generator, None, None, None, settings(f"graphs={graphs}"))
    wanted = frozen._captured if graphs and device == "cuda" else None
    for launcher in (networks._sight, networks._see, networks._outline):
        assert launcher._capture is wanted


def test_graphs_are_silently_nothing_on_a_cpu(caplog: pytest.LogCaptureFixture) -> None:
    pack, made = toy_pack(), []
    for graphs in ("false", "true"):
        made.append(build_pool(ToyGenerator(), pack, ToyMeasure(pack), ToySegmenter(),
                               settings(f"graphs={graphs}")))  # fmt: skip
    assert torch.equal(made[0].styles, made[1].styles)
    assert torch.equal(made[0].regions, made[1].regions)
    assert not caplog.records


class PlayedGpu:
    """torch.cuda as far as a capture asks for it; ``refuse`` breaks the capture off."""

    def __init__(self, refuse: bool) -> None:
        self.refuse, self.stream, self.mode, self.modes = refuse, "own", 0, []

    def current_stream(self, *_: object) -> str:
        return self.stream

    def set_stream(self, stream: str) -> None:
        self.stream = stream

    def device(self, _: object) -> contextlib.nullcontext:
        return contextlib.nullcontext()

    def get_sync_debug_mode(self) -> int | str:
        return self.mode

    def set_sync_debug_mode(self, mode: int | str) -> None:
        warnings.warn("a prototype", UserWarning, stacklevel=1)
        self.mode = mode
        self.modes.append(mode)

    def make_graphed_callables(self, work: Callable, samples: tuple[Tensor, ...]) -> Callable:
        assert all(x.is_leaf for x in samples)
        self.stream = "aside"
        if self.refuse:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.stream = "own"
        return lambda *given: tuple(x.clone() for x in work(*given))


@pytest.mark.parametrize("refuse", [False, True])
def test_a_capture_leaves_the_device_as_it_was(
    refuse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of things by a device that is only played."""
    played, x = PlayedGpu(refuse), torch.ones(3, requires_grad=True)
    for name in ("current_stream", "set_stream", "device", "get_sync_debug_mode",
                 "set_sync_debug_mode", "make_graphed_callables"):  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, getattr(played, name))
    if refuse:
        with pytest.raises(RuntimeError, match="not permitted"):
            frozen._captured(lambda y: (y * 2,), (x * 1,))
    else:
        fast = frozen._captured(lambda y: (y * 2,), (x * 1,))
        assert torch.equal(fast(x)[0], x * 2)
    assert played.modes == ["error", 0]
    assert played.stream == "own"


# ------------------------------------------------------------------ on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_graph_gives_the_numbers_of_the_plain_way(
    precision: str, caplog: pytest.LogCaptureFixture
) -> None:
    subject = tiny(torch.device("cuda"))
    known = subject.generator, subject.qmm, subject.segmenter, table_of(subject)
    plain, fast = (
        Frozen(*known, settings(f"precision={precision}", f"graphs={graphs}"))
        for graphs in ("false", "true")
    )
    styles, camera = codes(subject, 4)
    for turn in range(3):
        results = []
        for networks in (plain, fast):
            code = (styles * (1 + 0.1 * turn)).requires_grad_()
            image, found = networks.see(code, camera)
            masks = networks.outline(image)
            grad = torch.autograd.grad(found.square().sum() + image.square().sum(), code)[0]
            drawn = networks.sight(code.detach(), camera)
            kept = (image.detach(), found.detach(), grad, *drawn, masks.float())
            results.append([x.clone() for x in kept])
        for one, two in zip(*results, strict=True):
            # Sums by atomic additions come in any order, and in bfloat16 some then round to the
            # neighbouring number, which is up to 0.8 % away.
            near = 1e-3 if precision == "float32" else 1e-2
            assert (one - two).norm() <= near * one.norm() + 1e-6
    assert not caplog.records, caplog.text
    assert fast._see._fast is not None
    assert fast._sight._fast is not None
    assert fast._outline._fast is not None


@pytest.mark.gpu
@pytest.mark.parametrize("change", ["graphs=true", "checkpointing=true"])
def test_training_on_a_gpu_learns_the_same_by_every_way(
    change: str, caplog: pytest.LogCaptureFixture
) -> None:
    subject = tiny(torch.device("cuda"))
    fixed = ["pool_size=64", "steps=8", "stop.every=4", "preselection.by=none", "lr=0.05"]
    made = [
        train(*subject.parts, override(PRESETS["quick"], [*fixed, *changes])).logits
        for changes in ([], [change])
    ]
    assert not [x for x in caplog.records if x.name.startswith("sat3d")], caplog.text
    assert cosine(*made) >= 0.99
    assert not torch.equal(made[0], torch.zeros_like(made[0]))


@pytest.mark.gpu
def test_pairs_are_sent_whole() -> None:
    first, second = torch.tensor([5, 6]), torch.tensor([7, 8])
    chosen = torch.tensor([[True, False, True], [False, True, False]])
    sent = objective._sent((first, second, chosen), torch.device("cuda"))
    for one, two in zip(sent, (first, second, chosen), strict=True):
        assert one.is_cuda
        assert one.dtype == two.dtype
        assert torch.equal(one.cpu(), two)


@pytest.mark.gpu
def test_a_step_on_a_gpu_never_waits() -> None:
    subject, ways = tiny(torch.device("cuda")), settings("precision=bfloat16")
    setup = make_setup(*subject.parts, ways, build_pool(*subject.parts, ways))
    rows, columns = len(subject.pack.attributes) + 1, subject.generator.layout.editable_channels
    matrix = torch.zeros(columns, rows, device="cuda", requires_grad=True)
    optimiser = make_optimiser(matrix, ways)
    for turn in range(9):
        with frozen._no_waiting() if turn > 2 else contextlib.nullcontext():
            parts, _, _ = measure_edit(setup, matrix.T, pairs(subject))
            optimiser.zero_grad(set_to_none=True)
            total_loss(parts, ways.weights).backward()
            optimiser.step()
    assert matrix.isfinite().all()


@pytest.mark.gpu
def test_a_function_that_waits_is_not_captured_and_the_device_stays_usable(
    caplog: pytest.LogCaptureFixture,
) -> None:
    launcher = Launcher(lambda x: (x * x.sum().item(),), "steps", frozen._captured)
    x = torch.ones(3, device="cuda")
    stream = torch.cuda.current_stream()
    assert torch.equal(launcher(x)[0].cpu(), torch.full((3,), 3.0))
    assert torch.equal(launcher(x)[0].cpu(), torch.full((3,), 3.0))
    assert len(caplog.records) == 1
    assert "CUDA graph" in caplog.text
    assert torch.cuda.current_stream() == stream
    assert torch.cuda.get_sync_debug_mode() == 0
