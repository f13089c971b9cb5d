"""`spanqa check-data` counts what a plain count gives, names every defect, and fails where there is one."""

import json
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spanqa.cli import COMMANDS, Command, main
from spanqa.squad import Example, GoldAnswer
from spanqa.tokenization import load_tokenizer
from spanqa.windows import WindowMaker, WindowSettings
from spanqa_training.commands.negatives import write_squad
from spanqa_training.data.labels import window_labels
from spanqa_training.data.length_counts import LengthCounts
from spanqa_training.data.report import report_from_files

SHORT = WindowSettings(max_seq_length=96, doc_stride=32, max_query_length=12)


@pytest.fixture(scope="module")
def heldout(root):
    return root / "data" / "heldout200.json"


@pytest.fixture(scope="module")
def checkpoint(root):
    return root / "training" / "checkpoints" / "spanqa-minilm"


@pytest.fixture
def check(monkeypatch, capsys):
    """Runs the command; gives its exit status, output and errors."""
    command = Command(module="spanqa_training.commands.check_data", help="check dataset files", extra="training")
    monkeypatch.setitem(COMMANDS, "check-data", command)

    def run(*arguments):
        status = main(["check-data", *map(str, arguments), "--quiet"])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def example(number, question, context, answers=(), paragraph=0, title="one"):
    return Example(
        id=f"q{number}", question=question, context=context, title=title, answers=tuple(answers), paragraph=paragraph
    )


@pytest.fixture
def written(tmp_path):
    """Writes examples as a SQuAD file."""

    def write(*examples, name="squad.json"):
        write_squad(examples, tmp_path / name)
        return tmp_path / name

    return write


def test_the_counts_of_real_questions_are_those_of_a_plain_count(heldout, checkpoint, real_questions):
    maker = WindowMaker(load_tokenizer(checkpoint), SHORT)
    report = report_from_files([heldout], maker, max_answer_tokens=5)
    assert (report.n_questions, report.n_unanswerable, report.n_paragraphs, report.n_articles) == (200, 108, 50, 15)
    assert report.answers_per_question == dict(Counter(len(example.answers) for example in real_questions))
    assert (report.n_repeated_questions, report.n_defects, report.defects) == (0, 0, ())
    windows = maker.windows_of_many([(example.question, example.context) for example in real_questions])
    questions = [len(maker.tokenizer.pieces(example.question)) for example in real_questions]
    pairs = [length + len(cut.document) + 3 for length, cut in zip(questions, windows, strict=True)]
    contexts = [len(maker.tokenizer.pieces(text)) for text in {example.context for example in real_questions}]
    pieces = report.pieces
    for summary, lengths in ((pieces.question, questions), (pieces.context, contexts), (pieces.pair, pairs)):
        assert summary.mean == pytest.approx(np.mean(lengths))
        assert summary.longest == max(lengths)
        nearest = np.percentile(lengths, [50, 95, 99], method="inverted_cdf")
        assert [summary.p50, summary.p95, summary.p99] == nearest.tolist()
    for bar in pieces.pair_bars:
        assert bar.count == sum(bar.first <= length <= bar.last for length in pairs)
    assert sum(bar.count for bar in pieces.pair_bars) == 200
    assert pieces.n_windows == sum(map(len, windows))
    assert pieces.n_truncated_questions == sum(length > 12 for length in questions) > 0
    lost = [
        one
        for one, cut in zip(real_questions, windows, strict=True)
        if one.answers and not any(start for start, _ in window_labels(cut, one))
    ]
    assert pieces.n_lost_answers == len(lost)
    assert 0 < pieces.n_long_answers < 92


