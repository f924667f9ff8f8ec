"""YAML from outside, read so that nothing is hidden in it and nothing is guessed."""

import re
from pathlib import Path
from typing import Any

import yaml

from sat3d.errors import UsageError
from sat3d.files import read_limited

MAX_BYTES = 1 << 18


def read_yaml(path: Path, what: str, error: type[UsageError]) -> Any:
    """The file's data: mappings, lists, texts and None; numbers stay texts.

    ``what`` names the kind of file in messages. Raises ``error`` for a missing file, one over
    MAX_BYTES and one that is not plain YAML.
    """
    advice = f"{what.capitalize()}s are short texts."
    raw = read_limited(path, what, MAX_BYTES, advice, error)
    try:
        return _PlainLoader(raw.decode("utf-8")).get_single_data()
    except RecursionError:
        raise error(
            f"{what} '{path}' is nested too deeply. {what.capitalize()}s are shallow."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise error(f"{what} '{path}' is not YAML: {_reason(problem)}. Mend it.") from None


def _reason(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    text = str(getattr(error, "problem", None) or error)
    return " ".join(f"line {mark.line + 1}: {text}".split() if mark else text.split())


class _PlainLoader(yaml.BaseLoader):
    """YAML in which every scalar is text or null, and nothing is hidden.

    No tags and no guessing of types (``no`` stays a word; the model converts numbers). No aliases,
    so that a few lines cannot unfold into gigabytes, and no key twice.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.current_event.start_mark
            raise yaml.composer.ComposerError(None, None, "aliases are not allowed", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[Any] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                problem = "a key must be a word"
            elif key.value in seen:
                problem = f"key '{key.value}' is there twice"
            else:
                seen.add(key.value)
                continue
            raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
        return super().construct_mapping(node, deep)


_NULL = "tag:yaml.org,2002:null"
_PlainLoader.add_implicit_resolver(_NULL, re.compile("^(?:~|null|)$"), ["~", "n", ""])
_PlainLoader.add_constructor(_NULL, lambda loader, node: None)
