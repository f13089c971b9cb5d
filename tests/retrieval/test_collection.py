"""Answers from several passages: the best of all, with their places in the documents, each place once."""

import pytest

from spanqa.errors import InputError
from spanqa_client.answer import Answer, Span
from spanqa_client.errors import ServerUnavailable
from spanqa_retrieval.asking import Asking
from spanqa_retrieval.collection import Collection, ranked
from spanqa_retrieval.document import Passage
from spanqa_retrieval.engine import Hit

TEXT = "Nobody knew. The bridge was built in 1832 by two brothers. It fell."
THRESHOLD = -1.0


def hit(text=TEXT, score=3.0, **fields):
    return Hit(passage=Passage(**({"document": "d", "title": "", "text": text, "char_start": 0} | fields)), score=score)


def read(*spans, margin, text=TEXT, version="1"):
    """What the reader says: spans by their words and logits."""
    made = [
        Span(text=words, score=0.5, char_start=text.index(words), char_end=text.index(words) + len(words), logit=logit)
        for words, logit in spans
    ]
    return Answer(
        has_answer=margin <= THRESHOLD,
        no_answer_margin=margin,
        question_truncated=False,
        spans=tuple(made),
        model_version=version,
    )


def test_an_answer_says_where_it_stands_in_its_document():
    where = hit(char_start=100, document="a.pdf", title="Bridges", page_starts=(0, 20), first_page=4)
    answer = ranked([where], [read(("1832", 5.0), margin=-3.0)], Asking())
    assert answer.has_answer
    assert answer.text == "1832"
    assert answer.to_dict() == {
        "answers": [
            {
                "document": "a.pdf",
                "title": "Bridges",
                "page": 5,
                "text": "1832",
                "char_start": 100 + TEXT.index("1832"),
                "char_end": 104 + TEXT.index("1832"),
                "sentence": "The bridge was built in 1832 by two brothers.",
                "sentence_start": 100 + TEXT.index("The"),
                "sentence_end": 100 + TEXT.index(" It fell"),
                "score": 3.0,
                "no_answer_margin": -3.0,
                "retrieval_score": 3.0,
            }
        ],
        "has_answer": True,
    }


def test_the_best_answers_of_all_passages_come_first():
    hits = [hit(document="a"), hit(document="b")]
    answers = [read(("1832", 5.0), ("two brothers", 2.0), margin=-2.0), read(("It fell", 6.0), margin=-4.0)]
    best = ranked(hits, answers, Asking(top_n=2)).answers
    assert [(one.document, one.text, one.no_answer_margin) for one in best] == [
        ("b", "It fell", -4.0),
        ("a", "1832", -2.0),
    ]
    third = ranked(hits, answers, Asking(top_n=3)).answers[2]
    assert (third.text, third.no_answer_margin, third.score) == ("two brothers", 1.0, -1.0)


def test_one_place_that_two_passages_share_is_one_answer():
    later = TEXT[TEXT.index("The") :]
    hits = [hit(), hit(later, char_start=TEXT.index("The")), hit(document="other")]
    answers = [
        read(("1832", 5.0), margin=-2.0),
        read(("in 1832", 5.0), margin=-3.0, text=later),
        read(("1832", 5.0), margin=-1.5),
    ]
    best = ranked(hits, answers, Asking(top_n=5)).answers
    assert [(one.document, one.text) for one in best] == [("d", "in 1832"), ("other", "1832")]


def test_documents_of_one_id_are_told_apart_by_their_text():
    other = "Nobody knew. The bridge was built in 1944 by two brothers. It fell."
    answers = [read(("1832", 5.0), margin=-2.0), read(("1944", 5.0), margin=-3.0, text=other)]
    best = ranked([hit(), hit(other)], answers, Asking(top_n=5)).answers
    assert [one.text for one in best] == ["1944", "1832"]


