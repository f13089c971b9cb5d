"""A good file is read as it stands; a broken one gives one error that names file, place and fault."""

import copy
import gzip
import json
from pathlib import Path

import pytest

from spanqa.datasets import iter_dataset, read_dataset
from spanqa.squad import GoldAnswer

DOCUMENT = json.loads((Path(__file__).parents[1] / "data" / "bridges.json").read_text(encoding="utf-8"))
CONTEXT = DOCUMENT["data"][0]["paragraphs"][0]["context"]
QA = ("data", 0, "paragraphs", 0, "qas", 0)


def changed(path, value):
    """The document with one value replaced, or removed where the value is Ellipsis."""
    document = copy.deepcopy(DOCUMENT)
    parent = document
    for key in path[:-1]:
        parent = parent[key]
    if value is ...:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return document


def test_a_file_is_read_in_order_with_titles_answers_and_paragraphs(written):
    first, second, third = read_dataset(written(DOCUMENT))
    assert (first.id, first.question, first.title, first.context) == ("q1", "When was it built?", "Bridges", CONTEXT)
    assert first.answers == (GoldAnswer("1907", 26), GoldAnswer("in 1907", 23))
    assert CONTEXT[26 : first.answers[0].char_end] == "1907"
    assert (second.id, second.answers) == ("q2", ())
    assert [first.paragraph, second.paragraph, third.paragraph] == [0, 0, 1]


def test_squad_1_needs_no_is_impossible_and_no_title(written):
    document = changed((*QA, "is_impossible"), ...)
    del document["data"][0]["title"], document["data"][0]["paragraphs"][0]["qas"][1]
    examples = read_dataset(written(document))
    assert [example.id for example in examples] == ["q1", "q3"]
    assert {example.title for example in examples} == {""}


@pytest.mark.parametrize("name", ["squad.json.gz", "squad.json"])
def test_a_gzipped_file_is_known_by_its_first_bytes(written, name):
    plain = json.dumps(DOCUMENT).encode()
    assert read_dataset(written(gzip.compress(plain, mtime=0), name)) == read_dataset(written(plain, "plain.json"))


def test_a_byte_order_mark_is_no_fault(written):
    assert len(read_dataset(written(b"\xef\xbb\xbf" + json.dumps(DOCUMENT).encode()))) == 3


def test_a_surrogate_pair_written_as_escapes_is_one_character(written):
    assert "\\ud83c\\udf09" in json.dumps(DOCUMENT)
    assert read_dataset(written(DOCUMENT))[0].context == CONTEXT


@pytest.mark.parametrize("title", [{}, {"title": "Late"}])
def test_a_title_behind_its_paragraphs_counts_for_them(written, title):
    document = {"data": [{"paragraphs": DOCUMENT["data"][0]["paragraphs"], **title}]}
    examples = read_dataset(written(document))
    assert [example.paragraph for example in examples] == [0, 0, 1]
    assert {example.title for example in examples} == {title.get("title", "")}


def test_the_official_dev_file_is_read(root):
    examples = read_dataset(root / "tests/data/squad/dev-v2.0.json.gz")
    assert len(examples) == 11_873
    assert sum(not example.answers for example in examples) == 5_945
    assert len({example.id for example in examples}) == 11_873
    assert max(example.paragraph for example in examples) == 1_203


