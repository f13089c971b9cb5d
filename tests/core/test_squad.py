"""A good file is read as it stands; a broken one gives one error that names file, place and fault."""

import copy
import gzip
import itertools
import json
import sys
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spanqa import json_stream
from spanqa.datasets import iter_dataset, iter_placed_dataset, read_dataset
from spanqa.errors import DataError
from spanqa.squad import GoldAnswer, read_json

CONTEXT = "The bridge 🌉 was built in 1907."
DOCUMENT = {
    "version": "v2.0",
    "data": [
        {
            "title": "Bridges",
            "paragraphs": [
                {
                    "context": CONTEXT,
                    "qas": [
                        {
                            "id": "q1",
                            "question": "When was it built?",
                            "is_impossible": False,
                            "answers": [{"text": "1907", "answer_start": 26}, {"text": "in 1907", "answer_start": 23}],
                        },
                        {
                            "id": "q2",
                            "question": "Who painted it?",
                            "is_impossible": True,
                            "answers": [],
                            "plausible_answers": [{"text": "1907", "answer_start": 26}],
                        },
                    ],
                },
                {
                    "context": "Two people live there.",
                    "qas": [{"id": "q3", "question": "How many?", "answers": [{"text": "Two", "answer_start": 0}]}],
                },
            ],
        }
    ],
}
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


@pytest.fixture
def written(tmp_path):
    """Writes a document, or bytes, as a file."""

    def write(content, name="squad.json"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    return write


def assert_one_error(path, *parts, **options):
    """Reading fails with one line that begins with the file and then the place, and holds every part."""
    with pytest.raises(DataError) as caught:
        read_dataset(path, **options)
    message = str(caught.value)
    assert message.startswith(f"{path}: {parts[0]}"), ascii(message)
    for part in parts[1:]:
        assert part in message
    assert "\n" not in message
    assert len(message) < 500 + len(str(path))


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


def test_a_question_without_the_key_answers_can_be_read_to_predict_on(written):
    path = written(changed((*QA, "answers"), ...))
    assert_one_error(path, "data[0].paragraphs[0].qas[0].answers: missing", "'id', 'question', 'is_impossible'")
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
def test_a_missing_key_is_named_at_every_level(written, path, place):
    assert_one_error(written(changed(path, ...)), place)


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
def test_a_value_of_the_wrong_type_is_named_at_every_level(written, path, value, place):
    assert_one_error(written(changed(path, value)), place)


def test_a_long_value_is_shown_shortened(written):
    assert_one_error(written(changed(("data",), "x" * 10_000)), "data: expected a list, got a string", "xxx...)")


@pytest.mark.parametrize("document", [5, "text", None])
def test_a_file_that_is_no_object_is_refused(written, document):
    assert_one_error(written(document), "top level: expected an object")


def test_an_id_used_twice_names_both_places(written):
    path = written(changed(("data", 0, "paragraphs", 1, "qas", 0, "id"), "q1"))
    assert_one_error(path, "data[0].paragraphs[1].qas[0].id: 'q1' is also the id of data[0].paragraphs[0].qas[0]")


@pytest.mark.parametrize("start", [25, 27, -4, 10**6, -(10**6)])
def test_a_wrong_offset_says_where_the_answer_stands(written, start):
    path = written(changed((*QA, "answers", 0, "answer_start"), start))
    assert_one_error(
        path, f"data[0].paragraphs[0].qas[0].answers[0].answer_start: {start} holds", "'1907'", "it stands at 26"
    )


def test_an_offset_in_utf16_units_is_wrong(written):
    assert_one_error(
        written(changed((*QA, "answers", 0, "answer_start"), 27)), "data[0].paragraphs[0].qas[0].answers[0].", "at 26"
    )


def test_a_negative_offset_that_python_would_accept_is_refused(written):
    document = changed((*QA, "answers", 0), {"text": "1907", "answer_start": -5})
    assert CONTEXT[-5:-1] == "1907"
    assert_one_error(written(document), "data[0].paragraphs[0].qas[0].answers[0].answer_start: -5", "it stands at 26")


def test_an_answer_that_is_nowhere_in_the_context_is_refused(written):
    document = changed((*QA, "answers", 0, "text"), "1908")
    assert_one_error(written(document), "data[0].paragraphs[0].qas[0].answers[0].answer_start: 26", "stands nowhere")


def test_an_empty_answer_is_refused(written):
    document = changed((*QA, "answers", 0, "text"), "")
    assert_one_error(written(document), "data[0].paragraphs[0].qas[0].answers[0].text: is empty", "empty list")


@pytest.mark.parametrize(
    ("index", "state", "words"), [(0, True, "true, yet answers are given"), (1, False, "false, yet there is no answer")]
)
def test_is_impossible_must_agree_with_the_answers(written, index, state, words):
    path = written(changed(("data", 0, "paragraphs", 0, "qas", index, "is_impossible"), state))
    assert_one_error(path, f"data[0].paragraphs[0].qas[{index}].is_impossible: is {words}")


@pytest.mark.parametrize("question", ["", " ", "\t\n\u00a0"])
def test_an_empty_question_is_refused(written, question):
    assert_one_error(written(changed((*QA, "question"), question)), "data[0].paragraphs[0].qas[0].question: is empty")


@pytest.mark.parametrize("key", ["question", "id"])
def test_half_a_surrogate_pair_in_a_question_is_refused(written, key):
    path = written(changed((*QA, key), "ab\ud83c"))
    assert_one_error(path, f"data[0].paragraphs[0].qas[0].{key}: character 2 is half of a surrogate pair")


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (("data", 0, "title"), "data[0].title"),
        (("data", 0, "paragraphs", 0, "context"), "data[0].paragraphs[0].context"),
        ((*QA, "answers", 0, "text"), "data[0].paragraphs[0].qas[0].answers[0].text"),
    ],
)
def test_half_a_surrogate_pair_is_refused_wherever_it_stands(written, path, place):
    assert_one_error(written(changed(path, "\udc00x")), f"{place}: character 0 is half of a surrogate pair")


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b"", "line 1 column 1: not valid JSON"),
        (b'{"data": [\n{"title" 1}]}', "line 2 column 10: not valid JSON"),
        (b'{"data": []', "line 1 column 12: not valid JSON"),
        (b'{"data": []} {}', "line 1 column 14: not valid JSON: Extra data"),
    ],
)
def test_bad_json_names_line_and_column(written, content, place):
    assert_one_error(written(content), place)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "latin-1"])
