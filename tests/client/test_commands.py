import json
import struct
import subprocess
import sys

import pytest

from spanqa.cli import main
from spanqa_client.answer import Span
from spanqa_client.commands.predict import summary_text
from spanqa_client.highlight import highlighted


def run(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def dataset(tmp_path):
    def qa(name, question, *answers):
        found = [{"text": text, "answer_start": context.index(text)} for text in answers]
        return {"id": name, "question": question, "answers": found, "is_impossible": not answers}

    context = "Zürich lies in Switzerland. Rome lies in Italy."
    qas = [
        qa("q1", "What of Zürich?", "Zürich"),
        qa("q2", "What of Italy?", "Italy", "in Italy"),
        qa("q3", "What of Bern?"),
        qa("q4", "What of Rome?"),
    ]
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"data": [{"title": "t", "paragraphs": [{"context": context, "qas": qas}]}]}))
    return path


def test_score_prints_the_official_keys_and_values_as_json(capsys, data):
    status, out, err = run(
        capsys,
        *["score", data / "dev-v2.0.json.gz", data / "predictions_bert_single_model.json.gz", "--json"],
        *["--na-probs", data / "na_probs_seed1.json.gz", "--na-prob-thresh", "0.5"],
    )
    official = json.loads((data / "official_scores.json").read_text())["bert_single_model"]["na_seed1_thresh0.5"]
    printed = json.loads(out)
    assert status == 0
    assert err == ""
    assert list(printed)[: len(official)] == list(official)
    assert {key: printed[key] for key in official} == official
    assert (printed["missing"], printed["unknown"]) == (0, 0)


def test_score_prints_a_table_with_intervals(capsys, dataset, tmp_path):
    predictions = tmp_path / "predictions.json"
    predictions.write_text(json.dumps({"q1": "Zürich", "q2": "", "q3": "", "other": ""}))
    status, out, err = run(capsys, "score", dataset, predictions, "--intervals")
    assert status == 0
    assert "1 question without a prediction, scored 0: q4" in err
    assert "1 prediction for ids not in the dataset: other" in err
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["exact", "F1", "questions"]
    assert lines[1] == ["all", "50.00", "[50.00,", "50.00]", "50.00", "[50.00,", "50.00]", "4"]
    assert [line[0] for line in lines[1:]] == ["all", "answerable", "unanswerable"]


def test_score_json_has_no_infinity(capsys, dataset, tmp_path):
    predictions, na_probs = tmp_path / "predictions.json", tmp_path / "na.json"
    predictions.write_text(json.dumps({"q1": "x", "q2": "x", "q3": "x", "q4": "x"}))
    na_probs.write_text(json.dumps({"q1": 0, "q2": 0.5, "q3": 0.25, "q4": -1}))
    _, out, _ = run(capsys, "score", dataset, predictions, "--na-probs", na_probs, "--json")
    assert json.loads(out, parse_constant=pytest.fail)["tuned_f1_thresh"] == "-inf"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "got a list"),
        ('{"q1": null}', "'q1': expected a text, got None"),
        ('{"q1": ', "not valid JSON"),
        ('{"data": []}', "is a dataset"),
        (b"\xff", "is not UTF-8"),
    ],
)
def test_a_bad_prediction_file_is_one_line_and_exit_2(capsys, dataset, tmp_path, content, message):
    predictions = tmp_path / "predictions.json"
    predictions.write_bytes(content if isinstance(content, bytes) else content.encode())
    status, out, err = run(capsys, "score", dataset, predictions)
    assert (status, out) == (2, "")
    assert err.startswith("spanqa: error: ")
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("content", ['{"q1": "0.5"}', '{"q1": true}', '{"q1": NaN}'])
def test_a_bad_no_answer_file_names_the_id(capsys, dataset, tmp_path, content):
    predictions, na_probs = tmp_path / "predictions.json", tmp_path / "na.json"
    predictions.write_text("{}")
    na_probs.write_text(content)
    status, _, err = run(capsys, "score", dataset, predictions, "--na-probs", na_probs)
    assert status == 2
    assert "'q1': expected a number" in err


