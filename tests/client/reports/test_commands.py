"""Reports from the command line: of prediction files and of a server, with columns of one's own."""

import json
import re
import subprocess
import sys

import pytest

from spanqa.cli import main
from spanqa_client.reports.runs import Run, Said, read_run, write_run

CONTEXT = "Rome lies in Italy, Paris in France and Bern in Switzerland."


def squad(path):
    qas = [
        {"id": f"q{n}", "question": f"What of {word}?", "answers": golds, "level": level}
        for n, (word, golds, level) in enumerate(
            [
                ("Rome", [{"text": "Rome", "answer_start": 0}], 1),
                ("Paris", [{"text": "Paris in France", "answer_start": 20}], 2),
                ("Oslo", [], 2),
            ]
        )
    ]
    document = {"data": [{"title": "Cities", "kind": "maps", "paragraphs": [{"context": CONTEXT, "qas": qas}]}]}
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def rows():
    return [
        {
            "id": f"q{n}",
            "title": "Cities",
            "context": CONTEXT,
            "question": f"What of {word}?",
            "answers": {
                "text": [word] if word in starts else [],
                "answer_start": [starts[word]] if word in starts else [],
            },
            "level": level,
        }
        for n, (word, starts, level) in enumerate([("Rome", [0], "easy"), ("Paris", [20], "hard"), ("Oslo", [], None)])
    ]


@pytest.fixture
def dataset(tmp_path):
    return squad(tmp_path / "cities.json")


@pytest.fixture
def predictions(tmp_path):
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps({"q0": "Rome", "q1": "Paris", "q2": "Bern"}))
    return path


def numbers_of(page):
    text = re.search(r'<script type="application/json" id="figures-data">(.*?)</script>', page.read_text())[1]
    return json.loads(text)


def parts_of(page, name):
    return {part["value"]: part["n"] for part in numbers_of(page)["parts"][name]}


def test_the_page_of_prediction_files_holds_the_official_numbers(squad_examples, root, tmp_path, capsys):
    data = root / "tests" / "data" / "squad"
    official = json.loads((data / "official_scores.json").read_text())["bidaf_elmo"]["na_seed1"]
    page = tmp_path / "report.html"
    files = [data / "dev-v2.0.json.gz", data / "predictions_bidaf_elmo.json.gz"]
    arguments = ["--na-probs", data / "na_probs_seed1.json.gz", "--report", page]
    assert main(["score", *map(str, [*files, *arguments])]) == 0
    numbers = numbers_of(page)
    assert json.dumps(numbers["thresholds"][0]["scores"]) == json.dumps(official)
    assert sum(numbers["outcomes"].values()) == len(squad_examples)
    run = read_run(tmp_path / "report.run.json")
    assert (run.name, len(run.said)) == ("predictions_bidaf_elmo", len(squad_examples))
    capsys.readouterr()