def test_another_encoding_is_told_apart_from_bad_json(written, encoding):
    text = json.dumps(changed(("data", 0, "title"), "Brücke"), ensure_ascii=False).replace("🌉", "é")
    data = text.encode(encoding)
    assert_one_error(written(data), "byte ", "not UTF-8", "convert the file to UTF-8")


@pytest.mark.parametrize(
    "document",
    [{"data": []}, {"data": [{"paragraphs": []}]}, {"data": [{"paragraphs": [{"context": "x", "qas": []}]}]}],
)
def test_a_file_without_any_question_is_refused(written, document):
    assert_one_error(written(document), "holds no question")


def test_json_nested_too_deeply_is_refused(written):
    deep = 200_000
    assert_one_error(written(b'{"data": ' + b"[" * deep + b"]" * deep + b"}"), "not a dataset", "nested too deeply")


def test_any_depth_of_nesting_gives_the_one_error(written):
    limit = sys.getrecursionlimit()
    for deep in range(limit - 150, limit + 20):
        path = written(b'{"data": {"a": ' + b"[" * deep + b"]" * deep + b"}}")
        with pytest.raises(DataError, match=r"data: expected a list|nested too deeply"):
            read_dataset(path)


def test_an_integer_too_long_for_python_is_refused(written):
    assert_one_error(written(b'{"data": ' + b"1" * 5000 + b"}"), "")


@pytest.mark.parametrize("cut", [3, 12, 40, -9, -1])
def test_a_truncated_gzip_is_refused(written, cut):
    path = written(gzip.compress(json.dumps(DOCUMENT).encode())[:cut], "squad.json.gz")
    assert_one_error(path, "cannot be read")


def test_a_gzip_with_a_damaged_byte_is_read_whole_or_refused(written):
    data = gzip.compress(json.dumps(DOCUMENT).encode(), mtime=0)
    n_refused = 0
    for place in range(2, len(data)):
        path = written(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :], "squad.json.gz")
        try:
            n_questions = len(read_dataset(path))
        except DataError:
            n_refused += 1
        else:  # a byte of the header that says nothing about the content
            assert n_questions == 3
    assert n_refused > len(data) - 12


def test_a_folder_and_a_missing_file_are_refused(tmp_path):
    assert_one_error(tmp_path, "cannot be read", "Is a directory")
    assert_one_error(tmp_path / "none.json", "no such file")


