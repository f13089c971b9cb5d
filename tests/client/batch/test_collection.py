"""Questions against an index: an index of two passages, and a fake server that reads them."""

import pytest
from pyarrow import parquet

from spanqa_client.batch.parts import FOUND_ANSWERS
from spanqa_retrieval import collection
from spanqa_retrieval.document import Passage
from spanqa_retrieval.engine import Hit, SourceRecord


class Index:
    """Finds the passages that have the question's last word."""

    def __init__(self):
        texts = ["The tower is in Rome. It is old.", "The bridge is in Bern."]
        self.passages = [
            Passage(document=f"d{number}", title="T", text=text, char_start=100 * number)
            for number, text in enumerate(texts)
        ]
        self.fingerprint = "one"

    def search(self, query, *, top_k, filters=None):
        word = query.split()[-1].rstrip("?")
        return [Hit(passage=one, score=2.0) for one in self.passages if word in one.text][:top_k]

    def sources(self):
        record = SourceRecord(name="d", fingerprint=self.fingerprint, n_documents=2, n_passages=2, n_chars=50)
        return {"d": record}


@pytest.fixture
def index(monkeypatch):
    index = Index()
    monkeypatch.setattr(collection, "open_index", lambda _: index)
    return index


def test_questions_are_answered_from_an_index(index, triton, batch, write_lines, folder):
    questions = ["What of Rome?", "What of Bern?", "What of Paris?"]
    path = write_lines({"id": number, "question": question} for number, question in enumerate(questions))
    arguments = [path, "-o", folder.path, "--url", triton.url, "--index", "any", "--top-k", 3, "--json"]
    status, summary, err = batch(*arguments)
    assert (status, err) == (0, "")
    assert (summary["read"], summary["answered"], summary["without_answer"]) == (3, 3, 1)
    assert parquet.ParquetFile(folder.parts[0]).schema_arrow == FOUND_ANSWERS
    rome, bern, none = folder.answers()
    assert (rome["id"], rome["text"], rome["document"], rome["char_start"]) == ("0", "Rome", "d0", 16)
    assert rome["sentence"] == "The tower is in Rome."
    assert (bern["document"], bern["char_start"], bern["has_answer"]) == ("d1", 117, True)
    assert bern["answers"][0]["retrieval_score"] == 2.0
    assert (none["text"], none["has_answer"], none["document"], none["passages_read"]) == ("", False, None, 0)
    index.fingerprint = "another"
    status, _, err = batch(*arguments, "--resume")
    assert status == 2
    assert "begun with another model (index" in err


def test_how_it_is_asked_is_checked_and_kept(index, triton, batch, write_lines, folder):
    path = write_lines([{"id": "a", "question": "What of Rome?"}])
    asked = [path, "-o", folder.path, "--url", triton.url, "--index", "any"]
    for more, said in ((["--top-k", 99], "top_k is 99"), (["--where", "lang"], "--where is 'lang'")):
        status, _, err = batch(*asked, *more)
        assert status == 2
        assert said in err
    assert batch(*asked, "--top-k", 2)[0] == 0
    status, _, err = batch(*asked, "--top-k", 3, "--resume")
    assert status == 2
    assert "begun with --top-k 2, not 3" in err
