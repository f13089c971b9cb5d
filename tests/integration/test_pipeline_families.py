"""Models of other families that are made of the default model's weights say what it says, as far as they can."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from spanqa.windows import WindowMaker, batch_windows
from spanqa_training.checkpoints.checkpoint import load_checkpoint

QUESTION, CONTEXT = "When was the bridge built?", "The first bridge was built in 1907 and widened in 1950."


@pytest.fixture(scope="module")
def shipped(benchmark: Callable[[str], Any]) -> Any:
    return load_checkpoint(benchmark("pipeline_families").SHIPPED)


def logits_of(model: Any, windows: Any, *, typed: bool) -> Any:
    batch = batch_windows([(windows, 0)])
    arrays = (batch.input_ids, batch.attention_mask, batch.token_type_ids * typed)
    with torch.inference_mode():
        return torch.stack(model.eval()(*map(torch.from_numpy, arrays)))


@pytest.mark.parametrize(("family", "typed"), [("electra", True), ("distilbert", False), ("mpnet", False)])
def test_the_weights_say_what_they_said(
    benchmark: Callable[[str], Any], shipped: Any, family: str, typed: bool
) -> None:
    checkpoint, model = benchmark("pipeline_families").reshaped(*shipped, family)
    windows = WindowMaker(checkpoint.tokenizer(), checkpoint.windows).windows(QUESTION, CONTEXT)
    wanted = logits_of(shipped[1], windows, typed=typed)
    assert torch.allclose(logits_of(model, windows, typed=True), wanted, atol=1e-5)


def test_robertas_pair_has_two_separators(benchmark: Callable[[str], Any], shipped: Any) -> None:
    checkpoint, model = benchmark("pipeline_families").reshaped(*shipped, "roberta")
    tokenizer = checkpoint.tokenizer()
    windows = WindowMaker(tokenizer, checkpoint.windows).windows(QUESTION, CONTEXT)
    batch = batch_windows([(windows, 0)])
    assert batch.input_ids[0].tolist().count(tokenizer.pair.between[0]) == 3
    assert not batch.token_type_ids.any()
    assert logits_of(model, windows, typed=True).isfinite().all()
