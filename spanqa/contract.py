"""The wire contract: model names, tensor names, dtypes, shapes and limits that every stage shares."""

from __future__ import annotations

from dataclasses import dataclass

PREPROCESS = "preprocess"
ENCODER = "encoder"
POSTPROCESS = "postprocess"
ENSEMBLE = "question_answering_ensemble"
QUESTION_ANSWERING = "question_answering"
MODELS = (PREPROCESS, ENCODER, POSTPROCESS, ENSEMBLE, QUESTION_ANSWERING)

MAX_TOP_N = 64
"""Most answers one question may ask for."""
MAX_ROWS = 32
"""Most questions of one request."""
DEFAULT_TOP_N = 1
DEFAULT_MAX_ANSWER_TOKENS = 30
"""Longest answer in word pieces, as in BERT's SQuAD script."""
DEFAULT_MAX_CONTEXT_BYTES = 2_000_000
"""Longest context a server accepts, in UTF-8 bytes, unless its manifest says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One tensor of a model's interface.

    Args:
        name: The tensor's name on the wire.
        dtype: Triton's datatype in requests: BYTES, INT32, FP32 or BOOL.
        dims: Shape without the batch dimension; -1 is variable.
        optional: Whether a request may leave it out; an output, whether older servers do.
    """

    name: str
    dtype: str
    dims: tuple[int, ...]
    optional: bool = False


QUESTION = Tensor(name="QUESTION", dtype="BYTES", dims=(1,))
CONTEXT = Tensor(name="CONTEXT", dtype="BYTES", dims=(1,))
TOP_N = Tensor(name="TOP_N", dtype="INT32", dims=(1,), optional=True)
NO_ANSWER_THRESHOLD = Tensor(name="NO_ANSWER_THRESHOLD", dtype="FP32", dims=(1,), optional=True)
MAX_ANSWER_TOKENS = Tensor(name="MAX_ANSWER_TOKENS", dtype="INT32", dims=(1,), optional=True)
DISTINCT = Tensor(name="DISTINCT", dtype="BOOL", dims=(1,), optional=True)
INPUTS = (QUESTION, CONTEXT, TOP_N, NO_ANSWER_THRESHOLD, MAX_ANSWER_TOKENS, DISTINCT)
OWN_THRESHOLD = float("nan")
"""NO_ANSWER_THRESHOLD that leaves it to the model that answers, as leaving it out does."""
OWN_MAX_ANSWER_TOKENS = 0
"""The same for MAX_ANSWER_TOKENS."""

ANSWER = Tensor(name="ANSWER", dtype="BYTES", dims=(-1,))
SCORE = Tensor(name="SCORE", dtype="FP32", dims=(-1,))
CHAR_START = Tensor(name="CHAR_START", dtype="INT32", dims=(-1,))
CHAR_END = Tensor(name="CHAR_END", dtype="INT32", dims=(-1,))
LOGIT = Tensor(name="LOGIT", dtype="FP32", dims=(-1,))
NO_ANSWER_MARGIN = Tensor(name="NO_ANSWER_MARGIN", dtype="FP32", dims=(1,))
HAS_ANSWER = Tensor(name="HAS_ANSWER", dtype="BOOL", dims=(1,))
QUESTION_TRUNCATED = Tensor(name="QUESTION_TRUNCATED", dtype="BOOL", dims=(1,))
NO_ANSWER_SCORE = Tensor(name="NO_ANSWER_SCORE", dtype="FP32", dims=(1,), optional=True)
OUTPUTS = (
    *(ANSWER, SCORE, CHAR_START, CHAR_END, LOGIT),
    *(NO_ANSWER_MARGIN, HAS_ANSWER, QUESTION_TRUNCATED, NO_ANSWER_SCORE),
)

INPUT_IDS = Tensor(name="input_ids", dtype="INT32", dims=(-1,))
ATTENTION_MASK = Tensor(name="attention_mask", dtype="INT32", dims=(-1,))
TOKEN_TYPE_IDS = Tensor(name="token_type_ids", dtype="INT32", dims=(-1,))
ENCODER_INPUTS = (INPUT_IDS, ATTENTION_MASK, TOKEN_TYPE_IDS)

START_LOGITS = Tensor(name="start_logits", dtype="FP32", dims=(-1,))
END_LOGITS = Tensor(name="end_logits", dtype="FP32", dims=(-1,))
ENCODER_OUTPUTS = (START_LOGITS, END_LOGITS)

LOWEST_LOGIT = -3.4028234663852886e38
"""The lowest finite float32, LOGIT of a span that is not there: JSON, which Triton's HTTP endpoint writes, knows no
infinity."""

# What preprocess hands to postprocess beside the encoder's inputs, in the ensemble.
TOKEN_CHARS = Tensor(name="TOKEN_CHARS", dtype="INT32", dims=(-1, 2))
"""Character start and end (exclusive) of each word piece of the context."""
CONTINUES_WORD = Tensor(name="CONTINUES_WORD", dtype="BOOL", dims=(-1,))
"""Whether each word piece of the context belongs to the word of the piece before it."""
WINDOW_TOKENS = Tensor(name="WINDOW_TOKENS", dtype="INT32", dims=(-1, 2))
"""First context word piece of each window, and how many it holds."""
QUESTION_TOKENS = Tensor(name="QUESTION_TOKENS", dtype="INT32", dims=(3,))
"""Word pieces of the question in every window, whether it was truncated (0 or 1), and a window's room."""
STAGE_TENSORS = (TOKEN_CHARS, CONTINUES_WORD, WINDOW_TOKENS, QUESTION_TOKENS)