def test_a_weight_lets_the_index_have_a_say():
    hits = [hit(document="a", score=20.0), hit(document="b", score=1.0)]
    answers = [read(("1832", 5.0), margin=-2.0), read(("1832", 5.0), margin=-4.0)]
    assert ranked(hits, answers, Asking()).answers[0].document == "b"
    assert ranked(hits, answers, Asking(weight=0.5)).answers[0].document == "a"


def test_there_is_no_answer_where_every_passage_says_so():
    answers = [read(("1832", 5.0), margin=0.0), read(("It fell", 6.0), margin=-0.5)]
    answer = ranked([hit(document="a"), hit(document="b")], answers, Asking(top_n=2))
    assert not answer.has_answer
    assert answer.text == ""
    assert [one.text for one in answer.answers] == ["It fell", "1832"]  # what came closest


def test_a_passage_that_answers_comes_before_one_that_does_not_whatever_the_weight():
    hits = [hit(document="a", score=50.0), hit(document="b", score=1.0)]
    answers = [read(("1832", 5.0), margin=0.0), read(("It fell", 6.0), margin=-1.5)]
    assert [one.document for one in ranked(hits, answers, Asking(weight=0.9, top_n=5)).answers] == ["b"]


def test_nothing_found_and_nothing_to_choose_from_is_no_answer():
    for hits, answers in (([], []), ([hit()], [read(margin=3e38)])):
        answer = ranked(hits, answers, Asking())
        assert (answer.has_answer, answer.answers, answer.text) == (False, (), "")


@pytest.mark.parametrize(
    "wrong",
    [
        {"top_k": 0},
        {"top_k": 33},
        {"top_n": 0},
        {"top_n": 65},
        {"weight": -0.1},
        {"weight": float("nan")},
        {"filters": {"a": "b"}},
    ],
)
def test_what_is_out_of_range_is_refused(wrong):
    (name,) = wrong
    with pytest.raises(InputError, match=f"{name.rstrip('s')}.* is .*: give "):
        Asking(**wrong)


class FakeIndex:
    def __init__(self, hits):
        self.hits, self.asked = hits, []

    def search(self, query, *, top_k, filters=None):
        self.asked.append((query, top_k, filters))
        return self.hits[:top_k]


class FakeClient:
    """Answers each row of a request with what stands for its text."""

    def __init__(self, answers):
        self.answers, self.requests = answers, []

    def ask_rows(self, rows, **options):
        self.requests.append((rows, options))
        if rows[0][0] == "broken":
            raise ServerUnavailable("away")
        return [self.answers[text] for _, text in rows]


@pytest.fixture
def collection():
    hits = [hit("one 1", document="a"), hit("two 2", document="b"), hit("three 3", document="c")]
    answers = {
        text: read((text, 5.0), margin=margin, text=text)
        for text, margin in (("one 1", -2.0), ("two 2", -3.0), ("three 3", -9.0))
    }
    return Collection(FakeIndex(hits), FakeClient(answers))


def test_all_passages_of_a_question_go_in_one_request(collection):
    asking = Asking(top_k=2, filters={"lang": ["en"]}, no_answer_threshold=-1.5, max_answer_tokens=7, top_n=3)
    answer = collection.ask("who?", asking, timeout_s=5.0)
    assert answer.text == "two 2"
    assert (answer.n_passages, answer.model_version) == (2, "1")
    assert collection.index.asked == [("who?", 2, {"lang": ["en"]})]
    ((rows, options),) = collection.client.requests
    assert rows == [("who?", "one 1"), ("who?", "two 2")]
    assert options == {
        "top_n": 3, "no_answer_threshold": -1.5, "max_answer_tokens": 7, "distinct": True, "timeout_s": 5.0
    }  # fmt: skip


def test_many_questions_come_back_in_order_with_errors_in_their_place(collection):
    outcomes = list(collection.ask_many(["who?", "broken", "where?"], Asking(top_k=1), concurrency=2))
    assert [getattr(one, "text", str(one)) for one in outcomes] == ["one 1", "away", "one 1"]
    assert isinstance(outcomes[1], ServerUnavailable)
