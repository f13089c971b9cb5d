"""Several contexts ranked, Riva's NaturalQuery, and the score of "no answer"."""

import math

import pytest

from spanqa.errors import InputError
from spanqa_client.answer import Answer, Span
from spanqa_client.contexts import ranked_contexts
from spanqa_client.natural_query import natural_query_from_answer, null_score

FILLER = "It rained all day."


def _span(text, logit, score=0.1):
    return Span(text=text, score=score, char_start=0, char_end=len(text), logit=logit)


def _answer(margin, *spans, has_answer=True, version="1"):
    return Answer(
        has_answer=has_answer, no_answer_margin=margin, question_truncated=False, spans=spans, model_version=version
    )


def test_more_contexts_than_one_request_takes_are_ranked_together(face, ranking):
    contexts = [f"{number} {FILLER}" for number in range(40, -41, -1)]
    with face(ranking.url) as client:
        found = client.ask_contexts("Which?", contexts, top_n=3)
    assert [len(rows) for _, rows in ranking.requests] == [32, 32, 17]
    assert found.has_answer
    assert (found.text, found.context_index) == ("-40", 80)
    assert [(one.text, one.context_index, one.no_answer_margin) for one in found.answers] == [
        ("-40", 80, -40.0),
        ("-39", 79, -39.0),
        ("-38", 78, -38.0),
    ]
    for one in found.answers:
        assert contexts[one.context_index][one.char_start : one.char_end] == one.text
    assert found.to_dict()["answers"][0]["context_index"] == 80


def test_long_contexts_share_fewer_to_a_request(ranking, face):
    with face(ranking.url) as client:
        found = client.ask_contexts("Which?", [f"{number} " + "x " * 300_000 for number in range(3)])
    assert [len(rows) for _, rows in ranking.requests] == [1, 1, 1]
    assert found.context_index == 0


def test_without_an_answer_anywhere_what_came_closest_is_kept(ranking, face):
    with face(ranking.url) as client:
        found = client.ask_contexts("Which?", (f"{number} {FILLER}" for number in (3, 1, 2)), top_n=2)
    assert (found.has_answer, found.text, found.context_index) == (False, "", -1)
    assert [one.text for one in found.answers] == ["1", "2"]


@pytest.mark.parametrize(
    ("contexts", "message"),
    [
        ([], "no context"),
        ("one text", "contexts is one text"),
        (["a", ""], "context at 1 is empty"),
        ([1], "context at 0"),
    ],
)
def test_contexts_that_cannot_be_asked_are_refused_before_sending(ranking, face, contexts, message):
    with face(ranking.url) as client, pytest.raises(InputError, match=message):
        client.ask_contexts("Which?", contexts)
    assert ranking.requests == []


def test_a_second_span_of_one_context_may_come_before_the_first_of_another():
    found = ranked_contexts(
        [
            _answer(-1.0, _span("c", 4.0)),
            _answer(-5.0, _span("a", 9.0), _span("b", 7.0)),
            _answer(-9.0, _span("no", 9.0), has_answer=False),
        ],
        3,
    )
    assert [(one.text, one.context_index, one.no_answer_margin) for one in found.answers] == [
        ("a", 1, -5.0),
        ("b", 1, -3.0),
        ("c", 0, -1.0),
    ]
    assert ranked_contexts([_answer(9.0, has_answer=False)], 1).answers == ()
    assert ranked_contexts([_answer(0, _span("a", 1)), _answer(0, version="2")], 1).model_versions == ("1", "2")


def test_natural_query_gives_answers_and_scores_as_rivas_clients_read_them(face, triton):
    with face(triton.url) as client:
        response = client.natural_query("Where is Zürich?", "Zürich, yes, Zürich.", top_n=2)
        assert [(result.answer, result.score) for result in response.results] == [("Zürich", 0.5), ("Zürich", 0.25)]
        assert len(client.natural_query("Where is Zürich?", "Zürich, Zürich.").results) == 1
        (nothing,) = client.natural_query("Where is Bern?", "Zürich.").results
        assert nothing.answer == ""
        assert 0 < nothing.score <= 0.5
        with pytest.raises(InputError, match="top_n is 0"):
            client.natural_query("Where?", "There.", 0)


def test_the_score_of_no_answer_is_the_server_s(face, triton):
    with face(triton.url) as client:
        assert client.ask("Where is Bern?", "Zürich.").no_answer_score == 0.375
        assert client.natural_query("Where is Bern?", "Zürich.").results[0].score == 0.375


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_of_an_older_server_it_is_worked_out_from_two_spans(temperature):
    logits, null = [3.0, 1.0, -2.0], 2.0
    weights = [math.exp(value / temperature) for value in (*logits, null)]
    scores = [weight / sum(weights) for weight in weights]
    spans = [_span("a", logit, score) for logit, score in zip(logits, scores, strict=False)]
    assert null_score(_answer(null - logits[0], *spans)) == pytest.approx(scores[-1], rel=1e-9)
    # With fewer spans than there are, the rest of them is not given to "no answer".
    assert null_score(_answer(null - logits[0], *spans[:2])) == pytest.approx(scores[-1], rel=1e-9)
    assert natural_query_from_answer(_answer(null - 3.0, *spans, has_answer=False), 1).results[0].answer == ""


def test_the_score_of_no_answer_stays_within_what_is_left():
    assert null_score(_answer(3.4e38, has_answer=False)) == 1.0
    assert null_score(_answer(900.0, _span("a", 1.0, 0.0), has_answer=False)) == 1.0
    assert null_score(_answer(900.0, _span("a", 1.0, 1e-30), has_answer=False)) == pytest.approx(1.0)
    assert null_score(_answer(-900.0, _span("a", 1.0, 1.0))) == 0.0
