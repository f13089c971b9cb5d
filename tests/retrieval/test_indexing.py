"""An index follows its sources: only what changed is read, what is broken is told, and a kill loses nothing."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from spanqa.cli import main
from spanqa_retrieval import reading, reading_process
from spanqa_retrieval.errors import CollectionError, SourceError
from spanqa_retrieval.indexing import Report, update_index
from spanqa_retrieval.settings import IndexSettings
from spanqa_retrieval.sources import find_sources
from spanqa_retrieval.tantivy_engine import TantivyIndex, create_index


@pytest.fixture
def folder(tmp_path):
    """Three files of five documents."""
    made = tmp_path / "docs"
    made.mkdir()
    (made / "a.txt").write_text("A bridge of stone.")
    (made / "b.md").write_text("# Towers\n\nA tower of wood.")
    rows = [{"id": number, "text": f"A river numbered {number}.", "lang": "en"} for number in range(3)]
    (made / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return made


@pytest.fixture
def index(tmp_path):
    return create_index(tmp_path / "index", IndexSettings())


def updated(index, folder, **options):
    report = Report()
    update_index(index, list(find_sources([folder], report.skipped.append)), report, **options)
    return report


def documents(index, query="bridge tower river"):
    return sorted(hit.passage.document for hit in index.search(query, top_k=10_000))


def test_everything_is_read_once(index, folder):
    report = updated(index, folder)
    assert (report.n_read, report.n_documents, report.n_passages, report.skipped) == (3, 5, 5, [])
    assert len(documents(index)) == len(set(documents(index))) == 5
    again = updated(index, folder)
    assert (again.n_read, again.n_unchanged, again.n_passages) == (0, 3, 0)


def test_only_what_changed_is_read_again(index, folder):
    updated(index, folder)
    (folder / "a.txt").write_text("A bridge of steel.")
    os.utime(folder / "b.md")  # another time is no other content
    report = updated(index, folder)
    assert (report.n_read, report.n_unchanged) == (1, 2)
    assert [hit.passage.text for hit in index.search("bridge", top_k=5)] == ["A bridge of steel."]


def test_what_is_gone_is_kept_until_it_is_to_be_pruned(index, folder):
    updated(index, folder)
    (folder / "c.jsonl").unlink()
    report = updated(index, folder)
    assert (report.n_pruned, len(report.missing)) == (0, 1)
    assert len(documents(index)) == 5
    report = updated(index, folder, prune=True)
    assert (report.n_pruned, report.missing) == (1, [])
    assert len(documents(index)) == 2


def test_what_lies_in_a_folder_that_cannot_be_looked_into_is_not_pruned(index, folder):
    updated(index, folder)
    report = Report()
    update_index(index, [], report, prune=True, unread=["docs"])
    assert (report.n_pruned, len(report.missing)) == (0, 3)
    update_index(index, [], report, prune=True, unread=["doc"])
    assert report.n_pruned == 3


def test_a_file_that_becomes_unreadable_is_told_and_found_as_it_was(index, folder):
    updated(index, folder)
    (folder / "a.txt").write_bytes(b"\xff\xfe\x00")
    report = updated(index, folder)
    (line,) = report.skipped
    assert "a.txt" in line
    assert line.endswith("; the index keeps what it holds of it")
    assert [hit.passage.text for hit in index.search("bridge", top_k=5)] == ["A bridge of stone."]
    (folder / "a.txt").write_text("A bridge again.")
    assert updated(index, folder).n_read == 1
    assert len(documents(index)) == 5


def test_a_file_that_breaks_off_is_not_taken_in_by_half(index, folder, monkeypatch):
    def breaks_off(source, on_defect):
        yield from real(source, on_defect)
        if source.path.name == "c.jsonl":
            raise SourceError(f"{source.name}: broken off")

    real = reading.read_documents
    monkeypatch.setattr(reading, "read_documents", breaks_off)
    report = updated(index, folder)
    assert report.n_read == 2
    assert "broken off" in report.skipped[0]
    assert len(documents(index)) == 2
    monkeypatch.setattr(reading, "read_documents", real)
    assert updated(index, folder).n_read == 1
    assert len(documents(index)) == 5


def test_another_process_that_reads_makes_the_same_index(index, folder, tmp_path, monkeypatch):
    (folder / "broken.pdf").write_bytes(b"no PDF")
    rows = [json.dumps({"text": f"A bridge {row}. " * 40}) + "\n" for row in range(150)]
    (folder / "d.jsonl").write_text("".join(rows) + '{"text": 7}\n')
    here = updated(index, folder)
    monkeypatch.setattr(reading_process, "WORTH_BYTES", 0)
    apart = create_index(tmp_path / "apart", IndexSettings())
    assert updated(apart, folder) == here
    assert len(here.skipped) == 2
    assert apart.sources() == index.sources()
    found = [{hit.passage.document: hit.passage for hit in one.search("bridge", top_k=999)} for one in (index, apart)]
    assert found[0] == found[1]
    assert len(found[0]) == 151


def test_a_process_that_dies_reading_costs_only_what_was_not_committed(index, folder, monkeypatch):
    updated(index, folder)
    (folder / "a.txt").write_text("A bridge of steel.")
    rows = [json.dumps({"text": f"A bridge {row}. " * 40}) + "\n" for row in range(3000)]
    (folder / "d.jsonl").write_text("".join(rows))
    processes = []
    real = subprocess.Popen

    def noted(*args, **kwargs):
        processes.append(real(*args, **kwargs))
        return processes[-1]

    def kill_at_d(source):
        if source.name == "docs/d.jsonl":
            processes[0].kill()

    with monkeypatch.context() as patched:
        patched.setattr(reading_process, "WORTH_BYTES", 0)
        patched.setattr(subprocess, "Popen", noted)
        with pytest.raises(CollectionError, match="reads the sources ended with status -9"):
            update_index(index, find_sources([folder], print), Report(), on_file=kill_at_d)
    assert [hit.passage.text for hit in index.search("bridge", top_k=5)] == ["A bridge of stone."]
    assert updated(index, folder).n_read == 2
    assert sum(record.n_documents for record in index.sources().values()) == 3005


CODE = """
import sys
from spanqa_retrieval import indexing, reading_process
indexing.COMMIT_S = 0.02
reading_process.WORTH_BYTES = 0
from spanqa.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_run_killed_at_any_moment_is_made_good_by_the_next(tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(120):
        rows = [json.dumps({"id": f"{number}-{row}", "text": f"A river {number} {row}. " * 30}) for row in range(5)]
        (folder / f"{number}.jsonl").write_text("\n".join(rows))
    target = tmp_path / "index"
    command = [sys.executable, "-c", CODE, "index", str(folder), "-o", str(target), "--quiet"]
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=120)
    whole_s = time.monotonic() - began
    expected = documents(TantivyIndex(target), "river")
    n_passages = sum(record.n_passages for record in TantivyIndex(target).sources().values())
    drawn = random.Random(3)
    for attempt in range(3):
        killed = tmp_path / f"killed{attempt}"
        command[command.index("-o") + 1] = str(killed)
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            time.sleep(whole_s * drawn.uniform(0.3, 1.0))
            process.send_signal(signal.SIGKILL)
        if killed.exists():
            TantivyIndex(killed)  # it opens
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=120)
        index = TantivyIndex(killed)
        assert documents(index, "river") == expected
        assert sum(record.n_passages for record in index.sources().values()) == n_passages
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".killed")]