def test_score_imports_neither_numpy_nor_grpc():
    code = (
        "import spanqa_client.commands.score, sys; print([m for m in ('numpy', 'grpc', 'torch') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_ask_marks_the_answer_in_its_sentence(capsys, triton):
    status, out, _ = run(
        capsys, "ask", "What of Rome?", "--context", "It rained. Rome lies in Italy. So does Bari.", "--url", triton.url
    )
    assert status == 0
    assert out.splitlines() == ["[Rome] lies in Italy.", "  score 0.500, no-answer margin -2.00"]


def test_ask_says_no_answer_with_the_closest_span(capsys, triton):
    status, out, _ = run(capsys, "ask", "What of Bern?", "--context", "Rome lies in Italy.", "--url", triton.url)
    assert status == 0
    assert out.splitlines() == ["no answer (no-answer margin +2.00)", "  closest, score 0.500: [R]ome lies in Italy."]


def test_ask_reads_a_file_and_prints_json(capsys, triton, tmp_path):
    (tmp_path / "context.txt").write_text("Zürich, Zürich", encoding="utf-8")
    _, out, _ = run(
        capsys,
        *["ask", "Zürich", "--context-file", tmp_path / "context.txt", "--url", triton.url, "--top-n", 2, "--json"],
    )
    printed = json.loads(out)
    assert (printed["text"], printed["char_start"], printed["char_end"]) == ("Zürich", 0, 6)
    assert [span["char_start"] for span in printed["spans"]] == [0, 8]
    assert printed["model_version"] == "1"


def test_ask_sends_what_it_is_told_and_leaves_the_rest_to_the_model(capsys, triton):
    asked = ["ask", "Rome", "--context", "In Rome.", "--url", triton.url]
    run(capsys, *asked)
    run(capsys, *asked, "--max-answer-tokens", 7, "--distinct", "--threshold", -1e-3)
    sent = [(inputs["MAX_ANSWER_TOKENS"], inputs["DISTINCT"]) for inputs in triton.requests]
    assert sent == [(struct.pack("<i", 0), b"\0"), (struct.pack("<i", 7), b"\1")]
    assert triton.requests[1]["NO_ANSWER_THRESHOLD"] == struct.pack("<f", -1e-3)


def test_ask_reads_stdin(triton):
    command = [sys.executable, "-m", "spanqa.cli", "ask", "Rome", "--context", "-", "--url", triton.url]
    done = subprocess.run(command, input=b"In Rome.", capture_output=True)
    assert done.stdout.decode().splitlines()[0] == "In [Rome]."
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--context", ""], "the context is empty"),
        (["--context", "x", "--top-n", "99"], "top_n is 99: give a whole number from 1 to 64"),
        (["--context", "x", "--threshold", "nan"], "no_answer_threshold is nan"),
        (["--context-file", "no/such/file"], "no/such/file: cannot be read"),
    ],
)
def test_ask_explains_what_it_refuses(capsys, triton, arguments, message):
    status, out, err = run(capsys, "ask", "Rome", *arguments, "--url", triton.url)
    assert (status, out) == (2, "")
    assert message in err


def test_a_span_in_a_long_text_is_shown_with_its_surroundings():
    context = "Mr. A said no.\n\n" + "x " * 300 + "word\x1b[31m " + "y " * 300
    at = context.index("word")
    shown = highlighted(context, Span(text="word", score=1, char_start=at, char_end=at + 4, logit=0), bold=True)
    assert shown.startswith("...")
    assert shown.endswith("...")
    assert "\x1b[1mword\x1b[0m" in shown
    assert shown.count("\x1b") == 2


def test_predict_writes_files_that_score_reads(capsys, triton, dataset, tmp_path):
    out_file, na_file, jsonl_file = tmp_path / "p.json", tmp_path / "na.json", tmp_path / "lines.jsonl"
    status, out, err = run(
        capsys,
        *["predict", dataset, "-o", out_file, "--na-probs", na_file, "--jsonl", jsonl_file, "--url", triton.url],
    )
    assert (status, err) == (0, "")
    assert json.loads(out_file.read_text()) == {"q1": "Zürich", "q2": "Italy", "q3": "", "q4": "Rome"}
    assert json.loads(na_file.read_text()) == {"q1": -2.0, "q2": -2.0, "q3": 2.0, "q4": -2.0}
    rows = [json.loads(line) for line in jsonl_file.read_text().splitlines()]
    assert [row["id"] for row in rows] == ["q1", "q2", "q3", "q4"]
    assert (rows[1]["char_start"], rows[1]["char_end"], rows[2]["char_start"]) == (41, 46, -1)
    assert "exact 75.00, F1 75.00, HasAns F1 100.00, NoAns F1 50.00" in out
    assert "4 responses in" in out
    _, scored, _ = run(capsys, "score", dataset, out_file, "--na-probs", na_file, "--json")
    assert json.loads(scored)["exact"] == 75.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset.json", "lines.jsonl", "na.json", "p.json"]


def test_forced_predictions_hold_the_best_span_of_every_question(capsys, triton, dataset, tmp_path):
    _, out, _ = run(
        capsys,
        "predict",
        dataset,
        "-o",
        tmp_path / "p.json",
        "--forced",
        "--json",
        "--threshold",
        -9,
        "--url",
        triton.url,
    )
    assert json.loads((tmp_path / "p.json").read_text()) == {"q1": "Zürich", "q2": "Italy", "q3": "Z", "q4": "Rome"}
    summary = json.loads(out)
    assert (summary["HasAns_f1"], summary["forced_HasAns_f1"]) == (0.0, 100.0)
    assert (summary["answered"], summary["failed"]) == (4, 0)
    assert summary["model_versions"] == {"1": 4}
    assert 0 < summary["latency_p50_ms"] <= summary["latency_p95_ms"]


