"""CSV files as datasets: separators, quotes, marks, and every fault with its line."""

import gzip

import pytest

from spanqa.datasets import iter_placed_dataset, read_dataset
from spanqa.errors import DataError

HEADER = "id,question,context\n"


def _write(tmp_path, text, name="rows.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def _read(path):
    return [(one.id, one.question, one.context) for one in read_dataset(path, require_answers=False)]


def test_cells_are_taken_as_they_stand(tmp_path):
    path = _write(tmp_path, HEADER + '1,"Who, me?"," He said ""no"".\r\nThen, ü. "\n\n0012,=1+1?,x\n')
    assert _read(path) == [("1", "Who, me?", ' He said "no".\r\nThen, ü. '), ("0012", "=1+1?", "x")]
    assert [place for place, _ in iter_placed_dataset(path, require_answers=False)] == ["line 2", "line 5"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "\ufeffid;context;question;more\r\n1;c, d;q?;x\r\n"),
        ("a.tsv", "question\tid\tcontext\nq?\t1\tc, d\n"),
        ("A.CSV", '"question","id","context"\nq?,1,"c, d"'),
    ],
)
def test_the_header_says_the_separator_and_the_order(tmp_path, name, text):
    assert _read(_write(tmp_path, text, name)) == [("1", "q?", "c, d")]


def test_gzip_and_contexts_of_any_length(tmp_path):
    context = "x\n" * 200_000
    path = _write(tmp_path, gzip.compress((HEADER + f'1,q?,"{context}"\n').encode()), "rows.csv.gz")
    assert _read(path) == [("1", "q?", context)]


def test_answers_are_json_or_none(tmp_path):
    text = (
        "id,question,context,title,answers\n"
        '1,Who?,I am.,t,"[{""text"": ""I"", ""answer_start"": 0}]"\n'
        '2,Who?,I am.,,"{""text"": [""am""], ""answer_start"": [2]}"\n'
        "3,Who?,I am.,,\n"
    )
    first, second, third = read_dataset(_write(tmp_path, text))
    assert (first.title, first.answers[0].text, second.answers[0].char_start, third.answers) == ("t", "I", 2, ())
    assert first.paragraph == second.paragraph


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: column id: missing; keys here: none"),
        ("id,question\n1,q?\n", "line 1: column context: missing; keys here: 'id', 'question'"),
        ("id,id,question,context\n", "line 1: two columns are called id"),
        (HEADER + "1,q?,c\n2,q?,c,d\n", "line 3: has 4 cells, the header 3: quote cells that hold separators"),
        (HEADER + "1,q?\n", "line 2: has 2 cells"),
        (
            HEADER + '1,q?,c\n2,q?,"open\nand on\n',
            "line 3: the row that begins here is not CSV: unexpected end of data",
        ),
        (HEADER + '1,q?,"a"b\n', "line 2: the row that begins here is not CSV"),
        (HEADER + "1,q?,a\rb\n", "line 2: the row that begins here is not CSV"),
        (HEADER + "1,,c\n", "line 2: question: is empty"),
        (HEADER + "1,q?,c\n1,q?,c\n", "line 3: id: '1' is also the id of line 2"),
        (HEADER.encode() + b"1,q?,\xff\n", "byte 25 is not UTF-8"),
        (HEADER, "holds no question"),
        ("id,question,context,answers\n1,q?,c,no\n", "line 2: answers: is not JSON"),
    ],
)
def test_every_fault_is_named_with_its_line(tmp_path, text, message):
    with pytest.raises(DataError, match=message) as caught:
        _read(_write(tmp_path, text))
    assert "rows.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_where_answers_are_needed_their_column_is(tmp_path):
    with pytest.raises(DataError, match="line 1: column answers: missing"):
        read_dataset(_write(tmp_path, HEADER + "1,q?,c\n"))


def test_good_rows_are_read_beside_bad_ones(tmp_path):
    defects = []
    path = _write(tmp_path, HEADER + "1,q?,c\n2,q?\n3,q?,c\n")
    placed = iter_placed_dataset(path, require_answers=False, on_defect=defects.append)
    assert [place for place, _ in placed] == ["line 2", "line 4"]
    assert ["line 3: has 2 cells" in str(defect) for defect in defects] == [True]
