"""The model's part of a spec: windows and answers, tokenizer, encoder and head."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from spanqa_training.data.labels import KEEP_DOC_SPANS
from spanqa_training.errors import check_spec


@dataclass(frozen=True, kw_only=True)
class ModelDatasetSpec:
    """How text becomes windows, and windows answers; null leaves a restored model as it is."""

    max_seq_length: int | None = None
    """Longest encoder input in word pieces (384)."""
    doc_stride: int | None = None
    """Step between windows in word pieces (128)."""
    max_query_length: int | None = None
    """Longest question in word pieces (64)."""
    max_answer_length: int | None = None
    """Longest answer in word pieces (30)."""
    word_boundaries: bool | None = None
    """Whether answers begin and end where words do (true for what is trained; a model from elsewhere keeps its own)."""
    version_2_with_negative: bool | None = None
    """Whether a question may have no answer (true); false answers every question."""
    null_score_diff_threshold: float | None = None
    """No answer where the margin is above this; null tunes it on the validation data (the old toolkit's was 0)."""
    n_best_size: int = 20
    """Spans in nbest.txt."""
    keep_doc_spans: str = "all"
    """Training windows kept: all, only_positive or limited_negative (the ten nearest to the answer)."""
    do_lower_case: bool | None = None
    """For a bare model.tokenizer.vocab_file: whether text is lower-cased (true)."""
    use_cache: bool = True
    """Whether the index of the training windows is kept in the results for the next run."""
    num_workers: int = 2
    """Threads that prepare batches ahead; 0 prepares each when it is needed."""
    pin_memory: bool = False
    """Whether batches lie in page-locked memory, from where a GPU copies faster."""
    drop_last: bool = False
    """Whether to leave out a last batch that is not full."""

    def __post_init__(self) -> None:
        key = "model.dataset"
        check_spec(
            self.keep_doc_spans in KEEP_DOC_SPANS,
            f"{key}.keep_doc_spans",
            ", ".join(KEEP_DOC_SPANS),
            self.keep_doc_spans,
        )
        check_spec(1 <= self.n_best_size <= 1000, f"{key}.n_best_size", "in 1..1000", self.n_best_size)
        check_spec(self.num_workers >= 0, f"{key}.num_workers", "at least 0", self.num_workers)
        for name in ("max_seq_length", "doc_stride", "max_query_length", "max_answer_length"):
            value = getattr(self, name)
            check_spec(value is None or value >= 1, f"{key}.{name}", "at least 1", value)


@dataclass(frozen=True, kw_only=True)
class TokenizerSpec:
    """Where the tokenizer comes from."""

    tokenizer_name: str | None = None
    """A model whose tokenizer is used; the language model's own where not given."""
    vocab_file: str | None = None
    """A vocab.txt or tokenizer.json in its place."""


@dataclass(frozen=True, kw_only=True)
class LanguageModelSpec:
    """The encoder that a new model starts from, and the dropout of a run."""

    pretrained_model_name: str | None = "bert-base-uncased"
    """A folder or file, or a name below $SPANQA_MODELS or of the Hugging Face Hub."""
    lm_checkpoint: str | None = None
    """Weights in its place: a Megatron-LM file, a Hugging Face folder, a .nemo."""
    config_file: str | None = None
    """A Hugging Face config.json; without lm_checkpoint the model starts from random weights."""
    config: dict[str, Any] | None = None
    """The same, written out; config_file has precedence."""
    dropout: float | None = None
    """Dropout of embeddings and layers in this run; null is the model's own, which is stored with it either way."""
    attention_dropout: float | None = None
    """The same of attention. On a CPU a step without it takes less time."""

    def __post_init__(self) -> None:
        for name in ("dropout", "attention_dropout"):
            _check_share(f"model.language_model.{name}", getattr(self, name))

    def given_dropout(self) -> dict[str, Any]:
        """Give what takes the place of the model's own dropout, by fields of `EncoderConfig`."""
        asked = {"dropout": self.dropout, "attention_dropout": self.attention_dropout}
        return {name: value for name, value in asked.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class TokenClassifierSpec:
    """The head of a new model: one linear layer to a start and an end logit."""

    dropout: float = 0.0
    """Dropout before the head while training."""
    use_transformer_init: bool = True
    """Whether a fresh head is drawn as the encoder's layers are (normal, initializer_range), or as torch draws one."""

    def __post_init__(self) -> None:
        _check_share("model.token_classifier.dropout", self.dropout)


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The model."""

    dataset: ModelDatasetSpec = field(default_factory=ModelDatasetSpec)
    tokenizer: TokenizerSpec = field(default_factory=TokenizerSpec)
    language_model: LanguageModelSpec = field(default_factory=LanguageModelSpec)
    token_classifier: TokenClassifierSpec = field(default_factory=TokenClassifierSpec)


def _check_share(key: str, value: float | None) -> None:
    check_spec(value is None or 0 <= value < 1, key, "from 0 up to, not including, 1", value)
