"""`spanqa bench` asks as our own client asks, writes what it found, compares, and leaves nothing behind."""

import csv
import json
import math
import os
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import grpc
import pytest

from spanqa.cli import main
from spanqa_client.bench.binary import perf_analyzer_path

QUICK = ["--window-s", 0.05, "--warm-up-s", 0.05, "--quiet"]
QUESTIONS = {"What of Zürich?", "What of Italy?", "What of Bern?", "What of Rome?"}
LONGEST_S = 60.0
N_LOOKS = 600


def run(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def dataset(tmp_path):
    context = "Zürich lies in Switzerland. Rome lies in Italy."
    qas = [{"id": str(n), "question": question, "answers": []} for n, question in enumerate(sorted(QUESTIONS))]
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"data": [{"title": "t", "paragraphs": [{"context": context, "qas": qas}]}]}))
    return path


@pytest.fixture
def bench(capsys, triton, dataset):
    """Runs the command on the fake."""
    return lambda *arguments: run(capsys, "bench", "--dataset", dataset, "--url", triton.url, *QUICK, *arguments)


def test_bench_measures_both_kinds_of_loop_and_writes_a_table_a_file_and_a_plot(bench, triton, tmp_path):
    folder = tmp_path / "bench"
    status, out, err = bench("--concurrency", "2,1", "--rates", 40, "--rounds", 2, "-o", folder)
    assert (status, err) == (0, "")
    rows = [line.split("  ") for line in out.splitlines()]
    assert [row[0] for row in rows[:4]] == ["load", "1 in flight", "2 in flight", "40/s"]
    assert "knee: 2 in flight" in out or "knee: 1 in flight" in out
    written = json.loads((folder / "bench.json").read_text())
    levels = written["measurements"]
    assert [(level["concurrency"], level["rate"]) for level in levels] == [(1, None), (2, None), (None, 40)]
    assert all(0 < level["p50_ms"] <= level["p95_ms"] <= level["p99_ms"] for level in levels)
    assert [len(level["rounds"]) for level in levels] == [2, 2, 2]
    assert all(level["rounds"][0]["models"][0]["model"] == "question_answering" for level in levels)
    header = written["header"]
    assert (header["server"], header["model_version"]) == ("triton 2.51.0", "1")
    assert header["dataset"] == "dataset.json, 4 questions"
    assert header["command"].startswith(f"spanqa bench --url {triton.url} --model question_answering --dataset ")
    assert [row["rate"] for row in csv.DictReader((folder / "bench.csv").read_text().splitlines())] == ["", "", "40.0"]
    assert len(ElementTree.parse(folder / "bench.svg").findall(".//{*}polyline")) == 8
    assert sorted(path.name for path in folder.iterdir()) == ["bench.csv", "bench.json", "bench.svg"]
    # All asked as our own client asks: real questions, all six inputs, NaN among them.
    assert {inputs["QUESTION"][4:].decode() for inputs in triton.requests} == QUESTIONS
    assert all(len(inputs) == 6 for inputs in triton.requests)
    options = {(inputs["TOP_N"], inputs["MAX_ANSWER_TOKENS"], inputs["DISTINCT"]) for inputs in triton.requests}
    assert options == {(struct.pack("<i", 1), struct.pack("<i", 0), b"\0")}
    assert all(math.isnan(struct.unpack("<f", inputs["NO_ANSWER_THRESHOLD"])[0]) for inputs in triton.requests)


@pytest.fixture
def stored(bench, tmp_path):
    """Three files of runs: as measured, and the same with the throughput of another."""

    def write(name, factor):
        content = json.loads((tmp_path / "bench" / "bench.json").read_text())
        for level in content["measurements"]:
            for number, entry in enumerate([level, *level["rounds"]]):
                entry["questions_per_s"] = 100.0 * factor * (1 + 0.001 * number)
        path = tmp_path / name
        path.write_text(json.dumps(content))
        return path

    assert bench("--rates", 200, "--rounds", 3, "-o", tmp_path / "bench")[0] == 0
    return {factor: write(f"{factor}.json", factor) for factor in (1, 0.5, 40)}


