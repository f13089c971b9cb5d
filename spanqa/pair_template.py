"""How a model's tokenizer joins a question and a context: the special tokens around them, read from tokenizer.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from spanqa.errors import TokenizerError

_QUESTION, _CONTEXT = 0, 1
_STAND_IN = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
"""A model of one token: the post-processor has the ids of special tokens itself, so it joins with any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairTemplate:
    """The tokens of an encoder input: `before` question `between` context `after`, then padding.

    Args:
        before: Ids before the question; the first stands for "no answer".
        between: Ids between question and context.
        after: Ids after the context.
        pad_id: Id of the padding.
        context_type: Token type of the context and of what follows it, 0 or 1; all else is 0.
    """

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    pad_id: int
    context_type: int = 1

    @property
    def n_special(self) -> int:
        """Special tokens of every input."""
        return len(self.before) + len(self.between) + len(self.after)

    @property
    def ids(self) -> frozenset[int]:
        """Every id of it, the padding's too."""
        return frozenset((*self.before, *self.between, *self.after, self.pad_id))


def bert_pair(cls_id: int, sep_id: int, pad_id: int) -> PairTemplate:
    """BERT's template: [CLS] question [SEP] context [SEP], the last two of type 1 (its run_squad.py)."""
    return PairTemplate(before=(cls_id,), between=(sep_id,), after=(sep_id,), pad_id=pad_id)


def pair_from_json(value: Mapping[str, Any]) -> PairTemplate:
    """Read a template that was written as JSON; raises TypeError or KeyError where it is none."""
    ids = {name: tuple(map(int, value[name])) for name in ("before", "between", "after")}
    return PairTemplate(**{**value, **ids})


def pair_from_document(document: dict[str, Any], pad_id: int) -> PairTemplate | None:
    """Let the post-processor of a tokenizer.json join a question and a context, and read what it adds.

    Args:
        document: The content of the tokenizer.json.
        pad_id: Id of the padding.

    Returns:
        The template; None where the file adds no special token to a pair.

    Raises:
        TokenizerError: If pairs are joined in a way that no window can be cut for.
    """
    if document.get("post_processor") is None:
        return None
    from tokenizers import Tokenizer as Backend

    parts = {"version": document.get("version", "1.0"), "model": _STAND_IN, "added_tokens": []}
    try:
        backend = Backend.from_str(json.dumps({**parts, "post_processor": document["post_processor"]}))
        joined = backend.encode("a", "a")
    except Exception as error:  # the Rust library raises a bare Exception
        raise TokenizerError(f"its post_processor cannot join a question and a context: {error}") from error
    runs = [(key, list(run)) for key, run in groupby(range(len(joined.ids)), lambda at: joined.sequence_ids[at])]
    sequences = [key for key, _ in runs]
    if None not in sequences:
        return None
    order = [key for key in sequences if key is not None]
    if order != [_QUESTION, _CONTEXT] or sequences[0] is not None:
        raise TokenizerError(
            "its post_processor does not put a special token first, then the question, then the context: only such "
            "models can be used"
        )
    first, second = sequences.index(_QUESTION), sequences.index(_CONTEXT)
    before, between, after = (
        tuple(joined.ids[at] for _, run in runs[low:high] for at in run)
        for low, high in ((0, first), (first + 1, second), (second + 1, len(runs)))
    )
    context_at = runs[second][1][0]
    return PairTemplate(
        before=before,
        between=between,
        after=after,
        pad_id=pad_id,
        context_type=_context_type(joined.type_ids, context_at),
    )


def _context_type(types: Sequence[int], context_at: int) -> int:
    kind = types[context_at]
    if list(types) != [0] * context_at + [kind] * (len(types) - context_at) or kind not in (0, 1):
        raise TokenizerError(
            f"its post_processor gives a pair the token types {list(types)}: only 0, or 0 and from the context on 1, "
            "can be used"
        )
    return int(kind)