def test_a_question_without_the_key_answers_can_be_read_to_predict_on(written, tools):
    path = written(changed((*QA, "answers"), ...))
    tools.assert_one_error(path, "data[0].paragraphs[0].qas[0].answers: missing", "'id', 'question', 'is_impossible'")
    assert read_dataset(path, require_answers=False)[0].answers == ()


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (("data",), "data: missing; keys here: 'version'"),
        (("data", 0, "paragraphs"), "data[0].paragraphs: missing; keys here: 'title'"),
        (("data", 0, "paragraphs", 1, "context"), "data[0].paragraphs[1].context: missing"),
        (("data", 0, "paragraphs", 1, "qas"), "data[0].paragraphs[1].qas: missing"),
        ((*QA, "id"), "data[0].paragraphs[0].qas[0].id: missing"),
        ((*QA, "question"), "data[0].paragraphs[0].qas[0].question: missing"),
        ((*QA, "answers"), "data[0].paragraphs[0].qas[0].answers: missing"),
        ((*QA, "answers", 1, "text"), "data[0].paragraphs[0].qas[0].answers[1].text: missing; keys here: 'answer_st"),
        ((*QA, "answers", 1, "answer_start"), "data[0].paragraphs[0].qas[0].answers[1].answer_start: missing"),
    ],
)
def test_a_missing_key_is_named_at_every_level(written, path, place, tools):
    tools.assert_one_error(written(changed(path, ...)), place)


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        (("data",), {"a": 1}, 'data: expected a list, got an object ({"a": 1})'),
        (("data",), None, "data: expected a list, got null"),
        (("data", 0), "text", 'data[0]: expected an object, got a string ("text")'),
        (("data", 0, "title"), 7, "data[0].title: expected a string, got an integer (7)"),
        (("data", 0, "paragraphs"), True, "data[0].paragraphs: expected a list, got true or false (true)"),
        (("data", 0, "paragraphs", 0), [], "data[0].paragraphs[0]: expected an object, got a list ([])"),
        (("data", 0, "paragraphs", 0, "context"), ["x"], "data[0].paragraphs[0].context: expected a string, got a l"),
        ((*QA, "id"), 1.5, "data[0].paragraphs[0].qas[0].id: expected a string, got float (1.5)"),
        ((*QA, "question"), None, "data[0].paragraphs[0].qas[0].question: expected a string, got null"),
        ((*QA, "is_impossible"), "no", "data[0].paragraphs[0].qas[0].is_impossible: expected true or false, got a s"),
        ((*QA, "answers"), "1907", "data[0].paragraphs[0].qas[0].answers: expected a list, got a string"),
        ((*QA, "answers", 0), "1907", "data[0].paragraphs[0].qas[0].answers[0]: expected an object, got a string"),
        ((*QA, "answers", 0, "text"), 1907, "data[0].paragraphs[0].qas[0].answers[0].text: expected a string, got a"),
        ((*QA, "answers", 0, "answer_start"), "26", "data[0].paragraphs[0].qas[0].answers[0].answer_start: expected"),
        ((*QA, "answers", 0, "answer_start"), 26.0, "data[0].paragraphs[0].qas[0].answers[0].answer_start: expected"),
        ((*QA, "answers", 0, "answer_start"), True, "data[0].paragraphs[0].qas[0].answers[0].answer_start: expected"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_at_every_level(written, path, value, place, tools):
    tools.assert_one_error(written(changed(path, value)), place)


def test_a_long_value_is_shown_shortened(written, tools):
    tools.assert_one_error(written(changed(("data",), "x" * 10_000)), "data: expected a list, got a string", "xxx...)")


@pytest.mark.parametrize("document", [5, "text", None])
def test_a_file_that_is_no_object_is_refused(written, document, tools):
    tools.assert_one_error(written(document), "top level: expected an object")


def test_an_id_used_twice_names_both_places(written, tools):
    path = written(changed(("data", 0, "paragraphs", 1, "qas", 0, "id"), "q1"))
    tools.assert_one_error(path, "data[0].paragraphs[1].qas[0].id: 'q1' is also the id of data[0].paragraphs[0].qas[0]")


def test_ids_with_the_same_hash_are_not_the_same(written, monkeypatch, tools):
    monkeypatch.setattr("spanqa.examples.hash", lambda _: 7, raising=False)
    assert len(read_dataset(written(DOCUMENT))) == 3
    path = written(changed(("data", 0, "paragraphs", 1, "qas", 0, "id"), "q1"))
    tools.assert_one_error(path, "data[0].paragraphs[1].qas[0].id: 'q1' is also the id of data[0].paragraphs[0].qas[0]")


@pytest.mark.parametrize("start", [25, 27, -4, 10**6, -(10**6)])
def test_a_wrong_offset_says_where_the_answer_stands(written, start, tools):
    path = written(changed((*QA, "answers", 0, "answer_start"), start))
    tools.assert_one_error(
        path, f"data[0].paragraphs[0].qas[0].answers[0].answer_start: {start} holds", "'1907'", "it stands at 26"
    )


def test_an_offset_in_utf16_units_is_wrong(written, tools):
    tools.assert_one_error(
        written(changed((*QA, "answers", 0, "answer_start"), 27)), "data[0].paragraphs[0].qas[0].answers[0].", "at 26"
    )


def test_a_negative_offset_that_python_would_accept_is_refused(written, tools):
    document = changed((*QA, "answers", 0), {"text": "1907", "answer_start": -5})
    assert CONTEXT[-5:-1] == "1907"
    tools.assert_one_error(
        written(document), "data[0].paragraphs[0].qas[0].answers[0].answer_start: -5", "it stands at 26"
    )


def test_an_answer_that_is_nowhere_in_the_context_is_refused(written, tools):
    document = changed((*QA, "answers", 0, "text"), "1908")
    tools.assert_one_error(
        written(document), "data[0].paragraphs[0].qas[0].answers[0].answer_start: 26", "stands nowhere"
    )


def test_an_empty_answer_is_refused(written, tools):
    document = changed((*QA, "answers", 0, "text"), "")
    tools.assert_one_error(written(document), "data[0].paragraphs[0].qas[0].answers[0].text: is empty", "empty list")


@pytest.mark.parametrize(
    ("index", "state", "words"), [(0, True, "true, yet answers are given"), (1, False, "false, yet there is no answer")]
)
def test_is_impossible_must_agree_with_the_answers(written, index, state, words, tools):
    path = written(changed(("data", 0, "paragraphs", 0, "qas", index, "is_impossible"), state))
    tools.assert_one_error(path, f"data[0].paragraphs[0].qas[{index}].is_impossible: is {words}")


@pytest.mark.parametrize("question", ["", " ", "\t\n\u00a0"])
def test_an_empty_question_is_refused(written, question, tools):
    tools.assert_one_error(
        written(changed((*QA, "question"), question)), "data[0].paragraphs[0].qas[0].question: is empty"
    )


@pytest.mark.parametrize("key", ["question", "id"])
def test_half_a_surrogate_pair_in_a_question_is_refused(written, key, tools):
    path = written(changed((*QA, key), "ab\ud83c"))
    tools.assert_one_error(path, f"data[0].paragraphs[0].qas[0].{key}: character 2 is half of a surrogate pair")


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (("data", 0, "title"), "data[0].title"),
        (("data", 0, "paragraphs", 0, "context"), "data[0].paragraphs[0].context"),
        ((*QA, "answers", 0, "text"), "data[0].paragraphs[0].qas[0].answers[0].text"),
    ],
)
def test_half_a_surrogate_pair_is_refused_wherever_it_stands(written, path, place, tools):
    tools.assert_one_error(written(changed(path, "\udc00x")), f"{place}: character 0 is half of a surrogate pair")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "latin-1"])
