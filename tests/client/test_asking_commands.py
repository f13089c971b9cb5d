"""`spanqa ask` and `spanqa predict`: what they connect with, what they show, and files of rows in and out."""

import csv
import json
import subprocess
import sys

import grpc
import pytest

from spanqa.cli import main
from spanqa_client.answer import Span
from spanqa_client.highlight import highlighted, highlighted_html

ROWS = [("1", "What of Rome?"), ("2", "What of Bern?"), ("=3", "What of Italy?")]
CONTEXT = "Rome lies in Italy, says\n<b>Zürich</b> & so on. It rained."


def run(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def rows_csv(tmp_path):
    path = tmp_path / "questions.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "question", "context"), *((*row, CONTEXT) for row in ROWS)])
    return path


def _span(text):
    start = CONTEXT.index(text)
    return Span(text=text, score=0.5, char_start=start, char_end=start + len(text), logit=1.0)


def test_a_span_is_shown_in_its_sentence_or_in_the_whole_context():
    span = _span("Zürich")
    assert highlighted(CONTEXT, span, bold=False) == "Rome lies in Italy, says <b>[Zürich]</b> & so on."
    assert highlighted(CONTEXT, span, bold=False, whole=True) == CONTEXT.replace("Zürich", "[Zürich]")
    assert highlighted_html(CONTEXT, span) == (
        "Rome lies in Italy, says\n&lt;b&gt;<mark>Zürich</mark>&lt;/b&gt; &amp; so on."
    )
    assert highlighted_html(CONTEXT, span, whole=True).endswith("&amp; so on. It rained.")


def test_nothing_of_a_hostile_context_becomes_a_control_or_an_element():
    context = '\x1b[31m<script>"x"\0</script> Rome'
    span = Span(text="script", score=1, char_start=6, char_end=12, logit=1)
    shown = highlighted(context, span, bold=True, whole=True)
    assert shown.count("\x1b") == 2
    page = highlighted_html(context, span, whole=True)
    assert page.replace("<mark>", "").replace("</mark>", "").count("<") == 0
    assert page.count("<mark>") == 1
    assert "\0" not in page


def test_ask_shows_the_whole_text_or_html(capsys, triton):
    asked = ["ask", "What of Rome?", "--context", CONTEXT, "--url", triton.url]
    _, out, _ = run(capsys, *asked, "--whole")
    assert out.startswith(CONTEXT.replace("Rome", "[Rome]"))
    _, out, _ = run(capsys, *asked, "--html")
    assert out == "<mark>Rome</mark> lies in Italy, says\n&lt;b&gt;Zürich&lt;/b&gt; &amp; so on.\n"
    _, out, _ = run(capsys, "ask", "What of Bern?", "--context", CONTEXT, "--url", triton.url, "--html")
    assert out == "\n"


def test_several_files_are_ranked(capsys, ranking, tmp_path):
    files = []
    for number in (-1, -3, 2):
        files.append(tmp_path / f"{number}.txt")
        files[-1].write_text(f"{number} is the number. More.")
    asked = ["ask", "Which?", "--url", ranking.url, "--top-n", 2]
    asked += [word for file in files for word in ("--context-file", file)]
    status, out, err = run(capsys, *asked)
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "[-3] is the number.",
        f"  {files[1]}, no-answer margin -3.00",
        "[-1] is the number.",
        f"  {files[0]}, no-answer margin -1.00",
    ]
    printed = json.loads(run(capsys, *asked, "--json")[1])
    assert [answer["file"] for answer in printed["answers"]] == [str(files[1]), str(files[0])]
    status, _, err = run(capsys, *asked, "--html")
    assert status == 2
    assert "go with one text" in err
    status, out, _ = run(capsys, *asked[:6], "--context-file", files[2], "--context-file", files[2])
    assert out.splitlines()[0] == "no answer in 2 texts; closest:"


