"""`spanqa batch` from files to Parquet: whoever answers, every row is counted once."""

import gzip
import os
import signal

import grpc
import pyarrow
import pytest
from pyarrow import parquet

from spanqa.cli import main
from spanqa.errors import SpanqaError
from spanqa_client.batch.parts import ANSWERS
from spanqa_client.batch.rows import Row
from spanqa_client.batch.workers import WorkerPool

COLUMNS = ["id", "text", "score", "char_start", "char_end", "logit", "has_answer", "no_answer_margin"]
COLUMNS += ["question_truncated", "model_version", "spans"]


def test_a_server_answers_in_the_order_of_the_input(triton, batch, write_lines, rows, folder):
    path = write_lines(rows(number) for number in range(25))
    status, summary, err = batch(path, "-o", folder.path, "--url", triton.url, "--rows-per-part", 10, "--json")
    assert (status, err) == (0, "")
    assert folder.ids() == [f"q{number}" for number in range(25)]
    assert [parquet.ParquetFile(part).metadata.num_rows for part in folder.parts] == [10, 10, 5]
    assert parquet.ParquetFile(folder.parts[0]).schema_arrow == ANSWERS
    answer = folder.answers()[7]
    assert list(answer) == COLUMNS
    assert (answer["text"], answer["has_answer"], answer["no_answer_margin"]) == ("w7", True, -2.0)
    assert rows(7)["context"][answer["char_start"] : answer["char_end"]] == "w7"
    assert answer["spans"] == [{key: answer[key] for key in ("text", "score", "char_start", "char_end", "logit")}]
    assert folder.summary() == summary
    assert (summary["complete"], summary["read"], summary["answered"], summary["failed"]) == (True, 25, 25, 0)
    assert (summary["parts"], summary["model_versions"]) == (3, {"1": 25})
    assert folder.failures() == []


def test_no_answer_has_no_logit_and_the_closest_span(triton, batch, write_lines, folder):
    path = write_lines([{"id": "a", "question": "Where is Rome?", "context": "Here."}])
    _, summary, _ = batch(path, "-o", folder.path, "--url", triton.url, "--json")
    (answer,) = folder.answers()
    assert (answer["text"], answer["logit"], answer["char_start"], answer["has_answer"]) == ("", None, -1, False)
    assert answer["spans"][0]["text"] == "H"
    assert summary["without_answer"] == 1


def test_worker_processes_answer_every_row_that_can_be(batch, write_lines, rows, folder, repository, tmp_path):
    lines = [rows(number) for number in range(100)]
    lines[3] = "{broken"
    lines[5] = rows(4)
    lines[50] = {**rows(50), "context": "x" * 3000}
    lines[51] = {**rows(51), "id": 51}
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(write_lines(lines).read_bytes()))
    table = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([{**rows(200), "n": 1}, {**rows(201), "context": None}]), table)
    arguments = [packed, table, "-o", folder.path, "--repository", repository, "--workers", 2, "--rows-per-part", 40]
    status, summary, err = batch(*arguments, "--json")
    assert status == 1
    assert (summary["read"], summary["answered"], summary["failed"]) == (102, 98, 4)
    failures = {failure["row"]: failure["id"] for failure in folder.failures()}  # in no order
    assert failures == {3: "", 5: "q4", 50: "q50", 101: "q201"}
    expected = [f"q{number}" for number in range(100) if number not in (3, 5, 50, 51)]
    expected[48:48] = ["51"]
    assert folder.ids() == [*expected, "q200"]
    assert "4 of 102 rows failed; row 3:" in err
    assert "not valid JSON" in err


def test_a_row_fails_with_what_the_server_says_and_is_asked_again_on_resume(triton, batch, write_lines, rows, folder):
    path = write_lines(rows(number) for number in range(6))
    triton.script.extend([None, (grpc.StatusCode.INVALID_ARGUMENT, "no such luck")])
    arguments = [path, "-o", folder.path, "--url", triton.url, "--rows-per-part", 4, "--concurrency", 1]
    status, out, err = batch(*arguments)
    assert status == 1
    assert folder.failures() == [{"row": 1, "id": "q1", "reason": "no such luck"}]
    assert [line.split()[:2] for line in out.splitlines()[:3]] == [["read", "6"], ["answered", "5"], ["failed", "1"]]
    assert err == "spanqa: warning: 1 of 6 rows failed; q1: no such luck\n"
    n_asked = len(triton.requests)
    status, out, err = batch(*arguments, "--resume")
    assert (status, err) == (0, "")
    assert len(triton.requests) == n_asked + 1
    assert folder.ids() == [f"q{number}" for number in range(6)]  # in its place
    assert folder.failures() == []
    assert (folder.summary()["answered"], folder.summary()["answered_before"]) == (6, 5)
    assert "5 before this run" in out


