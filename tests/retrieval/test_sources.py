"""Files are found in one order, under names that last; nothing outside of a folder is, and what is left out is told."""

import os
import sys
from pathlib import Path

import pytest

from spanqa_retrieval import sources
from spanqa_retrieval.errors import SourceError
from spanqa_retrieval.sources import find_sources, fingerprint, printable


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "docs"
    (made / "guide").mkdir(parents=True)
    (made / "guide" / "intro.md").write_text("# Intro")
    (made / "b.txt").write_text("b")
    return made


@pytest.fixture
def outside(tmp_path):
    made = tmp_path / "outside"
    made.mkdir()
    (made / "secret.txt").write_text("secret")
    return made


def found(*named):
    told = []
    return [source.name for source in find_sources(named, told.append)], told


def test_names_begin_with_the_folder_that_was_named(folder, monkeypatch):
    expected = ["docs/b.txt", "docs/guide/intro.md"]
    assert found(folder) == (expected, [])
    monkeypatch.chdir(folder)
    assert found(Path(".")) == (expected, [])
    monkeypatch.chdir(folder / "guide")
    assert found(Path("..")) == (expected, [])


def test_files_come_in_the_order_of_their_names_whatever_was_named_first(folder):
    assert (
        found(folder, folder / "b.txt")
        == found(folder / "b.txt", folder)
        == (["docs/b.txt", "docs/guide/intro.md"], [])
    )
    assert found(folder / "guide", folder)[0] == ["docs/b.txt", "docs/guide/intro.md"]
    assert found(folder / "b.txt", folder / "guide")[0] == ["b.txt", "guide/intro.md"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.txt", "text"),
        ("A.TXT", "text"),
        ("a.md", "markdown"),
        ("a.markdown", "markdown"),
        ("a.html", "html"),
        ("a.htm", "html"),
        ("a.pdf", "pdf"),
        ("a.jsonl", "json lines"),
        ("a.jsonl.gz", "json lines"),
        ("a.parquet", "parquet"),
        ("a.parquet.gz", "parquet"),
        ("a.json", "json"),
        ("a.b.json.GZ", "json"),
    ],
)
def test_a_file_is_read_as_its_suffix_says(tmp_path, name, kind):
    (tmp_path / name).touch()
    (source,) = find_sources([tmp_path], pytest.fail)
    assert (source.kind, source.path) == (kind, tmp_path / name)


def test_other_files_are_counted_by_their_type(folder):
    for name in ("a.png", "c.png", "guide/b.png", "x.txt.gz", "README", "a\nb.x\x1b"):
        (folder / name).touch()
    names, told = found(folder)
    assert names == ["docs/b.txt", "docs/guide/intro.md"]
    assert sorted(told) == [
        "docs/README: files without a suffix are not read",
        "docs/a.png and 2 more: files of type .png are not read",
        r"docs/a\nb.x\x1b: files of type .x\x1b are not read",
        "docs/x.txt.gz: files of type .txt.gz are not read",
    ]


def test_hidden_files_and_folders_are_passed_over(folder):
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "a.txt").touch()
    (folder / ".a.txt").touch()
    assert found(folder) == (["docs/b.txt", "docs/guide/intro.md"], [])
    assert found(folder / ".hidden") == ([".hidden/a.txt"], [])


def test_an_index_among_the_documents_is_no_document(folder):
    (folder / "index").mkdir()
    (folder / "index" / "spanqa.json").write_text("{}")
    names, told = found(folder)
    assert names == ["docs/b.txt", "docs/guide/intro.md"]
    assert told == [f"{folder}/index: an index, not documents"]


def test_links_out_of_the_folder_are_not_followed(folder, outside):
    (folder / "link.txt").symlink_to(outside / "secret.txt")
    (folder / "linked").symlink_to(outside)
    (folder / "up").symlink_to("..")
    (folder / "gone.txt").symlink_to("nowhere.txt")
    (folder / "round.txt").symlink_to("round.txt")
    (folder / "twice").symlink_to("linked/secret.txt")
    names, told = found(folder)
    assert names == ["docs/b.txt", "docs/guide/intro.md"]
    assert told == [
        f"{folder}/gone.txt: a link that leads nowhere",
        f"{folder}/link.txt: a link out of {folder}, which is not followed",
        f"{folder}/linked: a link out of {folder}, which is not followed",
        f"{folder}/round.txt: a link that leads nowhere",
        f"{folder}/twice: a link out of {folder}, which is not followed",
        f"{folder}/up: a link out of {folder}, which is not followed",
    ]


def test_a_folder_whose_name_begins_alike_is_outside(folder, tmp_path):
    (tmp_path / "docs2").mkdir()
    (tmp_path / "docs2" / "a.txt").touch()
    (folder / "a.txt").symlink_to(tmp_path / "docs2" / "a.txt")
    assert found(folder)[0] == ["docs/b.txt", "docs/guide/intro.md"]