def test_a_server_is_evaluated_and_compared_with_files(triton, dataset, predictions, tmp_path, capsys):
    saved, page, card = tmp_path / "old.json", tmp_path / "new.html", tmp_path / "card.md"
    assert main(["score", str(dataset), str(predictions), "--save-run", str(saved)]) == 0
    capsys.readouterr()
    arguments = ["--url", triton.url, str(dataset), "--report", str(page), "--card", str(card), "--against", str(saved)]
    assert main(["evaluate", *arguments, "--quiet", "--json", "--intervals"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["model_threshold"]["exact"] == pytest.approx(200 / 3)
    assert printed["model_threshold"]["threshold"] is None
    assert list(printed["model_threshold"]["intervals_95"]) == [
        *("exact", "f1", "HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1"),
    ]
    forced = printed["forced_answerable"]
    assert (forced["exact"], forced["total"]) == (50.0, 2)
    assert list(forced["intervals_95"]) == ["exact", "f1"]
    comparison = numbers_of(page)["comparison"]
    assert (comparison["other"], comparison["differ"]) == ("predictions", 1)
    assert comparison["changes"]["gained"] == 1
    assert comparison["moves"] == [["false answer", "right no answer", 1]]
    assert "### Against predictions\n" in card.read_text()
    assert read_run(tmp_path / "new.run.json").said["q1"].char_start == 20


def test_a_question_that_fails_is_missing_and_the_exit_status_says_so(triton, dataset, tmp_path, capsys):
    import grpc

    triton.script.append((grpc.StatusCode.INVALID_ARGUMENT, "no"))
    page = tmp_path / "report.html"
    arguments = ["--url", triton.url, str(dataset), "--report", str(page), "--quiet", "--concurrency", "1"]
    assert main(["evaluate", *arguments]) == 1
    shown = capsys.readouterr()
    assert "1 of 3 questions failed; q0: " in shown.err
    assert "model threshold" in shown.out
    assert numbers_of(page)["outcomes"]["missing"] == 1
    assert "1 question without a prediction, scored 0: q0" in page.read_text()


def test_evaluating_a_server_needs_nothing_of_training(triton, dataset, tmp_path):
    code = "\n".join(
        [
            "import sys",
            "for name in ('torch', 'omegaconf', 'lightning', 'safetensors', 'cryptography', 'yaml'):",
            "    sys.modules[name] = None",
            "from spanqa.cli import main",
            "sys.exit(main(sys.argv[1:]))",
        ]
    )
    page = tmp_path / "report.html"
    command = [sys.executable, "-c", code, "evaluate", "--url", triton.url, str(dataset), "--report", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert page.exists()


def test_columns_come_from_the_dataset_and_from_files(dataset, predictions, tmp_path, capsys):
    (tmp_path / "sizes.csv").write_text("id,size,other\nq0,large,1\nq1,small,2\nstranger,large,3\n")
    (tmp_path / "flags.json").write_text(json.dumps({"q0": True, "q1": 2.5, "q2": None}))
    page = tmp_path / "report.html"
    columns = ["level", "kind", f"size={tmp_path / 'sizes.csv'}", f"flag={tmp_path / 'flags.json'}"]
    slices = [part for column in columns for part in ("--slice", column)]
    assert main(["score", str(dataset), str(predictions), "--report", str(page), *slices]) == 0
    assert parts_of(page, "level") == {"1": 1, "2": 2}
    assert parts_of(page, "kind") == {"maps": 3}
    assert parts_of(page, "size") == {"large": 1, "small": 1, "(none)": 1}
    assert parts_of(page, "flag") == {"true": 1, "2.5": 1, "(none)": 1}
    capsys.readouterr()


def test_columns_with_the_names_of_our_own_fields_are_told_apart(dataset, predictions, tmp_path, capsys):
    (tmp_path / "w.json").write_text(json.dumps({"q0": "A", "q1": "B"}))
    page = tmp_path / "report.html"
    columns = ["--slice", f"windows={tmp_path / 'w.json'}", "--slice", f"title={tmp_path / 'w.json'}"]
    assert main(["score", str(dataset), str(predictions), "--report", str(page), *columns]) == 0
    assert parts_of(page, "windows (column)") == parts_of(page, "title (column)") == {"A": 1, "B": 1, "(none)": 1}
    capsys.readouterr()


def test_margins_of_any_size_are_reported(dataset, predictions, tmp_path, capsys):
    page, margins = tmp_path / "report.html", tmp_path / "margins.json"
    margins.write_text('{"q0": -1e20, "q1": 1e-6, "q2": 1e308}')
    assert main(["score", str(dataset), str(predictions), "--na-probs", str(margins), "--report", str(page)]) == 0
    assert numbers_of(page)["thresholds"]
    margins.write_text('{"q0": 1%s, "q1": 0, "q2": 0}' % ("0" * 400))
    assert main(["score", str(dataset), str(predictions), "--na-probs", str(margins)]) == 2
    assert "'q0': expected a number" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "csv"])
def test_columns_of_rows_are_read_from_every_format(predictions, tmp_path, capsys, kind):
    dataset, page = tmp_path / f"rows.{kind}", tmp_path / "report.html"
    if kind == "parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows()), dataset)
    elif kind == "csv":
        lines = [f'{one["id"]},{one["question"]},"{CONTEXT}",{one["level"] or ""}' for one in rows()]
        dataset.write_text("\n".join(["id,question,context,level,answers", *(f"{line}," for line in lines)]))
    else:
        dataset.write_text("\n".join(map(json.dumps, rows())) if kind == "jsonl" else json.dumps(rows()))
    assert main(["score", str(dataset), str(predictions), "--report", str(page), "--slice", "level"]) == 0
    assert parts_of(page, "level") == {"easy": 1, "hard": 1, "(none)": 1}
    capsys.readouterr()


def test_many_numbers_are_cut_into_quarters(dataset, predictions, tmp_path, capsys):
    values = {f"x{n}": n / 2 for n in range(1, 38)} | {"q0": 0, "q1": 9.5, "q2": "100"}
    (tmp_path / "age.json").write_text(json.dumps(values))
    page = tmp_path / "report.html"
    arguments = ["--report", str(page), "--slice", f"age={tmp_path / 'age.json'}"]
    assert main(["score", str(dataset), str(predictions), *arguments]) == 0
    assert list(parts_of(page, "age").items()) == [("below 5", 1), ("9.5 to below 14.5", 1), ("14.5 or more", 1)]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--slice", "level"], "--against and --slice are for a report: give --report FILE.html or --card FILE.md"),
        (["--report", "{0}/no/such/report.html"], "give a file in a folder that exists"),
        (["--report", "{0}"], "cannot be written there"),
        (["--report", "{0}/r.html", "--slice", "colour"], "--slice colour: no question of"),
        (["--report", "{0}/r.html", "--slice", "=x"], "give a column of the dataset, or NAME=FILE"),
        (["--report", "{0}/r.html", "--slice", "a={0}/none.json"], "no such file"),
        (["--report", "{0}/r.html", "--slice", "a={0}/bad.csv"], "has the columns id, b: expected id and a"),
        (["--report", "{0}/r.html", "--against", "{0}/cities.json"], "is no run: give a file that --save-run wrote"),
        (["--report", "{0}/r.html", "--against", "{0}/other.json"], "other.json: lacks 3 of 3 questions, such as q0"),
        (["--report", "{0}/r.html", "--card", "{0}/r.html"], "--card {0}/r.html: is also --report"),
        (["--report", "{0}/other.html", "--against", "{0}/other.run.json"], "is also what is read"),
    ],
)
def test_what_cannot_be_reported_is_one_sentence(dataset, predictions, tmp_path, capsys, arguments, message):
    (tmp_path / "bad.csv").write_text("id,b\nq0,1\n")
    for name in ("other.json", "other.run.json"):
        write_run(tmp_path / name, Run(name="other", said={"x": Said(text="", answered=False)}))
    given = [argument.format(tmp_path) for argument in arguments]
    assert main(["score", str(dataset), str(predictions), *given]) == 2
    shown = capsys.readouterr().err
    assert message.format(tmp_path) in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize(
    "options", [["-m", "x"], ["--fit-threshold"], ["--fit-scores"], ["--fit-temperature"], ["-r", "x", "-g", "2"]]
)
def test_what_is_for_a_checkpoint_is_refused_with_a_server(dataset, capsys, options):
    assert main(["evaluate", "--url", "localhost:1", str(dataset), *options]) == 2
    assert "is for a checkpoint: leave one of them out" in capsys.readouterr().err


def test_a_saved_run_is_reported_again_without_asking(triton, dataset, predictions, tmp_path, capsys):
    saved, page = tmp_path / "run.json", tmp_path / "report.html"
    assert main(["evaluate", "--url", triton.url, str(dataset), "--quiet", "--save-run", str(saved)]) == 0
    n_asked = len(triton.requests)
    assert main(["score", str(dataset), str(predictions), "--save-run", str(tmp_path / "files.json")]) == 0
    capsys.readouterr()
    arguments = ["--report", str(page), "--against", str(tmp_path / "files.json"), "--json"]
    assert main(["score", str(dataset), str(saved), *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["exact"] == pytest.approx(200 / 3)
    assert numbers_of(page)["comparison"]["changes"]["gained"] == 1
    assert len(triton.requests) == n_asked == 3
    assert main(["score", str(dataset), str(saved), "--na-probs", str(predictions)]) == 2
    assert "is a run, which holds its margins: leave out --na-probs" in capsys.readouterr().err