def test_predict_reads_csv_and_writes_csv(capsys, triton, rows_csv, tmp_path):
    output = tmp_path / "answers.csv"
    status, _, err = run(capsys, "predict", rows_csv, "-o", output, "--url", triton.url)
    assert status == 0
    assert "a spreadsheet would run 1 cells: write it with --spreadsheet" in err
    with output.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], row["text"], row["has_answer"]) for row in rows] == [
        ("1", "Rome", "true"),
        ("2", "", "false"),
        ("=3", "Italy", "true"),
    ]
    assert (rows[0]["char_start"], rows[0]["char_end"], rows[0]["model_version"]) == ("0", "4", "1")
    assert float(rows[1]["no_answer_margin"]) == 2.0
    assert "spans" not in rows[0]


def test_cells_that_a_spreadsheet_would_run_are_marked_on_demand_alone(capsys, triton, rows_csv, tmp_path):
    output = tmp_path / "answers.csv"
    status, _, err = run(capsys, "predict", rows_csv, "-o", output, "--url", triton.url, "--spreadsheet", "--top-n", 2)
    assert (status, err) == (0, "")
    with output.open(newline="", encoding="utf-8") as file:
        assert [row["id"] for row in csv.DictReader(file)] == ["1", "2", "'=3"]
    status, _, err = run(capsys, "predict", rows_csv, "-o", tmp_path / "p.json", "--spreadsheet")
    assert status == 2
    assert "--spreadsheet goes with -o FILE.csv" in err


def test_any_text_comes_back_out_of_a_csv(capsys, triton, tmp_path):
    questions = ["a\rb", 'say "x", y?', "one\r\ntwo", "\x00nul", "ü;\t"]
    dataset, output = tmp_path / "q.jsonl", tmp_path / "answers.csv"
    rows = [{"id": str(n), "question": text, "context": CONTEXT} for n, text in enumerate(questions)]
    dataset.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(capsys, "predict", dataset, "-o", output, "--url", triton.url)[0] == 0
    with output.open(newline="", encoding="utf-8") as file:
        assert [row["question"] for row in csv.DictReader(file, strict=True)] == questions


