"""Captions of a world's pictures, and the check that they cover a descriptor pack."""

import random

from recipes.worlds.world import Question, World
from sat3d.descriptors import DescriptorPack


def check(world: World, pack: DescriptorPack) -> dict[str, Question]:
    """The question behind each group and rule of a pack, by 'attribute' or 'pool NAME'.

    Raises ValueError for phrases without a question: the renders could not answer it.
    """
    found = {}
    asked = [(a.name, g.phrases) for a in pack.attributes for g in a.groups]
    asked += [(f"pool_{r.name}", r.phrases) for r in (*pack.pool.exclude, *pack.pool.quotas)]
    for name, phrases in asked:
        fitting = [q for q in world.questions if q.key == phrases]
        if not fitting:
            raise ValueError(f"no question of world '{world.name}' has answers {phrases}")
        found[name] = fitting[0]
    return found


def write_captions(world: World, count: int, seed: int) -> tuple[list[str], list[list[int]]]:
    """Captions of two or three facts, and per caption the value of every factor (-1: not said)."""
    source = random.Random(seed)
    plain = [q for q in world.questions if q.answer_of == tuple(range(len(q.answers)))]
    texts, facts = [], []
    columns, most = world.columns, min(len(plain), 3)
    for _ in range(count):
        chosen = source.sample(plain, source.choice((2, most)))
        said = [-1] * len(world.factors)
        words = []
        for question in chosen:
            value = source.randrange(len(question.answers))
            said[columns[question.factor]] = value
            words.append(source.choice(question.answers[value]))
        joined = ", ".join(words[:-1]) + world.joint + words[-1]
        texts.append(source.choice(world.templates).replace("{}", joined))
        facts.append(said)
    return texts, facts
