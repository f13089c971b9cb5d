"""Ensemble stage one: a question and a context to the windows that the encoder reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from spanqa import contract
from spanqa.errors import InputError
from spanqa.guard import guarded
from spanqa.limits import limits_from_config
from spanqa.manifest import load_served_tokenizer
from spanqa.windows import WindowMaker, batch_windows
from spanqa.wire import read_questions


class TritonPythonModel:
    """Cuts windows; refuses a text of more windows than one encoder batch, naming the entry that takes it."""

    def initialize(self, args: dict[str, Any]) -> None:
        """Load the tokenizer that the repository keeps at question_answering."""
        folder = Path(args["model_repository"]).parent / contract.QUESTION_ANSWERING / args["model_version"]
        self._manifest, tokenizer = load_served_tokenizer(folder)
        self._limits = limits_from_config(args["model_config"], self._manifest)
        self._maker = WindowMaker(tokenizer, self._manifest.windows)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request for itself."""
        return [guarded(pb_utils, self._windows, request) for request in requests]

    def _windows(self, request: Any) -> list[Any]:
        inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        (row,) = read_questions(inputs, self._manifest, self._limits.max_context_bytes)
        windows = self._maker.windows(row.question, row.context)
        packing = self._manifest.packing
        most = packing.ensemble_rows
        if len(windows) > most:
            raise InputError(
                f"the context needs {len(windows)} windows, {contract.ENSEMBLE} takes at most {most}: ask the model "
                f"{contract.QUESTION_ANSWERING} instead, which takes texts of any length"
            )
        batch = batch_windows([(windows, index) for index in range(len(windows))], length=packing.ensemble_length)
        arrays = {
            contract.INPUT_IDS: batch.input_ids,
            contract.ATTENTION_MASK: batch.attention_mask,
            contract.TOKEN_TYPE_IDS: batch.token_type_ids,
            contract.TOKEN_CHARS: windows.document.chars,
            contract.CONTINUES_WORD: windows.document.continues,
            contract.WINDOW_TOKENS: np.stack((windows.starts, windows.lengths), axis=1),
            contract.QUESTION_TOKENS: np.array(
                [len(windows.question_ids), windows.question_truncated, windows.room], dtype=np.int32
            ),
        }
        return [pb_utils.Tensor(tensor.name, array) for tensor, array in arrays.items()]
