"""Answers of a repository's network are those of the core's decoder on the same logits, and its server's sentences."""

from dataclasses import replace

import numpy as np
import pytest

from spanqa import contract
from spanqa.cpu_network import load_network
from spanqa.errors import SpanqaError
from spanqa.limits import Limits
from spanqa.manifest import Engine, load_served_tokenizer
from spanqa.packing import Bucket, Packing
from spanqa.spans import decode
from spanqa.windows import WindowMaker, batch_windows
from spanqa_client.batch.network import NetworkAsker, plan_network
from spanqa_client.batch.rows import Row
from spanqa_client.options import Options

TEXTS = [
    ("Where is the tower?", "The old tower stands near the river. The bridge was built by two people."),
    ("Who live there?", "İstanbul: the old king 😀 live there, and three people on the north station. " * 9),
    ("Which of the many red towers near the old station of the north is built in the year?", "Red. " * 40),
    ("Who?", "中文 tower"),
]


def rows():
    return [Row(number, f"q{number}", *texts) for number, texts in enumerate(TEXTS)]


def expected(repository, options):
    """The road of a question through the core, window by window."""
    manifest, tokenizer = load_served_tokenizer(repository / contract.QUESTION_ANSWERING / "1")
    network = load_network(repository / contract.ENCODER / "1" / "network.onnx", n_threads=1)
    maker = WindowMaker(tokenizer, manifest.windows)
    for question, context in TEXTS:
        windows = maker.windows(question, context)
        shape = (len(windows), int(windows.seq_lengths.max()))
        start_logits, end_logits = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        for index, length in enumerate(windows.seq_lengths):
            start, end = network.run(batch_windows([(windows, index)]))
            start_logits[index, :length], end_logits[index, :length] = start[0], end[0]
        yield (
            windows,
            decode(
                windows,
                context,
                start_logits,
                end_logits,
                n_best=options.top_n,
                max_answer_tokens=options.max_answer_tokens or manifest.decode.max_answer_tokens,
                word_boundaries=manifest.decode.word_boundaries,
                distinct=options.distinct,
            ),
        )


@pytest.mark.parametrize(
    "options",
    [
        Options(),
        Options(top_n=5, distinct=True),
        Options(top_n=64, no_answer_threshold=0.1, max_answer_tokens=3),
        Options(no_answer_threshold=-100.0),
    ],
    ids=str,
)
def test_answers_are_those_of_the_decoder(repository, options):
    asker = NetworkAsker(plan_network(repository, options, n_threads=1))
    threshold = np.float32(-2.0 if options.no_answer_threshold is None else options.no_answer_threshold)
    n_windows = 0
    for settled, (windows, right) in zip(asker.ask(rows()), expected(repository, options), strict=True):
        margin = np.float32(right.no_answer_margin)
        answer = settled.answer
        assert [(span["text"], span["char_start"], span["char_end"]) for span in answer["spans"]] == [
            (span.text, span.char_start, span.char_end) for span in right.spans
        ]
        assert [span["logit"] for span in answer["spans"]] == [np.float32(span.logit) for span in right.spans]
        assert [span["score"] for span in answer["spans"]] == [np.float32(span.score) for span in right.spans]
        assert answer["no_answer_margin"] == margin
        assert answer["has_answer"] == (margin <= threshold)
        assert answer["text"] == (right.spans[0].text if answer["has_answer"] else "")
        assert answer["question_truncated"] == windows.question_truncated
        assert answer["model_version"] == "1"
        n_windows += len(windows)
    assert n_windows > 2 * len(TEXTS)


def test_what_the_server_refuses_fails_with_its_sentence_and_the_others_are_answered(repository):
    plan = plan_network(repository, Options(), n_threads=1)
    assert plan.limits == replace(Limits(), max_context_bytes=2000)  # as config.pbtxt says
    bad = [
        Row(7, "long", "Who?", "x" * 2001),
        Row(8, "blank", "Who?", " \n"),
        Row(9, "unseen", "Who?", "\u200b"),
    ]
    settled = list(NetworkAsker(plan).ask([*rows()[:2], *bad, *rows()[2:]]))
    assert [one.id for one in settled if one.answer] == ["q0", "q1", "q2", "q3"]
    long, blank, unseen = (one.reason for one in settled if one.reason)
    assert long.startswith("CONTEXT has 2,001 bytes, at most 2,000 are allowed")
    assert blank == "the context is blank: give a text with at least one word"
    assert unseen.startswith("the context holds no word")


def test_too_many_windows_are_the_row_s_own_fault(repository):
    plan = replace(plan_network(repository, Options(), n_threads=1), limits=Limits(max_windows=2))
    settled = list(NetworkAsker(plan).ask(rows()))
    assert "windows, at most 2 are allowed" in settled[1].reason
    assert settled[3].answer


def test_a_fault_of_the_network_is_the_row_s_own(repository, monkeypatch):
    asker = NetworkAsker(plan_network(repository, Options(), n_threads=1))
    run = asker._network.run

    def fail_on_ideographs(batch):
        if batch.input_ids.shape[1] < 10:
            raise RuntimeError("out of luck")
        return run(batch)

    monkeypatch.setattr(asker._network, "run", fail_on_ideographs)
    settled = list(asker.ask(rows()))
    assert [bool(one.answer) for one in settled] == [True, True, True, False]
    assert settled[3].reason == "an unexpected error: RuntimeError('out of luck')"


@pytest.mark.parametrize(
    "settings",
    [
        {"engine": Engine(platform="tensorrt_plan"), "target": "v100"},
        {"packing": Packing(buckets=(Bucket(length=32, model="encoder_32", max_rows=2),)), "target": "t4"},
    ],
)
def test_networks_for_gpus_are_for_servers(write_repository, tmp_path, settings):
    folder = write_repository(tmp_path / "gpu", **settings)
    with pytest.raises(SpanqaError, match=f"made for {settings['target']}.*ask that server with --url"):
        plan_network(folder, Options(), n_threads=1)


def test_no_repository_and_a_damaged_one_are_refused(write_repository, tmp_path):
    with pytest.raises(SpanqaError, match="no model repository: name the folder"):
        plan_network(tmp_path, Options(), n_threads=1)
    folder = write_repository(tmp_path / "repository")
    network = folder / "encoder" / "1" / "network.onnx"
    network.write_bytes(network.read_bytes()[:-1])
    with pytest.raises(SpanqaError, match=r"has .* bytes, the build wrote"):
        plan_network(folder, Options(), n_threads=1)


def test_another_network_has_another_fingerprint(write_repository, repository, tmp_path):
    other = write_repository(tmp_path / "other", seed=2)
    one, two = (plan_network(folder, Options(), n_threads=1).fingerprint() for folder in (repository, other))
    assert one != two
    assert one["versions"] == two["versions"] == ["1"]
