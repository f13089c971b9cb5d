"""Ensemble stage three: the encoder's logits to answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from spanqa import contract
from spanqa.guard import guarded
from spanqa.manifest import load_manifest
from spanqa.pair_template import bert_pair
from spanqa.tokenization import Pieces
from spanqa.windows import Windows
from spanqa.wire import decode_question, read_options, response_tensors


class TritonPythonModel:
    """Decodes answers with the settings that the repository keeps at question_answering."""

    def initialize(self, args: dict[str, Any]) -> None:
        """Load the manifest."""
        folder = Path(args["model_repository"]).parent / contract.QUESTION_ANSWERING / args["model_version"]
        self._manifest = load_manifest(folder)
        self._pair = self._manifest.pair or bert_pair(0, 0, 0)  # only their number matters here

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request for itself."""
        return [guarded(pb_utils, self._answers, request) for request in requests]

    def _answers(self, request: Any) -> list[Any]:
        inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        options = read_options(inputs, self._manifest, row=0)
        n_question, truncated, room = inputs[contract.QUESTION_TOKENS.name].tolist()
        starts, lengths = inputs[contract.WINDOW_TOKENS.name].T
        chars = inputs[contract.TOKEN_CHARS.name]
        windows = Windows(
            question_ids=np.zeros(n_question, dtype=np.int32),
            document=Pieces(
                ids=np.zeros(len(chars), dtype=np.int32),
                chars=chars,
                continues=inputs[contract.CONTINUES_WORD.name],
            ),
            starts=starts,
            lengths=lengths,
            room=room,
            question_truncated=bool(truncated),
            pair=self._pair,
        )
        decoded = decode_question(
            windows,
            bytes(inputs[contract.CONTEXT.name].reshape(-1)[0]).decode(),
            options,
            inputs[contract.START_LOGITS.name],
            inputs[contract.END_LOGITS.name],
            self._manifest,
        )
        tensors = response_tensors([decoded], [options.no_answer_threshold], [windows.question_truncated])
        return [pb_utils.Tensor(name, array) for name, array in tensors.items()]
