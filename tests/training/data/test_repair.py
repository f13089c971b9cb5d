"""Repair: answers find their place where something decides it, and nothing is guessed or lost without a word."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from spanqa.datasets import read_dataset
from spanqa.errors import DataError
from spanqa_training.data.answer_repair import mended_answer
from spanqa_training.data.repair import LIST_SUFFIX, repair_files

BRIDGE = "The bridge was built in 1907, widened in 1950."
EMOJI = "🌉🌉 Zürich: the bridge is red, the boat is red."


@pytest.mark.parametrize(
    ("context", "text", "start", "found"),
    [
        (BRIDGE, "1907", 3, 24),  # a wrong offset
        (BRIDGE, "1907", -1, 24),  # none
        (BRIDGE, "1907", 10**9, 24),
        (EMOJI, "red", len("🌉🌉 Zürich: the bridge is ".encode("utf-16-le")) // 2, 25),  # UTF-16 decides between two
        (EMOJI, "red", len("🌉🌉 Zürich: the bridge is red, the boat is ".encode()), 42),  # and so do bytes
        (EMOJI, "Zürich", 5, 3),
    ],
)
def test_an_answer_gets_the_offset_that_is_meant(context, text, start, found):
    mended = mended_answer(context, text, start)
    assert mended.answer.char_start == found
    assert context.startswith(mended.answer.text, found)
    assert mended.answer.text == text


@pytest.mark.parametrize(
    ("context", "text", "slice_"),
    [
        ("the  old\u00a0bridge", "old bridge", "old\u00a0bridge"),
        ("Cafe\u0301 Central", "Café Central", "Cafe\u0301 Central"),
        ("Café Central", "Cafe\u0301", "Café"),
        ("a \ufb01ne day", "fine day", "\ufb01ne day"),
        ("one\n two", " one two ", "one\n two"),
        ("\u1109\u1165\u110b\u116e\u11af city", "서울", "\u1109\u1165\u110b\u116e\u11af"),
        ("서울 city", "\u1109\u1165\u110b\u116e\u11af", "서울"),
        ("①2 km", "12 km", "①2 km"),
    ],
)
def test_another_spelling_becomes_the_contexts_own(context, text, slice_):
    mended = mended_answer(context, text, 0)
    assert mended.answer.text == slice_
    assert context[mended.answer.char_start : mended.answer.char_end] == slice_
    assert "white space or Unicode form" in mended.rule


@pytest.mark.parametrize(
    ("context", "text", "start"),
    [
        ("a cat and a cat", "cat", 3),  # several, and nothing decides
        ("a  cat and a  cat", "a cat", 3),
        ("a cat", "dog", 2),
        ("a cat", "Cat", 2),  # another spelling of letters is another text
        ("a \ufb01ne day", "ine day", 3),  # half of the ligature
        ("a cat", "  ", 0),
    ],
)
def test_what_nothing_decides_is_not_guessed(context, text, start):
    assert mended_answer(context, text, start) is None


def qa(id_, *answers, question="what?"):
    return {"id": id_, "question": question, "answers": [{"text": t, "answer_start": s} for t, s in answers]}


@pytest.fixture
def broken(tmp_path):
    """Two files that hold one of everything."""
    qas = [
        qa("right", ("1907", 24)),
        qa("moved", ("1907", 3)),
        qa("lost", ("1908", 3)),
        qa(7, ("1950", 41)),
        qa("right", ("1907", 24)),
        qa("right", ("1950", 41)),
        qa("none"),
        qa("without a word", question="\u200e"),
        {"id": "blank", "question": " ", "answers": []},
    ]
    first, second = tmp_path / "first.json", tmp_path / "second.jsonl"
    first.write_text(json.dumps({"data": [{"title": None, "paragraphs": [{"context": BRIDGE, "qas": qas}]}]}))
    row = {"id": "row", "question": "q?", "context": EMOJI, "answers": {"text": ["Zürich"], "answer_start": [5]}}
    second.write_text(json.dumps(row) + "\nno JSON\n")
    return [first, second]


def test_a_mended_copy_has_no_defect_and_each_change_is_listed(broken, tmp_path):
    output = tmp_path / "mended.json"
    repair = repair_files(broken, output)
    examples = read_dataset(output)
    assert [example.id for example in examples] == ["right", "moved", "7", "none", "row"]
    assert {example.id: example.answers[0].char_start for example in examples if example.answers} == {
        "right": 24, "moved": 24, "7": 41, "row": 3
    }  # fmt: skip
    assert repair.n_questions == 5
    assert repair.mended == {"its text stands once": 1, "its offset counts UTF-16 units": 1}
    assert repair.left_out == {
        "a defect that cannot be mended": 3,
        "an exact duplicate": 1,
        "a question or context without a word": 1,
        "its id belongs to another question": 1,
    }
    listed = [json.loads(line) for line in (tmp_path / "mended.json.repairs.jsonl").read_text().splitlines()]
    assert len(listed) == 8
    moved = next(entry for entry in listed if entry.get("id") == "moved")
    assert moved["before"] == {"text": "1907", "answer_start": 3}
    assert moved["after"] == {"text": "1907", "answer_start": 24}
    assert moved["place"].endswith("first.json: data[0].paragraphs[0].qas[1]")


def test_a_repair_that_fails_leaves_the_old_copy(broken, tmp_path):
    output = tmp_path / "mended.json"
    output.write_text("old")
    with pytest.raises(DataError, match=r"missing.json: no such file$"):
        repair_files([tmp_path / "missing.json"], output)
    assert output.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.json", "mended.json", "second.jsonl"]


def test_what_is_left_out_is_listed_with_its_place_and_its_id(broken, tmp_path):
    row = {"id": "\ud83d", "question": "q?", "context": EMOJI, "answers": {"text": ["Zürich"], "answer_start": [3]}}
    with broken[1].open("a") as file:
        file.write(json.dumps(row) + "\n")
    repair_files(broken, tmp_path / "mended.json")
    listed = [json.loads(line) for line in (tmp_path / f"mended.json{LIST_SUFFIX}").read_text().splitlines()]
    qas = f"{broken[0]}: data[0].paragraphs[0].qas"
    assert [(entry["place"], entry.get("id")) for entry in listed if entry["what"] == "left out"] == [
        (f"{qas}[2]", "lost"),
        (f"{qas}[4]", "right"),
        (f"{qas}[5]", "right"),
        (f"{qas}[7]", "without a word"),
        (f"{qas}[8]", "blank"),
        (f"{broken[1]}: line 2 column 1", None),
        (f"{broken[1]}: line 3", "\\ud83d"),
    ]
    assert all(entry["reason"] for entry in listed if entry["what"] == "left out")


def test_an_interrupt_amid_the_writing_leaves_the_old_files_and_nothing_beside_them(broken, tmp_path):
    """The second half of a dataset never comes out of its pipe."""
    folder = tmp_path / "mended"
    folder.mkdir()
    output = folder / "mended.json"
    repair_files(broken, output)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(before) == 2
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    code = "import sys; from spanqa.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "check-data", str(pipe), "--repair", str(output), "--quiet"]
    text = broken[0].read_text()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process, pipe.open("w") as writer:
        writer.write(text[:-20])
        writer.flush()
        assert written_within(folder, len(before) + 2)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def written_within(folder, n_files, timeout_s=60):
    """Whether a folder comes to hold so many files."""
    waiting = threading.Event()
    for _ in range(timeout_s * 50):
        if len(list(folder.iterdir())) == n_files:
            return True
        waiting.wait(0.02)
    return False


@pytest.mark.parametrize("fails", ["mended.json", f"mended.json{LIST_SUFFIX}"])
def test_a_list_is_never_beside_a_copy_that_is_not_its_own(broken, tmp_path, monkeypatch, fails):
    """Whichever of the two cannot be put in place, as when the machine goes down before it."""
    output = tmp_path / "mended.json"
    repair_files(broken, output)
    old = output.read_text()
    put = os.replace

    def replace(source, target):
        if os.path.basename(target) == fails:
            raise KeyboardInterrupt
        put(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        repair_files(broken[:1], output)
    assert not output.with_name(f"{output.name}{LIST_SUFFIX}").exists()
    assert (output.read_text() == old) == (fails == output.name)
    assert len(read_dataset(output)) == (5 if fails == output.name else 4)


def test_a_dataset_is_not_lost_to_the_list_of_repairs(broken, tmp_path):
    output = tmp_path / "mended.json"
    listed = broken[1].rename(tmp_path / f"mended.json{LIST_SUFFIX}")
    before = listed.read_bytes()
    with pytest.raises(
        DataError, match=r"mended\.json\.repairs\.jsonl: is the dataset itself, which would be lost: give"
    ):
        repair_files([broken[0], listed], output)
    assert listed.read_bytes() == before
    assert not output.exists()


def test_a_dataset_is_not_repaired_onto_itself(broken, tmp_path):
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(DataError, match=r"first\.json: is the dataset itself"):
        repair_files(broken, broken[0])
    (tmp_path / "link.json").symlink_to(broken[0])
    with pytest.raises(DataError, match=r"link\.json: is the dataset itself"):
        repair_files(broken, tmp_path / "link.json")
    (tmp_path / "link.json").unlink()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_check_data_repairs_and_says_what_it_did(broken, tmp_path, capsys):
    from spanqa.cli import main

    output = tmp_path / "mended.json"
    assert main(["check-data", *map(str, broken), "--repair", str(output), "--quiet"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"{output}: 5 questions; {output}.repairs.jsonl lists each change")
    assert "left out               6" in shown
    assert main(["check-data", str(output), "--quiet"]) == 0
    capsys.readouterr()
    assert main(["check-data", *map(str, broken), "--repair", str(output), "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["questions"] == 5


def test_a_file_that_is_cut_off_is_not_copied_in_part(broken, tmp_path):
    output = tmp_path / "mended.json"
    output.write_text("old")
    broken[0].write_text(broken[0].read_text()[:-20])
    with pytest.raises(DataError, match=r"first\.json: line 1 column"):
        repair_files(broken, output)
    assert output.read_text() == "old"


def test_a_file_that_is_given_twice_counts_once(broken, tmp_path):
    output = tmp_path / "mended.json"
    assert repair_files([broken[0], broken[0]], output).n_questions == 4
    assert len(read_dataset(output)) == 4