def test_answers_that_training_loses_or_bends_are_counted(written, tokenizer):
    long = "the cat sat on the mat and the old king was in the tower near the river"
    path = written(
        example(1, "where", long, [GoldAnswer("cat", 4)]),
        example(2, "who", long, [GoldAnswer("a", 5)]),  # inside "cat"
        example(3, "what", long, [GoldAnswer(" sat", 7)]),  # begins with a space
        example(4, "which", long, [GoldAnswer(long, 0)]),  # in no window, and too long
        example(5, "how many", long),
        example(6, "where", long, [GoldAnswer("king", long.index("king"))]),  # asked before
        example(7, "☃ the", "the ☃ ☃", paragraph=1),
    )
    maker = WindowMaker(tokenizer, WindowSettings(max_seq_length=16, doc_stride=4, max_query_length=4))
    report = report_from_files([path], maker, max_answer_tokens=10)
    pieces = report.pieces
    assert (pieces.n_unaligned_answers, pieces.n_lost_answers, pieces.n_long_answers) == (2, 1, 1)
    assert (report.n_repeated_questions, report.n_unanswerable, report.n_paragraphs) == (1, 2, 2)
    n_pieces = sum(
        len(tokenizer.pieces(text)) for text in (long, "the ☃ ☃", "where who what which how many where ☃ the")
    )
    assert pieces.unknown_share == pytest.approx(3 / n_pieces)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(0, 3000), min_size=1, max_size=60))
def test_percentiles_and_bars_are_those_of_the_sorted_lengths(lengths):
    counts = LengthCounts()
    for length in lengths:
        counts.add(length)
    summary, bars = counts.summary(), counts.bars()
    nearest = np.percentile(lengths, [50, 95, 99], method="inverted_cdf").tolist()
    assert [summary.p50, summary.p95, summary.p99] == nearest
    assert [bar.count for bar in bars] == [sum(bar.first <= n <= bar.last for n in lengths) for bar in bars]
    assert sum(bar.count for bar in bars) == len(lengths)
    assert len(bars) <= 20
    assert {bar.last - bar.first for bar in bars} == {bars[0].last - bars[0].first}


def test_a_clean_file_is_told_in_a_table_and_exits_0(check, heldout, checkpoint):
    status, out, err = check(heldout, "-m", checkpoint)
    assert (status, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    assert ["questions", "200"] in rows
    assert ["unanswerable", "108", "54.00%"] in rows
    question = json.loads(check(heldout, "-m", checkpoint, "--json")[1])["pieces"]["question"]
    numbers = [str(question[name]) for name in ("p50", "p95", "p99", "longest")]
    assert ["question", f"{question['mean']:.1f}", *numbers] in rows
    assert any(row[:2] == ["pairs", "of"] and set(row[-1]) == {"#"} for row in rows)
    assert rows[-1] == ["defects:", "none"]


def test_without_a_tokenizer_the_rest_is_told(check, heldout):
    status, out, err = check(heldout)
    assert (status, err) == (0, "")
    assert "questions     200" in out
    assert "not known without a tokenizer; give -m CHECKPOINT or --tokenizer PATH" in out
    assert "pairs of" not in out


def test_json_holds_the_same_report(check, heldout, checkpoint):
    _, out, _ = check(heldout, heldout, "--tokenizer", checkpoint, "--max-seq-length", 96, "--doc-stride", 16, "--json")
    maker = WindowMaker(load_tokenizer(checkpoint), WindowSettings(max_seq_length=96, doc_stride=16))
    report = report_from_files([heldout, heldout], maker)
    assert json.loads(out) == json.loads(json.dumps(asdict(report)))
    assert report.n_questions == 400


def test_window_options_replace_those_of_the_model(check, heldout, checkpoint):
    def windows(*options):
        return json.loads(check(heldout, "-m", checkpoint, "--json", *options)[1])["pieces"]

    assert windows("--max-seq-length", 100, "--doc-stride", 20)["n_windows"] > 2 * windows()["n_windows"]
    assert windows("--max-query-length", 5)["n_truncated_questions"] > windows()["n_truncated_questions"]
    assert windows("--max-answer-length", 1)["n_long_answers"] > windows()["n_long_answers"]


def test_defects_of_all_files_are_named_and_counted_and_exit_2(check, tmp_path, checkpoint):
    row = {"id": "a", "question": "who?", "context": "nobody", "answers": {"text": [], "answer_start": []}}
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "\n".join(json.dumps({**row, **change}) for change in ({}, {"question": ""}, {"question": "\u200e", "id": "b"}))
    )
    squad = tmp_path / "squad.json"
    squad.write_text(text := '{"data": [{"paragraphs": [{"context": 1, "qas": []}]}]')
    missing = tmp_path / "none.json"
    status, out, err = check(rows, squad, missing, "--tokenizer", checkpoint)
    assert status == 2
    assert out.splitlines()[-6:] == [
        "defects: 5",
        f"  {rows}: line 2: question: is empty",
        f"  {squad}: data[0].paragraphs[0].context: expected a string, got an integer (1)",
        f"  {squad}: line 1 column {len(text) + 1}: not valid JSON: Expecting ',' delimiter",
        f"  {missing}: no such file",
        f"  {rows}: line 3: the question holds no word, only white space or control characters: a question needs at "
        "least one word",
    ]
    assert err == (
        f"spanqa: error: 5 defects in {rows}, {squad}, {missing}: mend what the report names, or leave it out\n"
    )


