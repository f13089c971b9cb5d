import math
import struct
import threading
import time

import grpc
import pytest

from spanqa.errors import InputError
from spanqa_client.answer import Answer, Span
from spanqa_client.client import QAClient
from spanqa_client.errors import (
    BadRequest,
    ClientError,
    ProtocolError,
    ServerFault,
    ServerUnavailable,
    Timeout,
)

QUESTION = "Where is Zürich?"
CONTEXT = "😀 The lake of Zürich. Zürich lies in Switzerland."


@pytest.fixture
def client(triton):
    with QAClient(triton.url) as client:
        yield client


def test_an_answer_carries_text_offsets_score_and_margin(client):
    answer = client.ask(QUESTION, CONTEXT)
    assert answer.has_answer
    assert (answer.text, answer.char_start, answer.char_end) == ("Zürich", 14, 20)
    assert CONTEXT[answer.char_start : answer.char_end] == answer.text
    assert (answer.score, answer.logit, answer.no_answer_margin) == (0.5, 8.0, -2.0)
    assert not answer.question_truncated
    assert answer.alternatives == ()
    assert answer.latency_ms > 0


def test_top_n_gives_alternatives_after_the_best_span(client):
    answer = client.ask(QUESTION, CONTEXT, top_n=5)
    assert answer.best_span == Span(text="Zürich", score=0.5, char_start=14, char_end=20, logit=8.0)
    assert [span.char_start for span in answer.alternatives] == [22]


def test_no_answer_has_an_empty_text_and_keeps_the_best_span(client):
    answer = client.ask("Where is Bern?", CONTEXT)
    assert not answer.has_answer
    assert (answer.text, answer.score, answer.char_start, answer.char_end) == ("", 0.0, -1, -1)
    assert answer.logit == -math.inf
    assert answer.best_span.text == "😀"
    assert answer.to_dict()["logit"] is None
    assert answer.to_dict(CONTEXT)["sentence"] == ""


def test_an_answer_widens_to_its_sentence(client):
    context = f"Nobody knew. {CONTEXT} It rained."
    answer = client.ask(QUESTION, context)
    start, end = answer.sentence_in(context)
    assert context[start:end] in CONTEXT
    assert start <= answer.char_start < answer.char_end <= end
    assert answer.to_dict(context)["sentence"] == context[start:end]


def test_rows_of_one_request_are_limited(client, triton):
    with pytest.raises(InputError, match="33 rows: give at most 32 in one request"):
        client.ask_rows([(QUESTION, CONTEXT)] * 33)
    with pytest.raises(InputError, match="the context is empty"):
        client.ask_rows([(QUESTION, CONTEXT), (QUESTION, "")])
    assert client.ask_rows([]) == []
    assert triton.requests == []
    assert client.ask_rows([(QUESTION, CONTEXT)]) == [client.ask(QUESTION, CONTEXT)]


def test_every_request_carries_the_same_inputs_and_leaves_to_the_model_what_was_not_asked_for(triton, client):
    client.ask(QUESTION, CONTEXT)
    client.ask(QUESTION, CONTEXT, top_n=3, no_answer_threshold=3.0, max_answer_tokens=7, distinct=True)
    client.ask(QUESTION, CONTEXT)
    names = {"QUESTION", "CONTEXT", "TOP_N", "NO_ANSWER_THRESHOLD", "MAX_ANSWER_TOKENS", "DISTINCT"}
    assert [set(inputs) for inputs in triton.requests] == [names] * 3
    codes = {"TOP_N": "<i", "MAX_ANSWER_TOKENS": "<i", "DISTINCT": "<?"}
    sent = [[struct.unpack(code, inputs[name])[0] for name, code in codes.items()] for inputs in triton.requests]
    assert sent == [[1, 0, False], [3, 7, True], [1, 0, False]]
    thresholds = [struct.unpack("<f", inputs["NO_ANSWER_THRESHOLD"])[0] for inputs in triton.requests]
    assert [math.isnan(threshold) for threshold in thresholds] == [True, False, True]
    assert thresholds[1] == 3.0


def test_after_a_change_of_version_the_new_ones_threshold_decides_from_the_first_answer(triton, client):
    before = client.ask(QUESTION, CONTEXT)
    triton.version, triton.threshold = "2", -3.0
    after = client.ask(QUESTION, CONTEXT)
    assert (before.model_version, before.has_answer) == ("1", True)
    assert (after.model_version, after.has_answer) == ("2", False)
    assert after.to_dict()["model_version"] == "2"
    assert triton.requests[0] == triton.requests[1]


@pytest.mark.parametrize(
    "refusal",
    [
        "[request id: <id_unknown>] unexpected inference input 'DISTINCT' for model 'question_answering'",
        "NO_ANSWER_THRESHOLD is not a number: leave it out for the model's own, or send a number",
        "MAX_ANSWER_TOKENS must be at least 1, got 0",
    ],
)
def test_a_model_of_an_older_spanqa_is_told_in_one_sentence(triton, client, refusal):
    triton.script.append((grpc.StatusCode.INVALID_ARGUMENT, refusal))
    with pytest.raises(
        ProtocolError, match=r"built by an older spanqa.*: build the repository again, or use"
    ) as caught:
        client.ask(QUESTION, CONTEXT)
    assert triton.url in str(caught.value)
    assert isinstance(caught.value.__cause__, grpc.RpcError)


