"""Everything bundled that needs no weights of the user's own passes the conformance suite."""

import pytest

import sat3d
from sat3d.registry import GROUP
from sat3d.testing import (
    GeneratorConformance,
    ReaderConformance,
    SegmenterConformance,
    check_missing_weights,
    check_pack,
)

CATALOGUE = sat3d.discover()


def bundled(column: str) -> list[str]:
    """Names of what this distribution offers, with default weights."""
    offers = getattr(CATALOGUE, column).items()
    return [n for n, x in offers if x.distribution == GROUP and getattr(x.spec, "embedded", True)]


@pytest.mark.parametrize("name", bundled("generators"), scope="class")
class TestGenerator(GeneratorConformance):
    tolerance = 2e-3  # volume rendering sums many samples, and half precision may be inside

    @classmethod
    def setup_class(cls):
        pass

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _loaded(cls, name):
        cls.generator = sat3d.load_generator(name, None, "cpu", CATALOGUE)
        cls.load = staticmethod(lambda w: sat3d.load_generator(name, w, "cpu", CATALOGUE))


@pytest.mark.parametrize("name", bundled("segmenters"), scope="class")
class TestSegmenter(SegmenterConformance):
    @classmethod
    def setup_class(cls):
        pass

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _loaded(cls, name):
        cls.segmenter = sat3d.load_segmenter(name, None, "cpu", CATALOGUE)
        cls.load = staticmethod(lambda w: sat3d.load_segmenter(name, w, "cpu", CATALOGUE))


@pytest.mark.parametrize("name", bundled("readers"), scope="class")
class TestReader(ReaderConformance):
    @classmethod
    def setup_class(cls):
        pass

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _loaded(cls, name):
        cls.reader = sat3d.load_reader(name, None, "cpu", CATALOGUE)
        cls.load = staticmethod(lambda w: sat3d.load_reader(name, w, "cpu", CATALOGUE))


@pytest.mark.parametrize("name", bundled("descriptors"))
def test_every_bundled_pack_is_valid(name):
    check_pack(CATALOGUE.descriptor(name).spec.path)


@pytest.mark.parametrize("name", bundled("generators"))
def test_what_default_weights_name_as_fitting_is_on_offer_and_fits(name):
    fits = sat3d.load_generator(name, None, "cpu", CATALOGUE).card.goes_with
    pack = sat3d.load_pack(fits["descriptors"], CATALOGUE)
    CATALOGUE.clip_model(fits["clip"])
    CATALOGUE.reader(fits["reader"])
    if fits.get("segmenter", "none") != "none":
        weights = fits.get("segmenter_weights")
        labels = sat3d.load_segmenter(fits["segmenter"], weights, "cpu", CATALOGUE).labels
        pack.check_labels(labels, fits["segmenter"])


def test_generators_and_segmenters_without_weights_of_their_own_explain_missing_ones_too():
    for column, load in (
        ("generators", sat3d.load_generator),
        ("segmenters", sat3d.load_segmenter),
    ):
        for name in getattr(CATALOGUE, column):
            check_missing_weights(lambda w, n=name, f=load: f(n, w, "cpu", CATALOGUE))