def test_predict_goes_on_after_a_failed_question_and_exits_1(capsys, triton, dataset, tmp_path):
    import grpc

    triton.script.append((grpc.StatusCode.INVALID_ARGUMENT, "the context is too long"))
    status, out, err = run(
        capsys, "predict", dataset, "-o", tmp_path / "p.json", "--concurrency", 1, "--json", "--url", triton.url
    )
    assert status == 1
    assert "1 of 4 questions failed; q1: the context is too long" in err
    assert list(json.loads((tmp_path / "p.json").read_text())) == ["q2", "q3", "q4"]
    assert json.loads(out)["failed"] == 1


def test_predict_needs_no_gold_answers(capsys, triton, tmp_path):
    qas = [{"id": "q1", "question": "Rome?"}]
    dataset = tmp_path / "d.json"
    dataset.write_text(json.dumps({"data": [{"paragraphs": [{"context": "In Rome.", "qas": qas}]}]}))
    status, out, _ = run(capsys, "predict", dataset, "--url", triton.url)
    assert status == 0
    assert out.startswith("1 responses in")


def test_predict_writes_the_best_spans_and_says_which_versions_answered(capsys, triton, dataset, tmp_path):
    def newer(response):
        response.model_version = "2"

    triton.script.extend([None, None, None, newer])
    files = ["--nbest", tmp_path / "nbest.json", "--jsonl", tmp_path / "lines.jsonl"]
    options = ["--top-n", 3, "--max-answer-tokens", 9, "--distinct", "--concurrency", 1]
    status, out, _ = run(capsys, "predict", dataset, *files, *options, "--url", triton.url)
    assert status == 0
    best = json.loads((tmp_path / "nbest.json").read_text())
    assert best["q2"] == [{"text": "Italy", "score": 0.5, "char_start": 41, "char_end": 46, "logit": 8.0}]
    assert best["q3"][0]["text"] == "Z"
    assert out.splitlines()[-1] == "answered by 2 versions of the model: 1 (3), 2 (1)"
    rows = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    assert [row["model_version"] for row in rows] == ["1", "1", "1", "2"]
    sent = {(inputs["TOP_N"], inputs["MAX_ANSWER_TOKENS"], inputs["DISTINCT"]) for inputs in triton.requests}
    assert sent == {(struct.pack("<i", 3), struct.pack("<i", 9), b"\1")}


def test_numeric_ids_of_rows_become_the_text_that_prediction_files_hold(capsys, triton, tmp_path):
    rows = [
        {"id": 7, "question": "Rome?", "context": "In Rome.", "answers": {"text": ["Rome"], "answer_start": [3]}},
        {"id": 8, "question": "Bern?", "context": "In Rome.", "answers": {"text": [], "answer_start": []}},
    ]
    dataset, predictions = tmp_path / "rows.jsonl", tmp_path / "p.json"
    dataset.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(capsys, "predict", dataset, "-o", predictions, "--url", triton.url)[0] == 0
    assert json.loads(predictions.read_text()) == {"7": "Rome", "8": ""}
    status, out, err = run(capsys, "score", dataset, predictions, "--json")
    assert (status, err) == (0, "")
    assert json.loads(out)["missing"] == 0


def test_predict_and_bench_read_every_format(capsys, triton, two_questions, tmp_path):
    predictions = tmp_path / "p.json"
    assert run(capsys, "predict", two_questions, "-o", predictions, "--url", triton.url)[0] == 0
    assert json.loads(predictions.read_text()).keys() == {"1", "2"}
    status, out, err = run(capsys, "score", two_questions, predictions, "--json")
    assert (status, err, json.loads(out)["missing"]) == (0, "", 0)
    triton.requests.clear()
    options = ["--concurrency", 1, "--window-s", 0.1, "--rounds", 1, "--warm-up-s", 0, "--quiet"]
    assert run(capsys, "bench", "--dataset", two_questions, *options, "--url", triton.url)[0] == 0
    asked = {inputs["QUESTION"][4:].decode() for inputs in triton.requests}
    assert asked == {"When was the first bridge built?", "When was the first bridge widened?"}


def test_predict_ends_at_once_where_no_server_is(capsys, triton, dataset):
    triton.stop()
    status, out, err = run(capsys, "predict", dataset, "--url", triton.url, "--timeout-s", 0.3)
    assert (status, out) == (2, "")
    assert "no server answers at" in err


def test_predict_into_a_missing_folder_is_one_sentence(capsys, triton, dataset, tmp_path):
    status, _, err = run(capsys, "predict", dataset, "-o", tmp_path / "no" / "p.json", "--url", triton.url)
    assert status == 2
    assert "cannot be written: No such file or directory" in err


def test_a_summary_of_a_run_without_responses_has_no_speed():
    assert summary_text({"answered": 0, "failed": 3, "seconds": 1.0}, {}) == "0 responses in 1.0 s"
