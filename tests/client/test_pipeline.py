"""The shim for callers of the pipeline that transformers no longer has."""

import pytest

from spanqa.errors import InputError
from spanqa_client.pipeline import pipeline

CONTEXT = "😀 The lake of Zürich. Zürich lies in Switzerland."
ZURICH = {"score": 0.5, "start": 14, "end": 20, "answer": "Zürich"}


@pytest.fixture
def ask(triton):
    with pipeline("question-answering", triton.url) as ask:
        yield ask


def test_one_question_gives_one_result_and_top_k_a_list(ask):
    assert ask(question="Where is Zürich?", context=CONTEXT) == ZURICH
    assert ask({"question": "Where is Zürich?", "context": CONTEXT}) == ZURICH
    best, second = ask(question="Where is Zürich?", context=CONTEXT, top_k=3)
    assert best == ZURICH
    assert CONTEXT[second["start"] : second["end"]] == second["answer"] == "Zürich"
    assert second["score"] < best["score"]
    # A list also where there is but one answer: what shape a result has must not depend on the text.
    assert ask(question="Where is lake?", context=CONTEXT, top_k=3)[0]["answer"] == "lake"


@pytest.mark.parametrize(
    "inputs",
    [
        {"question": ["Where is Zürich?", "Where is lake?"], "context": CONTEXT},
        {"question": ["Where is Zürich?", "Where is lake?"], "context": [CONTEXT, CONTEXT]},
    ],
)
def test_lists_give_lists(ask, inputs):
    assert [one["answer"] for one in ask(**inputs)] == ["Zürich", "lake"]
    assert [[one["answer"] for one in many] for many in ask(**inputs, top_k=2)] == [["Zürich", "Zürich"], ["lake"]]


def test_mappings_come_in_a_list_or_one_after_the_other(ask):
    mappings = [{"question": f"Where is {word}?", "context": CONTEXT} for word in ("lake", "Zürich")]
    assert [one["answer"] for one in ask(mappings)] == ["lake", "Zürich"]
    assert [one["answer"] for one in ask(*mappings)] == ["lake", "Zürich"]
    assert ask(mappings[:1])["answer"] == ask(mappings[0])["answer"] == "lake"  # as transformers had it
    assert ask([]) == []


def test_an_impossible_answer_is_given_only_where_it_is_asked_for(ask):
    # The fake's closest span is the first character.
    assert ask(question="Where is Bern?", context=CONTEXT)["answer"] == "😀"
    nothing = ask(question="Where is Bern?", context=CONTEXT, handle_impossible_answer=True)
    assert (nothing["answer"], nothing["start"], nothing["end"]) == ("", 0, 0)
    assert 0 < nothing["score"] <= 0.5
    first, second = ask(question="Where is Bern?", context=CONTEXT, handle_impossible_answer=True, top_k=2)
    assert (first["answer"], second["answer"]) == ("", "😀")
    found = ask(question="Where is Zürich?", context=CONTEXT, handle_impossible_answer=True, top_k=9)
    assert found[0] == ZURICH
    assert [one["answer"] for one in found].count("") == 1
    scores = [one["score"] for one in found]
    assert scores == sorted(scores, reverse=True)


def test_options_of_a_pipeline_hold_for_all_its_calls(triton):
    with pipeline("question-answering", triton.url, top_k=2, handle_impossible_answer=True) as ask:
        assert len(ask(question="Where is Zürich?", context=CONTEXT)) == 2
        assert ask(question="Where is Bern?", context=CONTEXT, top_k=1)["answer"] == ""


def test_the_longest_answer_is_sent_as_word_pieces(ask, triton):
    ask(question="Where is Zürich?", context=CONTEXT, max_answer_len=7)
    ask(question="Where is Zürich?", context=CONTEXT)
    assert [int.from_bytes(inputs["MAX_ANSWER_TOKENS"], "little") for inputs in triton.requests] == [7, 0]


@pytest.mark.parametrize(
    ("option", "reason"),
    [("doc_stride", "served model's own"), ("align_to_words", "no meaning here"), ("padding", "no meaning here")],
)
def test_what_means_nothing_here_is_ignored_with_a_reason(ask, option, reason):
    with pytest.warns(UserWarning, match=f"{option} is ignored: .*{reason}") as told:
        assert ask(question="Where is Zürich?", context=CONTEXT, **{option: 1}) == ZURICH
    assert told[0].filename == __file__


def test_a_model_in_the_call_is_told_not_to_be_the_one_that_answers(triton):
    with (
        pytest.warns(UserWarning, match="device is ignored"),
        pytest.warns(UserWarning, match="model is ignored: it is the server's own"),
        pipeline("question-answering", url=triton.url, model="deepset/minilm-uncased-squad2", device=0) as ask,
    ):
        assert ask(question="Where is Zürich?", context=CONTEXT) == ZURICH


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda ask: ask(question="Where?"), "the context is missing"),
        (lambda ask: ask(context="There."), "the question is missing"),
        (lambda ask: ask("Where?", "There."), "give a mapping"),
        (lambda ask: ask({"question": "Where?"}), "give a mapping with question and context"),
        (lambda ask: ask({"question": "a", "context": "b"}, question="c"), "give one of the two"),
        (lambda ask: ask(question=["a", "b"], context=["c"]), "2 questions and 1 contexts"),
        (lambda ask: ask(question="a", context=["c", "d"]), "use QAClient.ask_contexts"),
        (lambda ask: ask(question="", context="There."), "the question is empty"),
        (lambda ask: ask(question="a", context="b", top_k=0), "top_k is 0"),
        (lambda ask: ask(question="a", context="b", max_answer_len=0), "max_answer_tokens is 0"),
        (lambda ask: ask(question="a", context="b", beams=3), "'beams' is no option"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_sentence(ask, triton, call, message):
    with pytest.raises(InputError, match=message):
        call(ask)
    assert triton.requests == []


def test_another_task_and_the_name_of_a_model_for_an_address_are_refused():
    with pytest.raises(InputError, match="'question-answering' alone"):
        pipeline("summarization")
    with pytest.raises(InputError, match="give host:port"):
        pipeline("question-answering", "deepset/minilm-uncased-squad2")
