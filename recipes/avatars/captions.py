"""What can be said of an avatar: questions with their answers in many words, and captions.

The first wording of an answer is the one of the descriptor pack; the others keep the text encoder
from being a lookup table.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from recipes.avatars.world import FACTORS
from sat3d.descriptors import DescriptorPack

TEMPLATES = (
    "a face with {}",
    "{}",
    "a photo of a face with {}",
    "a photo of a person with {}",
    "a cartoon head with {}",
    "a drawing of a face with {}",
    "a portrait of somebody with {}",
    "a person with {}",
    "somebody with {}",
)


@dataclass(frozen=True)
class Question:
    """Answers that exclude one another; ``answer_of`` maps a factor's value to its answer."""

    factor: str
    answers: tuple[tuple[str, ...], ...]
    answer_of: tuple[int, ...]

    @property
    def key(self) -> tuple[str, ...]:
        """The pack's own wordings."""
        return tuple(words[0] for words in self.answers)


def _all(factor: str, *answers: Sequence[str]) -> Question:
    return Question(factor, tuple(tuple(a) for a in answers), tuple(range(len(answers))))


QUESTIONS: tuple[Question, ...] = (
    _all(
        "hairstyle",
        ("a buzz cut", "buzzed hair", "a shaved head", "very short cropped hair", "stubbly hair"),
        ("short hair", "a short haircut", "hair cut short", "short hair with a quiff", "a quiff"),
        ("a bob cut", "a bob", "a bob haircut", "chin-length hair", "a rounded bob"),
        ("long hair", "shoulder-length hair", "long straight hair", "long flowing hair"),
        ("curly hair", "curls", "a curly afro", "thick curly hair", "frizzy hair"),
    ),
    _all(
        "hair_color",
        ("black hair", "jet-black hair", "dark black hair", "hair that is black"),
        ("brown hair", "brunette hair", "chestnut hair", "hair that is brown"),
        ("blond hair", "blonde hair", "golden hair", "yellow hair", "hair that is blond"),
        ("red hair", "ginger hair", "orange hair", "hair that is red"),
        ("white hair", "grey hair", "gray hair", "silver hair", "hair that is white"),
    ),
    _all(
        "eye_region",
        ("round eyes", "wide open eyes", "big eyes", "open round eyes"),
        ("narrow eyes", "half-closed eyes", "sleepy eyes", "hooded eyes"),
        ("closed eyes", "shut eyes", "eyes that are closed", "eyes shut"),
        ("angry brows", "angry eyes", "an angry look", "furrowed brows", "lowered angry brows"),
    ),
    _all(
        "expression",
        ("a neutral expression", "a neutral mouth", "a calm mouth", "no expression"),
        ("a smile", "a smiling mouth", "a big smile", "a happy expression", "a grin", "a laugh"),
        ("a surprised open mouth", "a surprised expression", "surprise", "a round open mouth"),
        ("a sad mouth", "a sad expression", "a frowning mouth", "an unhappy mouth", "sadness"),
    ),
    _all(
        "beard",
        ("no beard", "a clean-shaven chin", "a shaven face", "no facial hair"),
        ("a moustache", "a mustache", "hair on the upper lip", "only a moustache"),
        ("a goatee", "a chin beard", "a small beard on the chin", "a goatee beard"),
        ("a full beard", "a bushy beard", "a big beard", "a thick beard"),
    ),
    _all(
        "eyeglasses",
        ("no glasses", "no eyeglasses", "bare eyes without glasses", "no spectacles"),
        ("round glasses", "round eyeglasses", "round spectacles", "circular glasses"),
        ("square glasses", "square eyeglasses", "square spectacles", "rectangular glasses"),
    ),
    Question(
        "eyeglasses",
        (
            ("no glasses", "no eyeglasses", "bare eyes without glasses", "no spectacles"),
            ("glasses", "eyeglasses", "spectacles", "a pair of glasses"),
        ),
        (0, 1, 1),
    ),
    _all(
        "hat",
        ("no hat", "a bare head", "no headwear", "a head without a hat"),
        ("a hat", "a beanie", "a woolly hat", "a cap", "a knitted hat"),
    ),
)


def check(pack: DescriptorPack) -> dict[str, Question]:
    """The question behind each group and rule of a pack, by 'attribute' or 'pool NAME'.

    Raises ValueError for phrases without a question: the renders could not answer it.
    """
    found = {}
    asked = [(a.name, g.phrases) for a in pack.attributes for g in a.groups]
    asked += [(f"pool_{r.name}", r.phrases) for r in (*pack.pool.exclude, *pack.pool.quotas)]
    for name, phrases in asked:
        fitting = [q for q in QUESTIONS if q.key == phrases]
        if not fitting:
            raise ValueError(f"no question of recipes.avatars.captions has answers {phrases}")
        found[name] = fitting[0]
    return found


def write_captions(count: int, seed: int) -> tuple[list[str], list[list[int]]]:
    """Captions of two or three facts, and per caption the value of every factor (-1: not said)."""
    source = random.Random(seed)
    columns = {factor.name: column for column, factor in enumerate(FACTORS)}
    plain = [q for q in QUESTIONS if q.answer_of == tuple(range(len(q.answers)))]
    texts, facts = [], []
    for _ in range(count):
        chosen = source.sample(plain, source.choice((2, 3)))
        said = [-1] * len(FACTORS)
        words = []
        for question in chosen:
            value = source.randrange(len(question.answers))
            said[columns[question.factor]] = value
            words.append(source.choice(question.answers[value]))
        joined = ", ".join(words[:-1]) + " and " + words[-1]
        texts.append(source.choice(TEMPLATES).replace("{}", joined))
        facts.append(said)
    return texts, facts