def test_two_files_are_compared_without_asking_anything(stored, bench, triton):
    triton.requests.clear()
    status, out, _ = bench("--compare", stored[1], stored[1], "--fail-on-slower", 0)
    assert status == 0
    assert out.count(": no difference") == 4
    assert "no difference: every interval holds 0" in out
    slower = ["--compare", stored[1], stored[0.5]]
    status, out, _ = bench(*slower)
    assert status == 0
    assert "-50.0 % (-50.0 to -50.0): slower" in out
    assert bench(*slower, "--fail-on-slower", 40)[0] == 1
    assert bench(*slower, "--fail-on-slower", 60)[0] == 0
    assert bench("--compare", stored[1], stored[40], "--fail-on-slower", 0)[0] == 0
    changes = json.loads(bench(*slower, "--json")[1])["changes"]
    assert [(change["metric"], change["level"]["rate"]) for change in changes][:2] == [
        ("questions_per_s", 200),
        ("p50_ms", 200),
    ]
    assert triton.requests == []


def test_a_run_is_compared_with_an_older_one(stored, bench):
    status, out, _ = bench("--rates", 200, "--rounds", 3, "--compare", stored[40], "--fail-on-slower", 10)
    assert status == 1  # 200 a second are not 4,000
    assert "questions/s" in out.split("old       new")[1]
    assert ": slower" in out


def test_runs_that_cannot_be_compared_are_refused_before_anything_is_measured(stored, bench, triton, tmp_path):
    triton.requests.clear()
    status, _, err = bench("--rates", 50, "--compare", stored[1])
    assert status == 2
    assert "the old run measured 200/s, the new one 50/s: measure the same levels" in err
    status, _, err = bench("--rates", 200, "--compare", stored[1], "--top-n", 2)
    assert status == 2
    assert "the runs asked different things" in err
    list_of_old = tmp_path / "list.json"
    list_of_old.write_text('[{"concurrency": 1, "questions_per_s": 5}]')
    status, _, err = bench("--rates", 200, "--compare", list_of_old)
    assert status == 2
    assert "an older version wrote it, without repeated rounds" in err
    assert len(triton.requests) == 3  # whether the server answers at all


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--concurrency", ""], "give whole numbers of at least 1"),
        (["--concurrency", "0"], "give whole numbers of at least 1"),
        (["--concurrency", "1,x"], "give whole numbers of at least 1"),
        (["--concurrency", "1,,2"], "give whole numbers of at least 1"),
        (["--concurrency", "²"], "give whole numbers of at least 1"),
        (["--rates", "0"], "give numbers above 0"),
        (["--rates", "5,nan"], "give numbers above 0"),
        (["--rates", "inf"], "give numbers above 0"),
        (["--rates", ""], "give numbers above 0"),
        (["--rounds", 0], "rounds begin at 1"),
        (["--window-s", "nan"], "a window is longer than 0"),
        (["--questions", 0], "give at least 1"),
        (["--soak", "5"], "give a number and its unit"),
        (["--soak", "0s"], "give a number and its unit"),
        (["--soak", "1s", "--concurrency", "1,2"], "--soak presses one level, got 2"),
        (["--soak", "1s", "--period-s", 0], "--period-s is above 0"),
        (["--fail-on-slower", 5], "--fail-on-slower needs --compare"),
        (["--compare", "a", "b", "c"], "--compare has 3 files"),
        (["--compare", "none.json"], "none.json: cannot be read"),
        (["--metrics-url", "x"], "--metrics-url is 'x': give host:port"),
        (["--metrics-url", "localhost:1"], "cannot be read"),
        (["--url", "localhost:1,localhost:2"], "give the host:port of the one that is measured"),
    ],
)
def test_bench_refuses_what_it_cannot_do_in_one_sentence(bench, arguments, message):
    status, out, err = bench(*arguments)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert message in err