def test_predict_writes_parquet_and_json_lines_by_the_suffix(capsys, triton, rows_csv, tmp_path):
    from pyarrow import parquet

    asked = ["predict", rows_csv, "--url", triton.url, "--top-n", 2, "--forced"]
    for suffix in ("parquet", "jsonl", "csv"):
        assert run(capsys, *asked, "-o", tmp_path / f"answers.{suffix}")[0] == 0
    rows = parquet.read_table(tmp_path / "answers.parquet").to_pylist()
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    with (tmp_path / "answers.csv").open(newline="", encoding="utf-8") as file:
        cells = list(csv.DictReader(file))
    assert lines[1]["sentence"].startswith("Rome lies")
    assert [row["text"] for row in rows] == [line["text"] for line in lines] == ["Rome", "R", "Italy"]
    assert [row["has_answer"] for row in rows] == [True, False, True]
    assert (
        rows[1]["spans"]
        == lines[1]["spans"]
        == [{"text": "R", "score": 0.5, "char_start": 0, "char_end": 1, "logit": 8.0}]
    )
    assert [cell["text"] for cell in cells] == ["Rome", "R", "Italy"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_json_lines_are_those_of_the_option(capsys, triton, rows_csv, tmp_path):
    files = [tmp_path / "answers.jsonl", tmp_path / "by-option"]
    assert run(capsys, "predict", rows_csv, "-o", files[0], "--jsonl", files[1], "--url", triton.url)[0] == 0
    assert files[0].read_text() == files[1].read_text()


def test_other_suffixes_are_predictions_as_ever(capsys, triton, rows_csv, tmp_path):
    for name in ("p.json", "p"):
        assert run(capsys, "predict", rows_csv, "-o", tmp_path / name, "--url", triton.url)[0] == 0
        assert json.loads((tmp_path / name).read_text()) == {"1": "Rome", "2": "", "=3": "Italy"}


def test_without_pyarrow_parquet_is_one_sentence_before_anything_is_asked(capsys, triton, rows_csv, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    status, _, err = run(capsys, "predict", rows_csv, "-o", "answers.parquet", "--url", triton.url)
    assert status == 2
    assert "pip install 'spanqa[parquet]'" in err
    assert triton.requests == []


def test_rows_into_a_missing_folder_are_one_sentence(capsys, triton, rows_csv, tmp_path):
    for name in ("a.csv", "a.parquet"):
        status, _, err = run(capsys, "predict", rows_csv, "-o", tmp_path / "no" / name, "--url", triton.url)
        assert status == 2
        assert "cannot be written: No such file or directory" in err


@pytest.fixture
def secure(authority_class, tmp_path, start_triton):
    authority = authority_class(tmp_path)
    certificate, key = authority.issue("server")
    pair = [(key.read_bytes(), certificate.read_bytes())]
    return start_triton(grpc.ssl_server_credentials(pair)), authority


def test_commands_connect_with_tls_and_a_token(capsys, secure, rows_csv, monkeypatch):
    server, authority = secure
    monkeypatch.setenv("QA_TOKEN", "abc")
    connection = ["--url", server.url, "--tls-ca", authority.file, "--token", "env:QA_TOKEN", "--compression", "gzip"]
    status, out, err = run(capsys, "ask", "What of Rome?", "--context", CONTEXT, *connection)
    assert (status, err) == (0, "")
    assert "[Rome]" in out
    assert run(capsys, "predict", rows_csv, "--quiet", *connection)[0] == 0
    assert {sent["authorization"] for sent in server.metadata} == {"Bearer abc"}


def test_a_connection_without_tls_is_one_sentence_of_the_command_alone(secure):
    command = [sys.executable, "-m", "spanqa.cli", "ask", "Who?", "--context", "Me.", "--url", secure[0].url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr == (
        f"spanqa: error: {secure[0].url}: the server speaks TLS alone: ask it with TLS (a CA file, or tls)\n"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--token", "abc"], "--token would stand in the list of processes: give env:NAME or @FILE"),
        (["--token", "@/no/such"], "the token's file /no/such cannot be read"),
        (["--tls-cert", "x.pem"], "given without its key"),
        (["--tls-ca", "/no/such.pem"], "the CA's certificates cannot be read"),
        (["--keepalive-s", "0"], "keepalive_s is 0.0"),
        (["--url", "a"], "give host:port"),
    ],
)
def test_options_that_cannot_be_right_are_one_sentence(capsys, options, message):
    status, out, err = run(capsys, "ask", "Who?", "--context", "Me.", *options)
    assert (status, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_collection_is_not_asked_with_options_that_would_not_be_heeded(capsys):
    status, _, err = run(capsys, "ask", "Who?", "--index", "none", "--html")
    assert status == 2
    assert "--html go with one text" in err


def test_predict_writes_over_nothing_that_it_reads_or_writes(capsys, tmp_path):
    dataset = tmp_path / "d.csv"
    dataset.write_text("id,question,context\n1,Who?,Me.\n")
    (tmp_path / "link.csv").symlink_to(dataset)
    for options, message in (
        (("-o", tmp_path / "link.csv"), "is also what is read"),
        (("--jsonl", dataset), "is also what is read"),
        (("-o", tmp_path / "a", "--nbest", f"{tmp_path}/./a"), "is also -o"),
    ):
        status, _, err = run(capsys, "predict", str(dataset), *map(str, options), "--url", "127.0.0.1:1")
        assert status == 2
        assert message in err
    assert dataset.read_text() == "id,question,context\n1,Who?,Me.\n"


def test_importing_the_client_loads_nothing_heavy_until_something_is_asked():
    code = (
        "import sys, spanqa_client\n"
        "heavy = ['grpc', 'tritonclient', 'torch', 'tokenizers', 'numpy', 'transformers', 'pyarrow', 'tqdm']\n"
        "from spanqa_client import Answer, ConnectionSettings, QAClient\n"
        "import spanqa_client.pipeline, spanqa_client.commands.ask\n"
        "QAClient('localhost:1')\n"
        "found = [name for name in (*heavy, 'asyncio', 'ssl') if name in sys.modules]\n"
        "from spanqa_client import AsyncQAClient\n"
        "AsyncQAClient('localhost:1')\n"
        "print(found + [name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
