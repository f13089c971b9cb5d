"""A key is read from where it is kept, and shows up nowhere else."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import traceback
from dataclasses import FrozenInstanceError

import pytest

from spanqa_training.checkpoints.keys import Key, key_from_argument
from spanqa_training.errors import EncryptionError

SECRET = "correct-horse ßattery"


def silent(message):
    raise AssertionError(f"nothing to warn of: {message}")


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "key"
    path.write_text(f"{SECRET}\nsecond line\n", encoding="utf-8")
    path.chmod(0o600)
    return path


def test_the_three_forms_give_the_same_key(key_file, monkeypatch):
    monkeypatch.setenv("THE_KEY", SECRET)
    warnings = []
    keys = [
        key_from_argument("env:THE_KEY", warn=silent),
        key_from_argument(f"@{key_file}", warn=silent),
        key_from_argument(SECRET, warn=warnings.append),
    ]
    assert {key.secret for key in keys} == {SECRET.encode()}
    assert len(warnings) == 1


def test_a_literal_key_is_warned_of_without_repeating_it():
    warnings = []
    key_from_argument(SECRET, warn=warnings.append)
    assert "process list" in warnings[0]
    assert "env:NAME or @FILE" in warnings[0]
    assert SECRET not in warnings[0]


def test_a_key_shows_its_secret_in_no_text():
    key = Key(secret=SECRET.encode())
    for text in (repr(key), str(key), f"{key}", f"{key!s:>40}", repr({"key": key}), repr([key])):
        assert "correct" not in text


def test_a_key_cannot_be_changed():
    key = Key(secret=b"k")
    with pytest.raises(FrozenInstanceError):
        key.secret = b"other"


def test_a_key_reaches_a_child_process_through_a_pipe():
    code = "import pickle, sys; sys.stdout.buffer.write(pickle.load(sys.stdin.buffer).secret)"
    pickled = pickle.dumps(Key(secret=SECRET.encode()))
    done = subprocess.run([sys.executable, "-c", code], input=pickled, capture_output=True, check=True, timeout=60)
    assert done.stdout == SECRET.encode()


@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_without_a_key_is_named(monkeypatch, value):
    monkeypatch.delenv("NO_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("NO_KEY", value)
    state = "not set" if value is None else "empty"
    with pytest.raises(EncryptionError, match=f"^env:NO_KEY: the variable is {state}: export it"):
        key_from_argument("env:NO_KEY", warn=silent)


def test_a_variable_that_is_not_utf_8_is_taken_byte_by_byte(monkeypatch):
    monkeypatch.setitem(os.environb, b"RAW_KEY", b"\xff\xfe")
    assert key_from_argument("env:RAW_KEY", warn=silent).secret == b"\xff\xfe"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the first line is empty"),
        (b"\n" + SECRET.encode(), "the first line is empty"),
        (b"\r\n", "the first line is empty"),
        (b"\xff\xfe" + SECRET.encode(), "the first line is not UTF-8"),
        (SECRET.encode() * 400, "the first line is longer than 4,096 bytes"),
    ],
)
def test_a_file_without_a_key_is_named_and_not_quoted(key_file, content, message):
    key_file.write_bytes(content)
    with pytest.raises(EncryptionError) as caught:
        key_from_argument(f"@{key_file}", warn=silent)
    assert str(caught.value).startswith(f"@{key_file}: {message}")
    assert "correct" not in "".join(traceback.format_exception(caught.value))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for path, reason in (
        (tmp_path / "nowhere", "No such file or directory"),
        (tmp_path, "Is a directory"),
        ("", "No such file or directory"),
        ("a\0b", "embedded null byte"),
    ):
        with pytest.raises(EncryptionError) as caught:
            key_from_argument(f"@{path}", warn=silent)
        assert str(caught.value) == f"@{path}: the key file cannot be read ({reason}): give one with the key"


@pytest.mark.parametrize("content", [f"{SECRET}\r\n", f"\ufeff{SECRET}\n", SECRET])
def test_the_end_of_a_line_and_a_byte_order_mark_are_no_part_of_a_key(key_file, content):
    key_file.write_bytes(content.encode())
    assert key_from_argument(f"@{key_file}", warn=silent).secret == SECRET.encode()


def test_other_space_is_part_of_a_key(key_file):
    key_file.write_text(" a key \n", encoding="utf-8")
    assert key_from_argument(f"@{key_file}", warn=silent).secret == b" a key "


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_key_file_that_others_can_read_is_warned_of(key_file, mode):
    key_file.chmod(mode)
    warnings = []
    assert key_from_argument(f"@{key_file}", warn=warnings.append).secret == SECRET.encode()
    assert warnings == [f"the key file {key_file} can be read by other users: chmod 600 {key_file}"]


def test_a_key_file_may_lie_below_the_home_folder(key_file, monkeypatch):
    monkeypatch.setenv("HOME", str(key_file.parent))
    assert key_from_argument("@~/key", warn=silent).secret == SECRET.encode()


def test_a_key_file_may_be_a_pipe():
    """As a shell makes one of `-k @<(pass show spanqa)`."""
    reading, writing = os.pipe()
    os.write(writing, SECRET.encode() + b"\n")
    os.close(writing)
    try:
        assert key_from_argument(f"@/dev/fd/{reading}", warn=silent).secret == SECRET.encode()
    finally:
        os.close(reading)


def test_an_empty_key_is_refused():
    with pytest.raises(EncryptionError, match="the key is empty: give env:NAME, @FILE or the key itself"):
        key_from_argument("", warn=silent)
