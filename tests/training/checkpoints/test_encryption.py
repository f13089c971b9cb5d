"""An encrypted file gives back what was written, or says in one sentence what happened to it."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spanqa_training.checkpoints import encryption as sealed
from spanqa_training.checkpoints.encryption import MAGIC, is_sealed, read_sealed, sealing
from spanqa_training.checkpoints.keys import Key
from spanqa_training.errors import EncryptionError

KEY = Key(secret=b"correct horse battery")
OTHER_KEY = Key(secret=b"incorrect horse")
HEADER_BYTES = 112
CHUNK_BYTES = 10
STORED_CHUNK_BYTES = 4 + CHUNK_BYTES + 16
CONTENT = b"0123456789abcdefghijABCDEFGHIJrest"


@pytest.fixture(autouse=True, scope="module")
def cheap_derivation():
    """scrypt with next to no work; one test takes the real cost."""
    patch = pytest.MonkeyPatch()
    patch.setattr(sealed, "SCRYPT_LOG2_N", 2)
    yield
    patch.undo()


def stored(*pieces, key=KEY, chunk_bytes=CHUNK_BYTES):
    file = io.BytesIO()
    with sealing(file, key, chunk_bytes=chunk_bytes) as content:
        for piece in pieces:
            content.write(piece)
    return file.getvalue()


def read(data, key=KEY):
    return read_sealed(io.BytesIO(data), key, "w.sealed")


def refusal(data, key=KEY):
    """The one sentence that a file is refused with."""
    with pytest.raises(EncryptionError) as caught:
        read(data, key)
    message = str(caught.value)
    assert message.startswith("w.sealed: ")
    assert "\n" not in message
    assert "horse" not in message
    return message.removeprefix("w.sealed: ")


@settings(derandomize=True, deadline=None)
@given(st.data())
def test_what_was_written_is_read_whatever_its_length_and_pieces(data):
    chunk_bytes = data.draw(st.integers(1, 20))
    n_chunks = data.draw(st.integers(0, 4))
    n_bytes = max(0, n_chunks * chunk_bytes + data.draw(st.integers(-1, 1)))
    content = data.draw(st.binary(min_size=n_bytes, max_size=n_bytes))
    cuts = sorted(data.draw(st.lists(st.integers(0, n_bytes), max_size=4)))
    pieces = [content[a:b] for a, b in zip([0, *cuts], [*cuts, n_bytes], strict=True)]
    file = stored(*pieces, chunk_bytes=chunk_bytes)
    assert read(file) == content
    n_stored = max(1, -(-n_bytes // chunk_bytes))
    assert len(file) == HEADER_BYTES + n_bytes + n_stored * 20


def test_the_real_cost_of_a_key_is_read_from_the_file(monkeypatch):
    monkeypatch.setattr(sealed, "SCRYPT_LOG2_N", 17)
    file = stored(CONTENT)
    monkeypatch.setattr(sealed, "SCRYPT_LOG2_N", 2)
    assert read(file) == CONTENT


def test_without_a_key_nothing_is_encrypted_and_a_memoryview_is_content_too():
    assert stored(CONTENT, key=None) == CONTENT
    assert read(stored(memoryview(CONTENT))) == CONTENT


def test_a_file_shows_nothing_of_its_content_and_no_two_are_alike():
    one, other = stored(CONTENT), stored(CONTENT)
    assert is_sealed(one[:8])
    assert not is_sealed(CONTENT)
    assert all(CONTENT[at : at + 5] not in one for at in range(len(CONTENT) - 5))
    assert one[:32] == other[:32]  # magic, version, costs, chunk size and the process's salt
    assert sum(a == b for a, b in zip(one[32:], other[32:], strict=True)) < 40


def test_every_single_altered_byte_is_noticed():
    file = stored(CONTENT)
    for at in range(len(file)):
        refusal(with_altered(file, at))


def test_every_length_that_a_file_is_cut_to_is_noticed():
    file = stored(CONTENT)
    for length in range(len(MAGIC), len(file)):
        assert refusal(file[:length]).startswith("is cut off ")


def parts(file):
    """The header and the four chunks."""
    starts = [HEADER_BYTES + number * STORED_CHUNK_BYTES for number in range(4)]
    return [file[:HEADER_BYTES], *(file[start : start + STORED_CHUNK_BYTES] for start in starts)]


def with_altered(data, at):
    altered = bytearray(data)
    altered[at] ^= 1
    return bytes(altered)


def as_last(chunk):
    return struct.pack("<I", CHUNK_BYTES | 1 << 31) + chunk[4:]


FAR_TOO_LARGE = struct.pack("<I", (1 << 31) - 1)
SALT_AT = 16

DAMAGES = {
    "nothing at all": (lambda head, a, b, c, last: b"", "is no file that spanqa encrypted"),
    "another file": (lambda head, a, b, c, last: CONTENT, "is no file that spanqa encrypted"),
    "half a header": (lambda head, a, b, c, last: head[:50], "is cut off within its header"),
    "a byte of the salt": (
        lambda head, a, b, c, last: with_altered(head, SALT_AT) + a + b + c + last,
        "the header of the encrypted file is damaged",
    ),
    "a byte of a chunk": (
        lambda head, a, b, c, last: head + a + with_altered(b, 7) + c + last,
        "was altered behind 10 ",
    ),
    "a byte of a tag": (
        lambda head, a, b, c, last: head + a + b + c + with_altered(last, -1),
        "was altered behind 30 ",
    ),
    "two chunks swapped": (lambda head, a, b, c, last: head + b + a + c + last, "was altered behind 0 "),
    "a chunk left out": (lambda head, a, b, c, last: head + a + c + last, "was altered behind 10 "),
    "a chunk twice": (lambda head, a, b, c, last: head + a + a + b + c + last, "was altered behind 10 "),
    "an end moved forward": (lambda head, a, b, c, last: head + a + b + as_last(c), "was altered behind 20 "),
    "a chunk of another file": (
        lambda head, a, b, c, last: head + parts(stored(CONTENT))[1] + b + c + last,
        "was altered behind 0 ",
    ),
    "a chunk that claims to be huge": (
        lambda head, a, b, c, last: head + FAR_TOO_LARGE + a[4:] + b + c + last,
        "was altered behind 0 ",
    ),
    "cut off at a chunk": (lambda head, a, b, c, last: head + a + b + c, "is cut off after 30 "),
    "cut off in a chunk": (lambda head, a, b, c, last: head + a + b[:9], "is cut off after 10 "),
    "nothing but a header": (lambda head, a, b, c, last: head, "is cut off after 0 "),
    "something appended": (lambda *whole: b"".join(whole) + b"\0", "something was appended"),
    "itself appended": (lambda *whole: b"".join(whole) * 2, "something was appended"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_each_kind_of_damage_has_its_own_sentence(name):
    damaged, message = DAMAGES[name]
    found = refusal(damaged(*parts(stored(CONTENT))))
    assert found.startswith(message)
    assert found.endswith("restore it from a copy")


def test_a_wrong_key_is_told_from_damage():
    assert refusal(stored(CONTENT), OTHER_KEY) == "was encrypted with another key: give that one with -k"


def test_no_key_asks_for_one():
    assert refusal(stored(CONTENT), None) == "is encrypted: give its key with -k"


def forged(**fields):
    """A header with a right checksum and no right MAC, as anybody could make it."""
    values = {"version": 1, "log2_n": 2, "r": 8, "p": 1, "chunk_bytes": 10, **fields}
    packed = struct.pack("<8sBBBBI16s16s", MAGIC, *values.values(), bytes(16), bytes(16)) + bytes(32)
    return packed + hashlib.sha256(packed).digest()


@pytest.mark.parametrize(
    "fields",
    [
        {"log2_n": 255},
        {"log2_n": 20, "r": 8},
        {"log2_n": 17, "r": 255},
        {"log2_n": 17, "p": 255},
        {"log2_n": 0},
        {"r": 0},
        {"r": 1},
        {"p": 0},
        {"chunk_bytes": 0},
        {"chunk_bytes": (1 << 32) - 1},
    ],
)
def test_a_hostile_header_is_refused_before_it_costs_anything(fields, monkeypatch):
    monkeypatch.setattr(sealed, "Scrypt", None)
    assert refusal(forged(**fields)).startswith("has settings in its header that spanqa never writes")


def test_a_forged_header_does_not_pass_for_the_key():
    assert refusal(forged()).startswith("was encrypted with another key")


def test_a_later_version_is_named():
    assert (
        refusal(forged(version=2)) == "is encrypted as of version 2 and this spanqa reads 1: use the one that wrote it"
    )


def test_the_costly_derivation_is_done_once_for_all_files_of_a_process(monkeypatch):
    key, salts, real = Key(secret=b"used here alone, not by a horse"), [], sealed.Scrypt
    monkeypatch.setattr(sealed, "Scrypt", lambda **given: salts.append(given["salt"]) or real(**given))
    files = [stored(CONTENT, key=key) for _ in range(3)]
    assert all(read(file, key) == CONTENT for file in files)
    assert len(salts) == 1


def test_reading_takes_no_more_than_twice_the_size():
    content = os.urandom(1 << 20) * 24
    file = io.BytesIO(stored(content, chunk_bytes=sealed.CHUNK_BYTES))
    tracemalloc.start()
    try:
        assert len(read_sealed(file, KEY, "w.sealed")) == len(content)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2.5 * len(content)


class FullDisk(io.BytesIO):
    def write(self, data):
        if self.tell() > 150:
            raise OSError(28, "No space left on device")
        return super().write(data)


def test_a_full_disk_is_passed_on_and_what_was_written_reads_as_cut_off():
    file = FullDisk()
    with pytest.raises(OSError, match="No space left"), sealing(file, KEY, chunk_bytes=CHUNK_BYTES) as content:
        content.write(CONTENT)
    assert refusal(file.getvalue()).startswith("is cut off after 20 bytes")


def test_an_interrupted_file_reads_as_cut_off_and_not_as_short():
    file = io.BytesIO()
    with suppress(KeyboardInterrupt), sealing(file, KEY, chunk_bytes=CHUNK_BYTES) as content:
        content.write(CONTENT[:20])
        raise KeyboardInterrupt
    assert refusal(file.getvalue()).startswith("is cut off after 10 bytes")