def test_bench_says_what_perf_analyzer_says(bench, tmp_path, monkeypatch):
    program, printed = tmp_path / "perf_analyzer", tmp_path / "printed"
    program.write_text(
        f'#!/bin/sh\n"{perf_analyzer_path()}" "$@" > {printed}; status=$?; cat {printed}; exit $status\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    folder = tmp_path / "bench"
    assert bench("--concurrency", 2, "--rounds", 1, "--window-s", 0.2, "-o", folder)[0] == 0
    (level,) = json.loads((folder / "bench.json").read_text())["measurements"]
    figures = {
        name: float(re.search(pattern, printed.read_text())[1])
        for name, pattern in {
            "questions_per_s": r"Throughput: ([\d.]+) infer/sec",
            "mean_ms": r"Avg latency: (\d+) usec \(standard",
            "p50_ms": r"p50 latency: (\d+) usec",
            "p95_ms": r"p95 latency: (\d+) usec",
            "p99_ms": r"p99 latency: (\d+) usec",
        }.items()
    }
    for name, value in figures.items():
        assert level[name] == pytest.approx(value / (1e3 if name.endswith("ms") else 1), rel=1e-3)


def test_bench_reports_what_perf_analyzer_could_not_do(bench, triton):
    triton.script.extend([None] + [(grpc.StatusCode.INVALID_ARGUMENT, "not today")] * 10_000)
    status, _, err = bench("--warm-up-s", 0)
    assert (status, len(err.splitlines())) == (2, 1)
    assert "perf_analyzer failed at concurrency 1" in err
    assert "not today" in err


def test_a_window_in_which_nothing_is_answered_is_told(bench, triton):
    triton.delay_s = 0.5
    status, _, err = bench("--warm-up-s", 0, "--concurrency", 1)
    assert (status, len(err.splitlines())) == (2, 1)
    assert "no question was answered within a window of 0.05 s at concurrency 1: give a longer --window-s" in err


def test_a_missing_perf_analyzer_or_library_is_explained(bench, tmp_path, monkeypatch):
    program = tmp_path / "perf_analyzer"
    program.write_text("#!/bin/sh\necho 'libcudart.so.12: cannot open shared object file' >&2; exit 127\n")
    program.chmod(0o755)
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    status, _, err = bench("--concurrency", 1)
    assert status == 2
    assert "perf_analyzer needs libcudart.so.12: pip install 'spanqa[serve]' brings it" in err
    program.unlink()
    monkeypatch.setenv("PATH", "")
    status, _, err = bench("--concurrency", 1)
    assert status == 2
    assert "perf_analyzer is not installed" in err
    assert bench("--rates", 50, "--rounds", 1)[0] == 0


def test_errors_of_an_open_loop_are_counted(bench, triton):
    triton.script.extend([None] + [(grpc.StatusCode.UNAVAILABLE, "full"), None] * 1000)
    status, out, _ = bench("--warm-up-s", 0, "--rates", 60, "--rounds", 1)
    assert status == 0
    assert "errors)" in out.splitlines()[1]


def test_more_than_a_server_can_answer_is_told(bench, triton):
    triton.delay_s = 0.4  # 64 threads: 160 a second
    status, out, _ = bench("--warm-up-s", 0, "--rates", 600, "--rounds", 1)
    assert status == 0
    assert "(cannot keep up)" in out


@pytest.fixture(scope="module")
def authority(authority_class, tmp_path_factory):
    return authority_class(tmp_path_factory.mktemp("certificates"))


def test_bench_connects_with_tls_its_own_certificate_and_a_token(authority, start_triton, dataset, capsys, tmp_path):
    (server, server_key), (own, own_key) = authority.issue("server"), authority.issue("client")
    pair = [(server_key.read_bytes(), server.read_bytes())]
    triton = start_triton(grpc.ssl_server_credentials(pair, authority.file.read_bytes(), True))
    url = f"localhost:{triton.port}"
    tls = ["--tls-ca", authority.file, "--tls-cert", own, "--tls-key", own_key, "--rounds", 1]
    command = ["bench", "--dataset", dataset, "--url", url, *QUICK, *tls]
    assert run(capsys, *command, "--concurrency", 1, "--rates", 50)[0] == 0
    token = tmp_path / "token"
    token.write_text("secret-of-ours")
    folder = tmp_path / "bench"
    status, out, _ = run(capsys, *command, "--rates", 50, "--token", f"@{token}", "-o", folder)
    assert status == 0
    assert triton.metadata[-1]["authorization"] == "Bearer secret-of-ours"
    assert "secret" not in out + (folder / "bench.json").read_text()
    status, _, err = run(capsys, *command, "--concurrency", 1, "--token", f"@{token}")
    assert status == 2
    assert "perf_analyzer can send no token" in err


def processes_in(folder):
    """Processes that work in a folder or below."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(process / "cwd")).is_relative_to(folder):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def wait_for(condition, what):
    for _ in range(N_LOOKS):  # not a time: a machine that stands still for a while is not at fault
        if found := condition():
            return found
        time.sleep(0.05)
    return pytest.fail(what)


@pytest.fixture
def started(triton, dataset, tmp_path):
    """Starts the command as a process, with a folder of its own for temporary files."""
    processes = []
    temporary = tmp_path / "temporary"
    temporary.mkdir()

    def start(*arguments):
        command = [sys.executable, "-m", "spanqa.cli", "bench", "--dataset", dataset, "--url", triton.url, *arguments]
        process = subprocess.Popen(
            [str(part) for part in command],
            env={**os.environ, "TMPDIR": str(temporary)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process, temporary

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_leaves_old_files_and_no_process(started, tmp_path, number):
    folder = tmp_path / "bench"
    folder.mkdir()
    (folder / "bench.json").write_text("old")
    process, temporary = started("--window-s", 60, "--warm-up-s", 0, "-o", folder)
    (child,) = wait_for(lambda: processes_in(temporary) or process.poll(), "perf_analyzer did not start")
    process.send_signal(number)
    _, err = process.communicate(timeout=LONGEST_S)
    assert (process.returncode, err.splitlines()[-1]) == (130, "spanqa: interrupted")
    assert not Path(f"/proc/{child}").exists()
    assert processes_in(temporary) == []
    assert list(temporary.iterdir()) == []
    assert [path.name for path in folder.iterdir()] == ["bench.json"]
    assert (folder / "bench.json").read_text() == "old"


def test_a_soak_tells_each_period_and_ends_with_a_summary_at_an_interruption(started, triton, tmp_path):
    folder = tmp_path / "soak"
    folder.mkdir()
    (folder / "soak.jsonl").write_text('{"kind": "cut o')
    process, _ = started("--soak", "2h", "--period-s", 0.2, "--concurrency", 3, "-o", folder)
    wait_for(lambda: (folder / "soak.jsonl").read_text().count('"period"') >= 8, "no periods")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=LONGEST_S)
    assert (process.returncode, err) == (0, "")
    assert "questions in 0:00:0" in out.splitlines()[-2]
    assert out.splitlines()[-1].startswith("growth, by a line through all but the first tenth: memory ")
    cut_off, *lines = (folder / "soak.jsonl").read_text().splitlines()
    assert cut_off == '{"kind": "cut o'
    entries = [json.loads(line) for line in lines]
    assert [entry["kind"] for entry in entries] == ["run", *["period"] * (len(entries) - 2), "summary"]
    own = Path("/proc/self/statm").read_text().split()[1]
    # The fake is this very process, and those that it started.
    assert entries[2]["resident_mb"] * 1e6 > 0.5 * int(own) * os.sysconf("SC_PAGE_SIZE")
    assert entries[-1]["interrupted"]
    assert entries[-1]["n_questions"] == sum(entry["n_questions"] for entry in entries[1:-1])
    assert 0 < entries[-1]["n_questions"] <= len(triton.requests)
    assert triton.most_in_flight == 3


def test_a_soak_goes_on_through_errors_and_another_run_is_appended(bench, triton, tmp_path):
    triton.script.extend([None] + [(grpc.StatusCode.INTERNAL, "broken")] * 3)
    for _ in range(2):
        status, out, _ = bench("--soak", "0.5s", "--period-s", 0.2, "--rates", 60, "-o", tmp_path)
        assert status == 0
        assert len(out.splitlines()) in (6, 7)
    entries = [json.loads(line) for line in (tmp_path / "soak.jsonl").read_text().splitlines()]
    assert [entry["kind"] for entry in entries] == ["run", *["period"] * 3, "summary"] * 2
    assert [entry["n_errors"] for entry in entries if entry["kind"] == "summary"] == [3, 0]
    assert entries[1]["error"] == "INTERNAL: broken"
    assert entries[1]["p50_ms"] > 0
