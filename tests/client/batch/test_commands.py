"""The arguments of `spanqa batch`: what contradicts itself is refused before anything is done."""

import importlib.util

import pytest

from spanqa_client.commands.batch import summary_text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rows-per-part", 0], "--rows-per-part is 0: give a whole number of at least 1"),
        (["--workers", 2], "--workers goes with --repository or --ray"),
        (["--repository", "r", "--url", "localhost:1"], "--url is for a server, which --repository does without"),
        (["--repository", "r", "--index", "i"], "--index is for a server"),
        (["--top-k", 3], "--top-k goes with --index"),
        (["--where", "a=b"], "--where goes with --index"),
        (["--top-n", 65], "top_n is 65"),
        (["--url", "nowhere"], "the server's address is 'nowhere'"),
        (["--ray", "ray://head:10001"], "run the command on a machine of the cluster"),
    ],
)
def test_arguments_that_go_nowhere_are_refused(batch, write_lines, rows, folder, arguments, said):
    path = write_lines([rows(0)])
    status, out, err = batch(path, "-o", folder.path, *arguments)
    assert (status, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert not folder.path.exists()


def test_an_input_that_is_not_there_is_named(batch, folder, tmp_path):
    for name, said in (("none.jsonl", "no such file"), (".", "is no regular file")):
        status, _, err = batch(tmp_path / name, "-o", folder.path)
        assert status == 2
        assert said in err
    assert not folder.path.exists()


def test_a_server_that_is_not_there_leaves_no_folder(batch, write_lines, rows, folder, triton):
    triton.stop()
    status, _, err = batch(write_lines([rows(0)]), "-o", folder.path, "--url", triton.url, "--timeout-s", 0.2)
    assert status == 2
    assert "no server answers at" in err
    assert not folder.path.exists()


def test_without_pyarrow_the_extra_is_named(batch, write_lines, rows, folder, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pyarrow" else find(name))
    status, _, err = batch(write_lines([rows(0)]), "-o", folder.path)
    assert status == 2
    assert "pip install 'spanqa[parquet]'" in err


def test_a_summary_is_laid_out_to_read():
    summary = {"complete": True, "read": 12_345, "answered": 12_340, "failed": 5, "answered_before": 10_000}
    summary |= {"without_answer": 7000, "parts": 13, "model_versions": {"1": 12_000, "2": 340}}
    summary |= {"seconds": 117.0, "questions_per_s": 20.0}
    assert summary_text(summary, "out").splitlines() == [
        "read            12,345",
        "answered        12,340  (7,000 without an answer, 10,000 before this run)",
        "failed               5  (out/failures.jsonl)",
        "13 parts in out, 117.0 s: 20.0 questions/s",
        "answered by 2 versions of the model: 1 (12,000), 2 (340)",
    ]