def test_more_defects_than_are_shown_are_counted(check, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("[]\n" * 30)
    status, out, err = check(path, "--max-defects", "2")
    assert status == 2
    assert out.splitlines()[-4:-2] == ["defects: 30", f"  {path}: line 1: expected an object, got a list ([])"]
    assert out.splitlines()[-1] == "  and 28 more; --max-defects shows them"
    assert "30 defects in" in err


def test_an_empty_dataset_has_a_table_too(check, tmp_path, checkpoint):
    path = tmp_path / "empty.json"
    path.write_text('{"data": []}')
    status, out, err = check(path, "-m", checkpoint)
    assert status == 2
    assert "holds no question" in out
    assert err.startswith("spanqa: error: 1 defect in ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--doc-stride", "9"], "lengths in word pieces mean nothing without a tokenizer: give -m or --tokenizer"),
        (["--tokenizer", "nowhere"], "nowhere: cannot be read as a tokenizer"),
        (["-m", "nowhere"], "nowhere/config.json: missing"),
    ],
)
def test_options_that_make_no_sense_are_one_line(check, heldout, options, message):
    status, out, err = check(heldout, *options)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_settings_that_contradict_each_other_are_refused(check, heldout, checkpoint):
    status, _, err = check(heldout, "-m", checkpoint, "--max-seq-length", "20")
    assert status == 2
    assert err.startswith("spanqa: error: max_seq_length 20 is too short")


ROW = {"id": "a", "question": "who?", "context": "nobody", "answers": {"text": [], "answer_start": []}}


def write_rows(path, *changes):
    path.write_text("".join(json.dumps({**ROW, **change}) + "\n" for change in changes), encoding="utf-8")
    return path


@pytest.mark.parametrize("with_tokenizer", [True, False])
def test_texts_without_a_word_are_found_and_not_counted_with_and_without_a_tokenizer(
    tmp_path, tokenizer, with_tokenizer
):
    maker = WindowMaker(tokenizer, SHORT) if with_tokenizer else None
    path = write_rows(tmp_path / "rows.jsonl", {}, {"id": "b", "context": " \n"}, {"id": "c", "question": "\u200e"})
    report = report_from_files([path], maker)
    assert (report.n_questions, report.n_paragraphs, report.n_defects) == (1, 1, 2)
    for defect, line, what in zip(report.defects, (2, 3), ("context", "question"), strict=True):
        assert defect.startswith(f"{path}: line {line}: the {what} holds no word")


def test_ids_of_two_files_are_a_defect_that_names_both_places(tmp_path):
    files = [write_rows(tmp_path / name, {"id": "x"}, {"id": "y"}) for name in ("a.jsonl", "b.jsonl")]
    defects = report_from_files(files).defects
    assert defects == tuple(
        f"{files[1]}: line {line}: id: {name!r} is also the id of {files[0]}: line {line}: "
        "ids must differ over all files"
        for line, name in ((1, "x"), (2, "y"))
    )


def test_long_texts_are_shown_by_their_beginning(tmp_path):
    long = "word " * 2000
    answer = {"text": [long], "answer_start": [1]}
    path = write_rows(tmp_path / "rows.jsonl", {"context": long, "answers": answer}, {"id": long}, {"id": long})
    defects = report_from_files([path]).defects
    assert [("it stands at 0" in one, "is also the id" in one) for one in defects] == [(True, False), (False, True)]
    assert all(len(defect) < len(str(path)) + 250 for defect in defects)
