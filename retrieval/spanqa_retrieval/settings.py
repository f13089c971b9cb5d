"""How an index cuts, reads and weighs texts: set when it is made, and kept in it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from spanqa_retrieval.errors import CollectionError

STEMMERS = (
    "arabic", "danish", "dutch", "english", "finnish", "french", "german", "greek", "hungarian", "italian", "norwegian",
    "portuguese", "romanian", "russian", "spanish", "swedish", "tamil", "turkish", "none",
)  # fmt: skip
"""Languages that both engines have a stemmer for; `none` leaves words as they are."""
FORMAT = 2
"""Raised where an index holds other words, or keeps them in another way."""
SETTINGS_FILE = "spanqa.json"
"""Where an index in a folder keeps them: a folder with such a file is an index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexSettings:
    """Settings of an index.

    Args:
        passage_words: Words of a passage, about: sentences are added until there are so many.
        overlap_sentences: Sentences that a passage has in common with the next one of the same document.
        stemmer: Language whose words are cut to their stems before they are compared, one of `STEMMERS`.
        title_weight: What a word found in a title counts against one found in the text; 0 leaves titles out.

    Raises:
        CollectionError: A setting is out of range.
    """

    passage_words: int = 130
    overlap_sentences: int = 1
    stemmer: str = "english"
    title_weight: float = 0.2

    def __post_init__(self) -> None:
        if not 10 <= self.passage_words <= 1000:
            raise CollectionError(f"passage_words is {self.passage_words}: give 10 to 1000")
        if not 0 <= self.overlap_sentences <= 5:
            raise CollectionError(f"overlap_sentences is {self.overlap_sentences}: give 0 to 5")
        if self.stemmer not in STEMMERS:
            raise CollectionError(f"stemmer is {self.stemmer!r}: give one of {', '.join(STEMMERS)}")
        if not 0 <= self.title_weight <= 100:
            raise CollectionError(f"title_weight is {self.title_weight}: give 0 to 100")

    def to_json(self) -> str:
        """Give the settings as the text of a JSON file."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n"


def is_index(path: Path) -> bool:
    """Say whether a folder holds an index."""
    return os.path.isfile(path / SETTINGS_FILE)  # where a folder may not be looked into, it is none


def settings_from_json(text: str, place: str) -> IndexSettings:
    """Read settings that an index holds.

    Args:
        text: What `to_json` wrote.
        place: Where it stands, for messages.

    Raises:
        CollectionError: It is not that, or of another format.
    """
    try:
        values: dict[str, Any] = json.loads(text)
        if values.pop("format") != FORMAT:
            raise CollectionError(f"{place}: an index of another version of spanqa: index its sources again")
        if values.keys() != {field.name for field in fields(IndexSettings)}:
            raise ValueError(", ".join(values))
        return IndexSettings(**values)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CollectionError(f"{place}: not the settings of an index ({error}): index its sources again") from error