def test_the_official_dev_file_is_read(root):
    examples = read_dataset(root / "tests/data/squad/dev-v2.0.json.gz")
    assert len(examples) == 11_873
    assert sum(not example.answers for example in examples) == 5_945
    assert len({example.id for example in examples}) == 11_873
    assert max(example.paragraph for example in examples) == 1_203


def defects_of(path, **options):
    """The examples of a file, and the part behind its name of every defect that is told."""
    defects = []
    examples = list(iter_dataset(path, on_defect=defects.append, **options))
    assert all(str(defect).startswith(f"{path}: ") for defect in defects)
    return examples, [str(defect).removeprefix(f"{path}: ") for defect in defects]


def test_every_defect_is_told_and_reading_goes_on_behind_it(written):
    good = DOCUMENT["data"][0]["paragraphs"][1]

    def question(**changes):
        return {"context": "Two", "qas": [{**good["qas"][0], "id": "x", **changes}]}

    document = {
        "data": [
            5,
            {"title": "no paragraphs"},
            {"title": 7, "paragraphs": [question(id="a")]},
            {"title": "", "paragraphs": {}},
            {
                "title": "",
                "paragraphs": [
                    [],
                    {"qas": []},
                    {"context": "x"},
                    {"context": "x", "qas": ["y"]},
                    question(question=" "),
                    question(id=None),
                    question(answers=[{"text": "Two", "answer_start": 1}, {"text": "One", "answer_start": 0}]),
                    question(is_impossible=True),
                    question(id="b"),
                    question(id="a"),
                    question(id="a"),
                ],
            },
        ]
    }
    examples, defects = defects_of(written(document))
    assert [example.id for example in examples] == ["a", "b", "a", "a"]
    assert [example.paragraph for example in examples] == [0, 9, 10, 11]
    assert examples[0].title == ""
    assert defects == [
        "data[0]: expected an object, got an integer (5)",
        "data[1].paragraphs: missing; keys here: 'title'",
        "data[2].title: expected a string, got an integer (7)",
        "data[3].paragraphs: expected a list, got an object ({})",
        "data[4].paragraphs[0]: expected an object, got a list ([])",
        "data[4].paragraphs[1].context: missing; keys here: 'qas'",
        "data[4].paragraphs[2].qas: missing; keys here: 'context'",
        'data[4].paragraphs[3].qas[0]: expected an object, got a string ("y")',
        "data[4].paragraphs[4].qas[0].question: is empty",
        "data[4].paragraphs[5].qas[0].id: expected a string, got null",
        "data[4].paragraphs[6].qas[0].answers[0].answer_start: 1 holds 'wo', not the answer 'Two': it stands at 0",
        "data[4].paragraphs[7].qas[0].is_impossible: is true, yet answers are given: correct one of the two",
        "data[4].paragraphs[9].qas[0].id: 'a' is also the id of data[2].paragraphs[0].qas[0]: ids must differ",
        "data[4].paragraphs[10].qas[0].id: 'a' is also the id of data[2].paragraphs[0].qas[0]: ids must differ",
    ]


def test_a_syntax_error_ends_the_reading_after_what_came_before_it(written):
    text = json.dumps(DOCUMENT).replace('"Two people', '"Two \n people')
    examples, defects = defects_of(written(text.encode()))
    assert [example.id for example in examples] == ["q1", "q2"]
    assert defects == [f"line 1 column {text.index(chr(10)) + 1}: not valid JSON: Invalid control character at"]


def test_a_syntax_error_behind_a_repeated_id_hides_neither(written):
    text = json.dumps(changed(("data", 0, "paragraphs", 0, "qas", 1, "id"), "q1"))[:-1]
    examples, defects = defects_of(written(text.encode()))
    assert [example.id for example in examples] == ["q1", "q1", "q3"]
    assert defects == [
        f"line 1 column {len(text) + 1}: not valid JSON: Expecting ',' delimiter",
        "data[0].paragraphs[0].qas[1].id: 'q1' is also the id of data[0].paragraphs[0].qas[0]: ids must differ",
    ]