def test_a_check_tells_whether_the_server_has_the_model(triton, client):
    client.check()
    with QAClient(triton.url, model_name="other") as other, pytest.raises(ServerUnavailable, match="'other'"):
        other.check()


def test_the_threshold_decides_whether_there_is_an_answer(client):
    assert client.ask("Where is Bern?", CONTEXT, no_answer_threshold=2.0).has_answer
    assert not client.ask(QUESTION, CONTEXT, no_answer_threshold=-2.5).has_answer
    assert client.ask("Where is Bern?", CONTEXT, no_answer_threshold=1e300).has_answer
    assert not client.ask(QUESTION, CONTEXT, no_answer_threshold=-math.inf).has_answer


@pytest.mark.parametrize(
    ("question", "context", "message"),
    [
        ("", CONTEXT, "the question is empty"),
        (" \n", CONTEXT, "the question is blank"),
        (QUESTION, "", "the context is empty"),
        (b"bytes", CONTEXT, "the question is of type bytes: give a str: decode it first"),
        (QUESTION, None, "the context is of type NoneType"),
        ("a\ud800b", CONTEXT, "half of a surrogate pair .* at character 1"),
    ],
)
def test_texts_that_cannot_be_sent_are_refused_before_sending(triton, client, question, context, message):
    with pytest.raises(InputError, match=message):
        client.ask(question, context)
    assert triton.requests == []


@pytest.mark.parametrize(
    "option",
    [
        {"top_n": 0},
        {"top_n": 65},
        {"top_n": True},
        {"top_n": 1.0},
        {"max_answer_tokens": 0},
        {"distinct": 1},
        {"max_answer_tokens": 2**31},
        {"no_answer_threshold": math.nan},
        {"no_answer_threshold": "1"},
        {"timeout_s": 0},
        {"timeout_s": math.inf},
    ],
)
def test_options_out_of_range_are_refused_by_name(triton, client, option):
    with pytest.raises(InputError, match=next(iter(option))):
        client.ask(QUESTION, CONTEXT, **option)
    with pytest.raises(InputError, match=next(iter(option))):
        client.ask_many([], **option)
    assert triton.requests == []


@pytest.mark.parametrize("url", ["localhost", "http://localhost:8000", ":8001", "host:port"])
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(InputError, match="give host:port"):
        QAClient(url)


def test_nul_and_a_context_beyond_grpcs_default_limit_are_sent_as_they_are(client):
    context = "x\0" * 3_000_000 + " Zürich"
    answer = client.ask(QUESTION, context)
    assert answer.text == "Zürich"
    assert answer.char_end == len(context)


@pytest.mark.parametrize(
    ("code", "details"),
    [
        (grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size"),
        (grpc.StatusCode.INTERNAL, "Stub process 'question_answering_0_0' is not healthy."),
        (grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2"),
        (grpc.StatusCode.INTERNAL, "Failed to increase the shared memory pool size for key 'spanqa_1_0_x' to 1048576"),
        (grpc.StatusCode.INTERNAL, "Model encoder - Error when running inference: Server not ready (fault 1)"),
        (grpc.StatusCode.UNKNOWN, "Stream removed"),
        (grpc.StatusCode.CANCELLED, "CANCELLED"),
    ],
)
def test_what_passes_by_itself_is_retried(triton, client, code, details):
    triton.script.extend([(code, details)] * 3)
    assert client.ask(QUESTION, CONTEXT).text == "Zürich"
    assert len(triton.requests) == 4


def test_a_model_that_had_answered_is_waited_for_while_it_loads_again(triton, client):
    client.ask(QUESTION, CONTEXT)
    triton.script.append((grpc.StatusCode.NOT_FOUND, "model has no available versions"))
    assert client.ask(QUESTION, CONTEXT).has_answer


def test_a_model_that_never_answered_is_not_waited_for(triton):
    with QAClient(triton.url, model_name="other") as client, pytest.raises(ServerUnavailable, match="'other'"):
        client.ask(QUESTION, CONTEXT)
    assert len(triton.requests) == 1


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, BadRequest),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, BadRequest),
        (grpc.StatusCode.INTERNAL, ServerFault),
        (grpc.StatusCode.UNKNOWN, ServerFault),
        (grpc.StatusCode.UNIMPLEMENTED, ProtocolError),
    ],
)
def test_other_failures_become_our_errors_at_once(triton, client, code, kind):
    triton.script.append((code, "the context is empty"))
    with pytest.raises(kind, match="the context is empty") as caught:
        client.ask(QUESTION, CONTEXT)
    assert isinstance(caught.value, ClientError)
    assert isinstance(caught.value.__cause__, grpc.RpcError)
    assert len(triton.requests) == 1
    assert client.ask(QUESTION, CONTEXT).has_answer