def test_another_encoding_is_told_apart_from_bad_json(written, encoding, tools):
    text = json.dumps(changed(("data", 0, "title"), "Brücke"), ensure_ascii=False).replace("🌉", "é")
    data = text.encode(encoding)
    tools.assert_one_error(written(data), "byte ", "not UTF-8", "convert the file to UTF-8")


@pytest.mark.parametrize(
    "document",
    [{"data": []}, {"data": [{"paragraphs": []}]}, {"data": [{"paragraphs": [{"context": "x", "qas": []}]}]}],
)
def test_a_file_without_any_question_is_refused(written, document, tools):
    tools.assert_one_error(written(document), "holds no question")


def defects_of(path, **options):
    """The examples of a file, and the part behind its name of every defect that is told."""
    defects = []
    examples = list(iter_dataset(path, on_defect=defects.append, **options))
    assert all(str(defect).startswith(f"{path}: ") for defect in defects)
    return examples, [str(defect).removeprefix(f"{path}: ") for defect in defects]


def test_a_syntax_error_behind_a_repeated_id_hides_neither(written):
    text = json.dumps(changed(("data", 0, "paragraphs", 0, "qas", 1, "id"), "q1"))[:-1]
    examples, defects = defects_of(written(text.encode()))
    assert [example.id for example in examples] == ["q1", "q1", "q3"]
    assert defects == [
        f"line 1 column {len(text) + 1}: not valid JSON: Expecting ',' delimiter",
        "data[0].paragraphs[0].qas[1].id: 'q1' is also the id of data[0].paragraphs[0].qas[0]: ids must differ",
    ]