@pytest.mark.parametrize(
    ("content", "defect"),
    [
        (b"[]", "holds no question: expected data[].paragraphs[].qas[], or one row a question"),
        (b'{"data": {}}', "data: expected a list, got an object ({})"),
        (b'{"version": 1}', "data: missing; keys here: 'version'"),
        (b'{"data": []}', "holds no question: expected data[].paragraphs[].qas[], or one row a question"),
        (b'{"data": "\xff"}', "byte 10 is not UTF-8 (0xff): convert the file to UTF-8 first"),
        (
            gzip.compress(b"{}", mtime=0)[:-1],
            "cannot be read: Compressed file ended before the end-of-stream marker was reached",
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_one_defect(written, content, defect):
    assert defects_of(written(content)) == ([], [defect])


def test_a_list_of_any_length_at_the_top_is_read_a_row_at_a_time(written):
    rows = [
        {"id": number, "question": "what?", "context": f"a context {number}", "answers": []} for number in range(12_000)
    ]
    path = written(json.dumps(rows).encode())

    def read():
        assert sum(1 for _ in iter_dataset(path)) == 12_000

    assert peak_bytes(read) < 2_000_000


def peak_bytes(action):
    """Most memory that Python's objects took during an action."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("title", [{}, {"title": "Late"}])
def test_a_title_behind_its_paragraphs_counts_for_them(written, title):
    document = {"data": [{"paragraphs": DOCUMENT["data"][0]["paragraphs"], **title}]}
    examples = read_dataset(written(document))
    assert [example.paragraph for example in examples] == [0, 0, 1]
    assert {example.title for example in examples} == {title.get("title", "")}


def test_places_lead_to_the_questions(written):
    assert [(place, example.id) for place, example in iter_placed_dataset(written(DOCUMENT))] == [
        ("data[0].paragraphs[0].qas[0]", "q1"),
        ("data[0].paragraphs[0].qas[1]", "q2"),
        ("data[0].paragraphs[1].qas[0]", "q3"),
    ]


def test_ids_with_the_same_hash_are_not_the_same(written, monkeypatch):
    monkeypatch.setattr("spanqa.examples.hash", lambda _: 7, raising=False)
    assert len(read_dataset(written(DOCUMENT))) == 3
    path = written(changed(("data", 0, "paragraphs", 1, "qas", 0, "id"), "q1"))
    assert_one_error(path, "data[0].paragraphs[1].qas[0].id: 'q1' is also the id of data[0].paragraphs[0].qas[0]")


def test_a_file_is_read_with_the_memory_of_a_paragraph(written):
    paragraphs = (
        json.dumps(
            {"context": f"{CONTEXT} {number}" * 20, "qas": [{"id": str(number), "question": "When?", "answers": []}]}
        )
        for number in range(10_000)
    )
    path = written(b'{"data": [{"title": "", "paragraphs": [' + ",".join(paragraphs).encode() + b"]}]}")
    assert path.stat().st_size > 8_000_000
    ids = iter(range(10_000))

    def read():
        assert all(example.id == str(next(ids)) for example in iter_dataset(path))

    assert peak_bytes(read) < 2_000_000
    assert next(ids, None) is None


@pytest.mark.parametrize("size", [1, 64, 1 << 18])
def test_the_size_of_the_pieces_that_are_read_changes_nothing(written, monkeypatch, size):
    path = written(json.dumps(DOCUMENT, ensure_ascii=False, indent=1).encode())
    expected = read_dataset(path)
    monkeypatch.setattr(json_stream, "_CHUNK_BYTES", size)
    assert read_dataset(path) == expected


SHORT = json.dumps(DOCUMENT, indent=1)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(place=st.integers(0, len(SHORT) - 1), wrong=st.sampled_from(list('{}[],:"\\ 0x')), cut=st.booleans())
def test_json_that_is_broken_anywhere_is_refused_in_the_same_words_as_when_read_whole(
    tmp_path_factory, place, wrong, cut
):
    path = tmp_path_factory.getbasetemp() / "broken.json"
    path.write_text(SHORT[:place] + ("" if cut else wrong + SHORT[place + 1 :]))
    whole, streamed = (failure(read, path) for read in (read_json, read_dataset))
    if "not valid JSON" in streamed:
        assert streamed == whole
    elif whole:  # what stands before the syntax error is wrong already
        assert streamed.startswith((f"{path}: data", f"{path}: top level", f"{path}: ["))


def failure(read, path):
    try:
        read(path)
    except DataError as error:
        return str(error)
    return ""


def test_examples_come_before_the_file_is_read_to_its_end(written, monkeypatch):
    monkeypatch.setattr(json_stream, "_CHUNK_BYTES", 64)
    path = written(json.dumps(DOCUMENT).encode()[:-3])
    assert [example.id for example in itertools.islice(iter_dataset(path), 2)] == ["q1", "q2"]