def test_retries_end_with_the_time_allowed(triton, client):
    triton.script.extend([(grpc.StatusCode.UNAVAILABLE, "no room in the queue")] * 1000)
    started = time.monotonic()
    with pytest.raises(ServerUnavailable, match="no room in the queue"):
        client.ask(QUESTION, CONTEXT, timeout_s=0.5)
    assert time.monotonic() - started < 5
    assert len(triton.requests) > 1


def test_a_slow_server_is_a_timeout(triton, client):
    triton.delay_s = 0.5
    with pytest.raises(Timeout, match=r"within 0\.1 s"):
        client.ask(QUESTION, CONTEXT, timeout_s=0.1)


def test_no_server_is_one_sentence_after_the_connect_timeout(triton):
    triton.stop()
    started = time.monotonic()
    with (
        QAClient(triton.url, connect_timeout_s=0.3) as client,
        pytest.raises(ServerUnavailable, match=r"no server answers at .*spanqa serve"),
    ):
        client.ask(QUESTION, CONTEXT)
    assert time.monotonic() - started < 4


def test_a_server_that_restarts_is_found_again(triton, client):
    client.ask(QUESTION, CONTEXT)
    triton.stop()
    timer = threading.Timer(0.5, triton.start)
    timer.start()
    assert client.ask(QUESTION, CONTEXT).has_answer
    timer.join()


def test_a_connection_lost_in_mid_question_does_not_lose_the_question(triton, client):
    client.ask(QUESTION, CONTEXT)
    triton.delay_s = 0.4

    def restart():
        triton.stop()
        triton.delay_s = 0
        triton.start()

    timer = threading.Timer(0.15, restart)
    timer.start()
    assert client.ask(QUESTION, CONTEXT).has_answer
    timer.join()


def test_a_closed_client_says_so(triton):
    client = QAClient(triton.url)
    client.ask(QUESTION, CONTEXT)
    client.close()
    with pytest.raises(ClientError, match="the client is closed"):
        client.ask(QUESTION, CONTEXT)


def _drop_outputs(response):
    del response.outputs[:], response.raw_output_contents[:]


def _drop_last_output(response):
    for _ in range(2):  # NO_ANSWER_SCORE, which may be missing, and the one before it
        response.outputs.pop()
        response.raw_output_contents.pop()


def _drop_raw(response):
    response.raw_output_contents.pop()


def _int64_start(response):
    response.outputs[2].datatype = "INT64"


def _flat_margin(response):
    response.outputs[5].shape[:] = [1]


def _two_scores(response):
    response.outputs[1].shape[:] = [1, 2]
    response.raw_output_contents[1] *= 2


def _short_logit(response):
    response.raw_output_contents[4] = b"\0"


def _long_text(response):
    response.raw_output_contents[0] = struct.pack("<I", 99) + b"Z"


def _latin1_text(response):
    response.raw_output_contents[0] = struct.pack("<I", 1) + b"\xfc"


def _padding_only(response):
    response.raw_output_contents[2] = struct.pack("<i", -1)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_drop_outputs, "lacks the output ANSWER: got none"),
        (_drop_last_output, "lacks the output QUESTION_TRUNCATED"),
        (_drop_raw, "declares 9 outputs and carries 8"),
        (_int64_start, r"CHAR_START is INT64 \[1, 1\]: expected INT32"),
        (_flat_margin, r"NO_ANSWER_MARGIN is FP32 \[1\]: expected FP32 \[1, 1\]"),
        (_two_scores, "hold 1, 2, 1, 1, 1 entries"),
        (_short_logit, "LOGIT has 1 bytes: expected 4"),
        (_long_text, "ANSWER has 5 bytes"),
        (_latin1_text, "ANSWER cannot be read"),
        (_padding_only, "HAS_ANSWER is true, yet there is no span"),
    ],
)
def test_a_response_that_breaks_the_contract_is_a_protocol_error(triton, client, spoil, message):
    triton.script.append(spoil)
    with pytest.raises(ProtocolError, match=message):
        client.ask(QUESTION, CONTEXT)


def test_padding_entries_are_no_spans(triton, client):
    def no_span(response):
        _padding_only(response)
        response.raw_output_contents[6] = b"\0"

    triton.script.append(no_span)
    answer = client.ask(QUESTION, CONTEXT)
    assert answer.spans == ()
    assert answer.best_span is None
    assert answer.text == ""


def test_answers_differ_by_content_and_not_by_latency():
    answers = [
        Answer(has_answer=False, no_answer_margin=1.0, question_truncated=False, spans=(), latency_ms=t) for t in (1, 2)
    ]
    assert answers[0] == answers[1]


def test_the_package_offers_the_client_by_name():
    import spanqa_client

    assert spanqa_client.QAClient is QAClient
    assert spanqa_client.Answer is Answer
    with pytest.raises(AttributeError, match="no attribute 'Client'"):
        _ = spanqa_client.Client