def test_a_server_that_is_lost_ends_the_work_and_what_is_answered_stays(triton, write_lines, rows, folder, capsys):
    def stop_after(n_requests):
        return lambda _: triton.stop() if len(triton.requests) >= n_requests else None

    triton.script.extend([stop_after(30)] * 500)
    path = write_lines(rows(number) for number in range(500))
    arguments = ["batch", path, "-o", folder.path, "--url", triton.url, "--rows-per-part", 10, "--quiet"]
    status = main([str(one) for one in [*arguments, "--concurrency", 2, "--timeout-s", 0.2]])
    err = capsys.readouterr().err
    assert status == 2
    assert err.count("\n") == 1
    assert err.endswith(f"what is answered is in {folder.path}: go on with --resume\n")
    summary = folder.summary()
    assert not summary["complete"]
    assert summary["read"] == summary["answered"] + summary["failed"]
    assert summary["answered"] == len(folder.ids()) >= 25
    triton.start()
    triton.script.clear()
    assert main([str(one) for one in [*arguments, "--resume"]]) == 0
    folder.require_once(f"q{number}" for number in range(500))


def settled_by(pool, rows):
    try:
        return {one.number: one for one in pool.ask(rows)}
    finally:
        pool.close()


def test_rows_at_which_processes_die_are_given_up_and_the_others_answered(strange_plan):
    rows = [Row(number, f"q{number}", "fatal" if number == 37 else "Who?", "text") for number in range(90)]
    settled = settled_by(WorkerPool(strange_plan(), 2), rows)
    assert settled.keys() == set(range(90))
    assert [number for number, one in settled.items() if one.reason] == [37]
    assert "died each time" in settled[37].reason


def test_a_process_that_is_killed_is_replaced(strange_plan):
    rows = [Row(number, f"q{number}", "Who?", "text") for number in range(200)]
    pool = WorkerPool(strange_plan(pause_s=0.002), 2)
    settled = {}
    try:
        for one in pool.ask(rows):
            settled[one.number] = one
            if len(settled) == 40:
                os.kill(int(one.answer["text"]), signal.SIGKILL)
    finally:
        pool.close()
    assert settled.keys() == set(range(200))
    assert not any(one.reason for one in settled.values())
    assert len({one.answer["text"] for one in settled.values()}) == 3


def test_what_no_process_can_do_ends_the_work(strange_plan):
    with pytest.raises(SpanqaError, match="no luck"):
        settled_by(WorkerPool(strange_plan(fault="no luck"), 1), [Row(0, "a", "Who?", "text")])


REFUSALS = {
    "another input": (["--top-n", 1], "begun with another input: go on with the same, or give a new folder"),
    "options": (["--top-n", 2], "begun with --top-n 1, not 2"),
    "partition": (["--rows-per-part", 7], "begun with --rows-per-part 5, not 7"),
    "threshold": (["--threshold", -1], "begun with --threshold None, not -1.0"),
    "another way": (["--repository"], "begun with another model"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_run_that_goes_on_with_something_else_is_refused(triton, batch, write_lines, rows, folder, repository, name):
    path = write_lines(rows(number) for number in range(7))
    asked = ["-o", folder.path, "--rows-per-part", 5]
    assert batch(path, *asked, "--url", triton.url)[0] == 0
    arguments, said = REFUSALS[name]
    if name == "another input":
        path.write_text(path.read_text().replace("w6", "w7"))
    way = [*arguments, repository] if name == "another way" else [*arguments, "--url", triton.url]
    status, out, err = batch(path, *asked, *way, "--resume")
    assert (status, out) == (2, "")
    assert err.startswith(f"spanqa: error: {folder.path}: {said}")
    assert err.count("\n") == 1


def test_the_same_rows_in_another_file_go_on_and_a_restarted_server_does(triton, batch, write_lines, rows, folder):
    path = write_lines(rows(number) for number in range(7))
    assert batch(path, "-o", folder.path, "--url", triton.url)[0] == 0
    renamed = path.rename(path.with_name("renamed.jsonl"))
    triton.stop()
    triton.port = None
    triton.start()
    n_asked = len(triton.requests)
    assert batch(renamed, "-o", folder.path, "--url", triton.url, "--resume")[0] == 0
    assert len(triton.requests) == n_asked
    triton.version = "2"
    status, _, err = batch(renamed, "-o", folder.path, "--url", triton.url, "--resume")
    assert status == 2
    assert "begun with another model (versions 1, not 2)" in err


def test_a_folder_with_something_in_it_is_refused(triton, batch, write_lines, rows, folder):
    path = write_lines([rows(0)])
    folder.path.mkdir()
    (folder.path / "notes.txt").write_text("mine")
    for more, said in (([], "not empty: give a new folder, or"), (["--resume"], "no folder of a batch (run.json")):
        status, _, err = batch(path, "-o", folder.path, "--url", triton.url, *more)
        assert status == 2
        assert said in err
    assert [one.name for one in folder.path.iterdir() if not one.name.startswith(".")] == ["notes.txt"]


def test_two_batches_do_not_write_into_one_folder(triton, batch, write_lines, rows, folder, started, wait_for):
    path = write_lines(rows(number) for number in range(50))
    triton.delay_s = 0.5
    first = started(path, "-o", folder.path, "--url", triton.url, "--concurrency", "1")
    wait_for(lambda: (folder.path / "run.json").exists(), first)
    status, _, err = batch(path, "-o", folder.path, "--url", triton.url, "--resume")
    assert status == 2
    assert "another batch is writing into it" in err
