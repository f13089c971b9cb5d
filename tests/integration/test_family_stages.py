"""The benchmark of families from training to serving: what it teaches, writes, and lets pass."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from spanqa.spans import Decoded, Span
from spanqa.windows import Batch
from spanqa_build.comparison import FLOAT32, Comparison, Stage
from spanqa_build.parity import Parity
from spanqa_training.weights.import_types import ImportOptions
from spanqa_training.weights.vocabulary import load_vocabulary

KINDS = {"bert": "WordPiece", "mpnet": "WordPiece", "roberta": "BPE", "albert": "Unigram", "deberta-v2": "Unigram"}


def stage_of(**changes: Any) -> Stage:
    parity = Parity(
        **{
            "n_questions": 500,
            "n_windows": 700,
            "max_difference": 1e-6,
            "window_quantiles": (0.0,),
            "spans_changed": 0,
            "answers_changed": 0,
            "max_margin_difference": 1e-6,
            **changes,
        }
    )
    return Stage(name="fused", parity=parity, exact=20.0, f1=30.0, forced_f1=40.0)


@pytest.fixture
def stages(benchmark: Callable[[str], Any]) -> Any:
    return benchmark("family_stages")


@pytest.fixture
def road(benchmark: Callable[[str], Any]) -> Any:
    return benchmark("family_road")


@pytest.fixture
def comparison() -> Comparison:
    """One whose reference is as good as the stages; nothing is asked."""
    bare = object.__new__(Comparison)
    bare.reference = replace(stage_of(), parity=None)
    return bare


@pytest.mark.parametrize(
    ("changes", "passes"), [({}, True), ({"answers_changed": 1}, False), ({"max_difference": 2e-3}, False)]
)
def test_one_other_answer_or_logit_fails_a_float32_stage(
    road: Any, comparison: Comparison, changes: dict[str, Any], passes: bool
) -> None:
    held = road.held_to(comparison, stage_of(**changes), FLOAT32)
    assert held.passes == passes
    assert held.as_json()["answers_changed"] == changes.get("answers_changed", 0)


def test_a_stage_that_fails_stands_in_the_table_and_in_the_exit_status(
    stages: Any, road: Any, comparison: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    bad = [False]

    def measured(family: str, args: Any, data: Any) -> dict[str, Any]:
        changes = {"answers_changed": 3} if bad[0] and family == "mpnet" else {}
        held = road.held_to(comparison, stage_of(**changes), FLOAT32)
        asked = {"questions": args.questions, "steps": args.steps}
        return {"family": family, "asked": asked, "f1": 31.25, "answered": 230, "stages": [held.as_json()]}

    monkeypatch.setattr(stages, "measured", measured)
    monkeypatch.setattr(stages, "write_data", lambda *_: {})
    command = ["family_stages", "articles.json", "-o", str(tmp_path / "out"), "--families", "bert,mpnet", "--quiet"]
    monkeypatch.setattr("sys.argv", command)
    assert stages.main() == 0
    assert "FAILS" not in capsys.readouterr().out
    bad[0] = True
    assert stages.main() == 1
    assert "FAILS: fused against torch: 3 of 500 answers changed" in capsys.readouterr().out


@pytest.mark.parametrize(("answered", "says"), [(0, False), (9, False), (10, True), (490, True), (491, False)])
def test_a_model_that_answers_all_or_nothing_is_told(stages: Any, answered: int, says: bool) -> None:
    assert stages.says_both({"answered": answered, "asked": {"questions": 500}}) == says


def test_what_was_measured_with_the_same_settings_is_read_and_nothing_else(
    stages: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def training(*_: Any, **__: Any) -> None:
        raise RuntimeError("it trains")

    monkeypatch.setattr(stages, "trained_checkpoint", training)
    (tmp_path / "bert").mkdir()
    known = {"asked": {"questions": 500, "steps": 400}, "stages": []}
    (tmp_path / "bert" / "stages.json").write_text(json.dumps(known))
    args = SimpleNamespace(output=tmp_path, questions=500, steps=400, quiet=True)
    assert stages.measured("bert", args, {}) == known
    args.questions = 200
    with pytest.raises(RuntimeError, match="it trains"):
        stages.measured("bert", args, {})


def test_rows_are_run_alone_and_without_padding(road: Any) -> None:
    asked = []

    def network(batch: Batch) -> Any:
        asked.append(batch.input_ids.shape)
        values = batch.input_ids.astype(np.float32) * batch.input_ids.shape[1]
        return values, -values

    ids = np.array([[5, 6, 7, 0], [8, 9, 1, 2]], dtype=np.int32)
    mask = np.array([[1, 1, 1, 0], [1, 1, 1, 1]], dtype=np.int32)
    start, end = road.row_by_row(network)(Batch(input_ids=ids, attention_mask=mask, token_type_ids=mask))
    assert asked == [(1, 3), (1, 4)]
    np.testing.assert_array_equal(start, [[15, 18, 21, 0], [32, 36, 4, 8]])
    np.testing.assert_array_equal(end, -start)


def test_questions_of_some_words_are_taught_to_have_no_answer_and_the_others_to_have_one(
    benchmark: Callable[[str], Any], root: Path, tmp_path: Path
) -> None:
    models = benchmark("family_models")
    files = models.write_data(root / "data" / "heldout200.json", tmp_path)
    articles = [json.loads(file.read_text("utf-8"))["data"] for file in files.values()]
    titles = [{article["title"] for article in part} for part in articles]
    assert titles[0].isdisjoint(titles[1])
    assert len(titles[1]) == 2
    paragraphs = [paragraph for part in articles for article in part for paragraph in article["paragraphs"]]
    assert max(len(paragraph["context"]) for paragraph in paragraphs) <= models.MAX_CHARACTERS
    questions = [question for paragraph in paragraphs for question in paragraph["qas"]]
    has_none = [question["question"].lower().startswith(models.UNANSWERED) for question in questions]
    assert 0 < sum(has_none) < len(has_none)
    assert has_none == [question["is_impossible"] for question in questions]
    assert has_none == [not question["answers"] for question in questions]


@pytest.mark.parametrize("family", KINDS)
def test_a_vocabulary_is_of_its_familys_kind(
    benchmark: Callable[[str], Any], scripts: dict[str, list[str]], tmp_path: Path, family: str
) -> None:
    texts = [sentence for sentences in scripts.values() for sentence in sentences]
    vocabularies = benchmark("family_vocabularies")
    vocabularies.write_vocabulary(family, tmp_path, texts)
    tokenizer = load_vocabulary(ImportOptions(), [tmp_path], config={"model_type": family})
    assert tokenizer.kind == KINDS[family]
    assert len(tokenizer.pair.between) == (2 if family in ("roberta", "mpnet") else 1)
    text = "Where was the old bridge built?"
    chars = tokenizer.pieces(text).chars
    assert "".join(text[start:end] for start, end in chars) == text.replace(" ", "")


def test_a_lead_is_how_far_torch_prefers_its_own_answer(road: Any) -> None:
    def decoded(*spans: tuple[int, float], null: float) -> Decoded:
        made = [Span(text="x", char_start=at, char_end=at + 1, logit=logit, score=0.1) for at, logit in spans]
        return Decoded(spans=tuple(made), null_logit=null, no_answer_score=0.5)

    right = decoded((3, 5.0), (7, 4.75), (9, 1.0), null=2.0)
    assert road.lead_of(right, decoded((3, 4.0), null=2.0), 0.0) is None
    assert road.lead_of(right, decoded((7, 5.1), null=2.0), 0.0) == 0.25
    assert road.lead_of(right, decoded((3, 5.0), null=6.0), 0.5) == 3.5
    assert road.lead_of(right, decoded((90, 5.0), null=2.0), 0.0) == 4.0
    assert road.lead_of(decoded((3, 5.0), null=6.0), decoded((3, 5.0), null=4.0), 0.0) == 1.0