def run(*arguments):
    return main([str(argument) for argument in arguments])


def test_the_commands_index_look_and_search(folder, tmp_path, capsys):
    target = tmp_path / "made"
    (folder / "broken.pdf").write_bytes(b"no PDF")
    assert run("index", folder, "-o", target, "--passage-words", 50) == 0
    shown = capsys.readouterr()
    assert "read       3 files: 5 documents, 5 passages" in shown.out
    (line,) = shown.err.splitlines()
    assert "skipped: " in line
    assert "broken.pdf" in line
    assert run("index", "-o", target, "--stat", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["files"], said["documents"], said["settings"]["passage_words"]) == (3, 5, 50)
    assert said["bytes"] > 0
    assert run("search", "wooden tower", "--index", target, "--json") == 0
    (passage,) = json.loads(capsys.readouterr().out)["passages"]
    text = (folder / "b.md").read_text()
    assert passage["title"] == "Towers"
    assert passage["text"] == text[passage["char_start"] : passage["char_end"]]
    assert run("search", "river", "--index", target, "--where", "lang=de") == 0
    assert capsys.readouterr().out == "no passage with that metadata has a word of the query\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["index", "-o", "{index}"], "no SOURCE: give folders or files"),
        (["index", "{index}", "-o", "{index}", "--prune"], "nothing that can be read is in"),
        (["index", "-o", "{index}", "--stat", "--stemmer", "german"], "--stat changes nothing"),
        (["index", "{folder}", "-o", "{index}", "--stat"], "--stat changes nothing"),
        (["index", "{folder}", "-o", "{index}", "--stemmer", "german"], "made with passages of 130 words"),
        (["index", "{folder}", "-o", "{folder}"], "not an index, and not empty"),
        (["index", "{folder}/missing", "-o", "{index}"], "missing"),
        (["search", "x", "--index", "{folder}"], "no index there"),
        (["ask", "x", "--index", "{index}", "--token", "secret"], "--token would stand in the list of processes"),
        (["ask", "x", "--index", "{index}", "--url", "h:1", "--tls-ca", "{folder}/none"], "none"),
        (["search", "x", "--index", "ftp://host/x"], "give a folder, or opensearch://HOST:PORT/NAME"),
        (["search", "x", "--index", "{index}", "--top-k", "0"], "--top-k is 0: give a whole number from 1"),
        (["search", "x", "--index", "{index}", "--where", "lang"], "--where is 'lang': give KEY=VALUE"),
        (["ask", "x", "--index", "{index}", "--top-k", "99"], "top_k is 99: give a whole number from 1 to 32"),
        (["ask", "x", "--context", "y", "--top-k", "3"], "--top-k goes with --index"),
        (["ask", "x", "--context", "y", "--where", "a=b"], "--where goes with --index"),
    ],
)
def test_what_is_wrong_is_one_sentence(index, folder, capsys, arguments, message):
    places = {"index": index.path, "folder": folder}
    assert run(*[argument.format(**places) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_collection_without_its_extra_is_one_sentence(capsys, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("spanqa_retrieval")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tantivy", None)
    assert run("ask", "x", "--index", "somewhere") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("needs the package tantivy, which is not installed: pip install 'spanqa[retrieval]'")


def test_a_second_writer_is_refused_in_one_sentence(index, folder, capsys):
    with index.writer():
        assert run("index", folder, "-o", index.path, "--quiet") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "another process writes the index: wait until it has ended" in line