def test_links_inside_are_followed_and_each_file_is_taken_once(folder):
    (folder / ".store").mkdir()
    (folder / ".store" / "a1b2").write_text("stored")
    (folder / ".store" / "kept.txt").write_text("kept")
    (folder / "linked.txt").symlink_to(".store/a1b2")
    (folder / "other.txt").symlink_to(".store/a1b2")
    (folder / "same.txt").symlink_to("b.txt")
    (folder / "store").symlink_to(".store")
    (folder / "round").symlink_to(".")
    (folder / "guide" / "round").symlink_to("..")
    names, told = found(folder)
    assert names == ["docs/b.txt", "docs/guide/intro.md", "docs/linked.txt", "docs/store/kept.txt"]
    assert told == ["docs/store/a1b2: files without a suffix are not read"]
    paths = {source.name: source.path for source in find_sources([folder], told.append)}
    assert paths["docs/linked.txt"] == folder.resolve() / ".store" / "a1b2"


def test_a_link_that_is_named_is_followed(folder, tmp_path):
    (tmp_path / "latest").symlink_to(folder)
    (tmp_path / "one.txt").symlink_to(folder / "b.txt")
    assert found(tmp_path / "latest") == (["latest/b.txt", "latest/guide/intro.md"], [])
    assert found(tmp_path / "one.txt") == (["one.txt"], [])


def test_what_is_no_regular_file_is_told(folder):
    os.mkfifo(folder / "pipe.txt")
    names, told = found(folder)
    assert (names, told) == (["docs/b.txt", "docs/guide/intro.md"], [f"{folder}/pipe.txt: no regular file"])
    (folder / "link.txt").symlink_to("pipe.txt")
    assert found(folder)[1] == [f"{folder}/pipe.txt: no regular file"] * 2


def test_a_folder_that_cannot_be_read_is_told(folder, monkeypatch):
    def scandir(path):
        if path == folder / "guide":
            raise PermissionError(13, "Permission denied")
        return real(path)

    real = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)  # root may read everything
    assert found(folder) == (["docs/b.txt"], [f"{folder}/guide: the folder cannot be read: Permission denied"])


def test_a_name_that_is_not_utf_8_is_told(folder):
    (folder / os.fsdecode(b"\xff.txt")).touch()
    names, told = found(folder)
    assert (names, told) == (
        ["docs/b.txt", "docs/guide/intro.md"],
        [rf"{folder}/\udcff.txt: its name is not UTF-8: rename it"],
    )


def test_deep_folders_are_walked(tmp_path):
    deep = tmp_path / "deep"
    deep.mkdir()
    descriptor = os.open(deep, os.O_RDONLY)
    for _ in range(400):
        os.mkdir("d", dir_fd=descriptor)
        inner = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(os.open("a.txt", os.O_CREAT, dir_fd=descriptor))
    os.close(descriptor)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(300)
    try:
        assert [name.count("/") for name in found(deep)[0]] == [401]
    finally:
        sys.setrecursionlimit(limit)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "nothing: no such file or folder: name what is to be indexed"),
        ("pipe.txt", "pipe.txt: neither a file nor a folder: name one of these"),
        ("a.png", "a.png: files of type .png are not read: give .txt, .md, "),
        ("README", "README: files without a suffix are not read: give "),
        ("a\nb", r"a\nb: no such file or folder"),
    ],
)
def test_a_file_that_is_named_must_be_there_and_be_read(tmp_path, name, message):
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "a.png").touch()
    (tmp_path / "README").touch()
    with pytest.raises(SourceError) as caught:
        find_sources([tmp_path / name], pytest.fail)
    assert str(caught.value).startswith(f"{tmp_path}/{message}")
    assert "\n" not in str(caught.value)


def test_two_files_of_one_name_are_refused(folder, tmp_path):
    other = tmp_path / "other" / "docs"
    other.mkdir(parents=True)
    (other / "b.txt").write_text("another")
    with pytest.raises(
        SourceError, match=r"its name in the index, docs/b.txt, is also that of .*: rename one, or name a"
    ):
        find_sources([folder, other], pytest.fail)
    assert len(found(tmp_path)[0]) == 3


def test_a_fingerprint_is_of_the_content_and_of_the_reader(tmp_path, monkeypatch):
    path, other = tmp_path / "a.txt", tmp_path / "b.txt"
    path.write_text("a")
    other.write_text("a")
    first = fingerprint(path, "text")
    assert first == fingerprint(other, "text") != fingerprint(path, "markdown")
    other.write_text("b")
    assert fingerprint(other, "text") != first
    monkeypatch.setattr(sources, "READER_VERSIONS", {"text": 2})
    assert fingerprint(path, "text") != first
    with pytest.raises(SourceError, match=r"gone.txt: cannot be read: No such file or directory$"):
        fingerprint(tmp_path / "gone.txt", "text")


def test_a_fingerprint_is_made_of_any_file_in_little_memory(tmp_path):
    path = tmp_path / "a.txt"
    with path.open("wb") as file:
        file.truncate(100_000_000)
    assert len(fingerprint(path, "text")) == 64


def test_what_is_not_printable_is_escaped():
    assert printable("a b\tc\nd\x1be\ud800é") == r"a b\tc\nd\x1be\ud800é"
