"""The repository's own model files: each request is answered for itself, whatever its neighbours hold."""

import gc
import itertools
import os
import re
import weakref
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from spanqa import contract, jobs

SHORT = "the cat sat on the mat"
LONG = "the old bridge stands near the red tower and the river . " * 5
CITY = "two people live there in the old city"
N_WORKERS = 2


@pytest.fixture(params=["in its process", "asked"])
def way(request):
    """How the main entry's network runs: on a CPU in its own process, else asked of another model."""
    if request.param == "asked":
        request.getfixturevalue("on_a_gpu")
    return request.param


@pytest.fixture
def ask(way, main_entry):
    """Sends requests to the main entry, as one batch, and waits for their answers."""
    return main_entry()


@pytest.fixture
def ask_gpu(on_a_gpu, main_entry):
    """As `ask`, where the network is another model's."""
    return main_entry()


@pytest.fixture
def ask_ensemble(model, after_encoder):
    """Sends a request through preprocess, the encoder and postprocess, as the ensemble does."""
    preprocess, postprocess = model(contract.PREPROCESS), model(contract.POSTPROCESS)

    def ask(request):
        (first,) = preprocess.execute([request])
        if first.has_error():
            return first
        (last,) = postprocess.execute([after_encoder(request, first)])
        return last

    return ask


def assert_same_arrays(one, other):
    assert not one.has_error(), one.error().message()
    assert not other.has_error(), other.error().message()
    first, second = one.arrays(), other.arrays()
    assert list(first) == list(second) == [tensor.name for tensor in contract.OUTPUTS]
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)


def assert_error(response, pb_utils, code, message):
    assert response.has_error()
    assert response.error().code() == getattr(pb_utils.TritonError, code)
    assert re.search(message, response.error().message()), response.error().message()
    assert "Traceback" not in response.error().message()
    assert "\n" not in response.error().message()


def test_answers_are_slices_of_the_context_as_sent(ask, request_of):
    context = "  École\u00a0of the 東京 bridge 🚀\tstands near the river. " * 3
    (response,) = ask(request_of(("where?", context), TOP_N=[20]))
    arrays = response.arrays()
    assert arrays["ANSWER"].shape == (1, 20)
    for text, start, end in zip(arrays["ANSWER"][0], arrays["CHAR_START"][0], arrays["CHAR_END"][0], strict=True):
        assert text.decode() == context[start:end] != ""
    logits = arrays["LOGIT"][0].tolist()
    assert logits == sorted(logits, reverse=True)
    assert max(logits) < 1000  # padding was not read
    assert 0 < arrays["SCORE"].sum() <= 1


def test_good_requests_are_answered_beside_bad_ones(ask, request_of, pb_utils):
    good = [
        lambda: request_of(("who sat?", SHORT)),
        lambda: request_of(("where?", LONG), TOP_N=[5]),
        lambda: request_of(("how many?", CITY), ("what stands?", LONG), TOP_N=[2, 3], NO_ANSWER_THRESHOLD=[9.0, -9.0]),
    ]
    bad = [
        (request_of(("", SHORT)), "^QUESTION is empty"),
        (request_of(("who?", b"\xff\xfe")), "^CONTEXT is not valid UTF-8 .byte 0 is 0xff"),
        (request_of(("who?", "x" * 4001)), "^CONTEXT has 4,001 bytes, at most 4,000"),
        (request_of(("who?", SHORT), TOP_N=[0]), "^TOP_N must be from 1 to 64, got 0"),
        (request_of(("who?", SHORT), MAX_ANSWER_TOKENS=[-1]), "^MAX_ANSWER_TOKENS must be at least 1, or 0 .* got -1"),
        (request_of(("\u00a0\n", SHORT)), "^the question holds no word"),
        (request_of(("who?", "\x00\x07")), "^the context holds no word"),
        (pb_utils.InferenceRequest(request_of(("who?", SHORT)).inputs()[:1]), "^CONTEXT is missing"),
    ]
    alone = [ask(make())[0] for make in good]
    batch = []
    for index, (request, _) in enumerate(bad):
        batch += [request, good[index % 3]()]
    responses = ask(*batch)
    for index, (_, message) in enumerate(bad):
        assert_error(responses[2 * index], pb_utils, "INVALID_ARG", message)
        assert_same_arrays(responses[2 * index + 1], alone[index % 3])


def test_a_batch_of_bad_requests_asks_the_encoder_nothing(ask, request_of, pb_utils):
    for response in ask(request_of(("", SHORT)), request_of(("who?", ""))):
        assert_error(response, pb_utils, "INVALID_ARG", "is empty")
    assert pb_utils.encoder.calls == []


@pytest.mark.parametrize(
    ("bad", "options", "message"),
    [
        (("who?", ""), {}, "^row 1: CONTEXT is empty"),
        (("\t", SHORT), {}, "^row 1: the question holds no word"),
        (("who?", SHORT), {"MAX_ANSWER_TOKENS": [3, -4, 3]}, "^row 1: MAX_ANSWER_TOKENS must be at least 1"),
    ],
)
def test_one_bad_row_fails_its_request_and_is_named(ask, request_of, pb_utils, bad, options, message):
    first, second = ask(
        request_of(("who sat?", SHORT), bad, ("where?", LONG), **options), request_of(("who sat?", SHORT))
    )
    assert_error(first, pb_utils, "INVALID_ARG", message)
    assert_same_arrays(second, ask(request_of(("who sat?", SHORT)))[0])


def test_rows_of_one_request_equal_requests_of_one_row(ask, request_of):
    rows = [("who sat?", SHORT), ("where?", LONG), ("how many people live there?", CITY), ("where?", LONG)]
    (together,) = ask(request_of(*rows, TOP_N=[1, 7, 2, 3], NO_ANSWER_THRESHOLD=[0.0, 50.0, -50.0, 0.5]))
    arrays = together.arrays()
    assert arrays["ANSWER"].shape == (4, 7)
    for row, (pair, top_n, threshold) in enumerate(zip(rows, [1, 7, 2, 3], [0.0, 50.0, -50.0, 0.5], strict=True)):
        alone = ask(request_of(pair, TOP_N=[top_n], NO_ANSWER_THRESHOLD=[threshold]))[0].arrays()
        for name, array in alone.items():
            np.testing.assert_array_equal(arrays[name][row, : array.shape[1]], array[0], err_msg=name)
        assert (arrays["ANSWER"][row, top_n:] == b"").all()
        assert (arrays["CHAR_START"][row, top_n:] == -1).all()
        assert (arrays["LOGIT"][row, top_n:] == np.finfo(np.float32).min).all()
        assert np.isfinite(arrays["LOGIT"]).all()
    assert arrays["HAS_ANSWER"][:, 0].tolist()[1:3] == [True, False]


def together(ask, pb_utils, make, first, *requests):
    """The answers of requests that were all waiting before the first of their windows was taken."""
    with pb_utils.encoder.held(n_calls=N_WORKERS) as one_more_is_held:
        holding = [make(first) for _ in range(N_WORKERS)]
        for request in holding:  # one by one: two in one call would leave a worker free
            ask.only(request)
            one_more_is_held()
        ask.only(*requests)
    assert not any(request.answer().has_error() for request in holding)
    return [request.answer() for request in requests]


def test_windows_of_all_requests_share_calls_within_the_limits(ask_gpu, request_of, pb_utils):
    texts = (SHORT, CITY, LONG, CITY, LONG, SHORT)
    requests = [request_of(("where?", text)) for text in texts]
    responses = together(ask_gpu, pb_utils, request_of, ("where?", SHORT), *requests)
    assert not any(response.has_error() for response in responses)
    calls = pb_utils.encoder.calls[N_WORKERS:]
    assert all(rows <= 4 and (rows == 1 or rows * length <= 96) for rows, length in calls)
    alone = 4 + 2 * 2  # calls, were none shared: each long text is six windows, at most three a call
    assert sum(rows for rows, _ in calls) == 4 + 2 * 6
    assert len(calls) < alone


@pytest.mark.parametrize("entry", ["main", "ensemble"])
def test_what_is_left_out_and_what_says_so_are_the_models_own(ask, ask_ensemble, request_of, entry):
    send = ask_ensemble if entry == "ensemble" else lambda request: ask(request)[0]
    plain = send(request_of(("who sat?", SHORT)))
    said = {"NO_ANSWER_THRESHOLD": [np.nan], "MAX_ANSWER_TOKENS": [0], "DISTINCT": [False]}
    assert_same_arrays(send(request_of(("who sat?", SHORT), **said)), plain)


@pytest.mark.parametrize("entry", ["main", "ensemble"])
def test_a_limit_above_the_windows_room_is_cut_to_it(ask, ask_ensemble, request_of, entry):
    send = ask_ensemble if entry == "ensemble" else lambda request: ask(request)[0]
    whole, beyond = (
        send(request_of(("who?", LONG[:170]), TOP_N=[64], MAX_ANSWER_TOKENS=[limit])) for limit in (28, 10**6)
    )
    assert_same_arrays(beyond, whole)


def test_a_row_asks_for_distinct_spans_for_itself(ask, request_of):
    (response,) = ask(request_of(("where?", LONG), ("where?", LONG), TOP_N=[9, 9], DISTINCT=[True, False]))
    arrays = response.arrays()
    spans = [
        sorted(zip(*(arrays[f"CHAR_{end}"][row].tolist() for end in ("START", "END")), strict=True)) for row in (0, 1)
    ]
    overlaps = [sum(one[1] > other[0] for one, other in itertools.pairwise(of)) for of in spans]
    assert overlaps[0] == 0 < overlaps[1]


def test_logits_are_asked_for_in_cpu_memory(ask_gpu, request_of, pb_utils):
    (response,) = ask_gpu(request_of(("who?", SHORT)))  # the fake leaves them on the GPU otherwise, as Triton does
    assert not response.has_error()


def test_logits_left_on_the_gpu_all_the_same_are_told_in_one_sentence(ask_gpu, request_of, pb_utils):
    pb_utils.encoder.keeps_on_gpu = True
    (response,) = ask_gpu(request_of(("who?", SHORT)))
    assert_error(
        response, pb_utils, "INTERNAL", "^encoder left its logits in GPU memory though CPU memory was asked for"
    )


def test_the_last_stage_gets_an_encoders_logits_in_cpu_memory_as_nothing_else_is_asked_for(
    model, request_of, after_encoder, pb_utils
):
    request = request_of(("who?", SHORT))
    (first,) = model(contract.PREPROCESS).execute([request])
    postprocess = model(contract.POSTPROCESS)
    assert not postprocess.execute([after_encoder(request, first)])[0].has_error()
    asking = 'parameters { key: "FORCE_CPU_ONLY_INPUT_TENSORS" value { string_value: "no" } }'
    (response,) = postprocess.execute([after_encoder(request, first, asking)])
    assert_error(response, pb_utils, "INTERNAL", r"^an unexpected error \(fault")


def test_a_truncated_question_is_told(ask, request_of):
    (response,) = ask(request_of(("who " * 9, SHORT), ("who " * 8, SHORT)))
    assert response.arrays()["QUESTION_TRUNCATED"].tolist() == [[True], [False]]


def test_an_encoder_that_is_away_is_unavailable_for_those_with_windows_in_its_call(
    ask, request_of, pb_utils, tokenizer
):
    tower = int(tokenizer.pieces("tower").ids[0])
    pb_utils.encoder.faults = {tower: "Stub process 'encoder_0_0' is not healthy."}
    # Three full windows: as many as a call takes, where it takes several.
    away, *others = ask(*(request_of(("who?", text)) for text in ("tower " * 43, SHORT, CITY)))
    assert_error(away, pb_utils, "UNAVAILABLE", r"^the encoder is away for a moment .*not healthy.*: ask again$")
    assert not any(other.has_error() for other in others)
    pb_utils.encoder.faults = {}
    assert not ask(request_of(("who?", "tower " * 43)))[0].has_error()


def test_those_in_the_call_of_an_encoder_that_is_away_may_ask_again(ask_gpu, request_of, pb_utils, tokenizer):
    tower = int(tokenizer.pieces("tower").ids[0])
    pb_utils.encoder.faults = {tower: "Stub process 'encoder_0_0' is not healthy."}
    requests = [request_of(("who?", text)) for text in (SHORT, SHORT + " tower")]
    for response in together(ask_gpu, pb_utils, request_of, ("who?", CITY), *requests):  # one call for both
        assert_error(response, pb_utils, "UNAVAILABLE", "ask again$")


def test_an_encoder_that_fails_is_internal_with_an_id_that_the_log_explains(
    ask, request_of, pb_utils, tokenizer, capsys
):
    pb_utils.encoder.faults = {int(tokenizer.pieces("tower").ids[0]): "CUDA error: an illegal memory access"}
    (response,) = ask(request_of(("who?", LONG)))
    assert_error(response, pb_utils, "INTERNAL", r"CUDA error: an illegal .*\(fault [0-9a-f]{12}: the server's log")
    fault = re.search("fault ([0-9a-f]{12})", response.error().message())[1]
    log = capsys.readouterr().err
    assert f"spanqa: fault {fault}\nTraceback" in log
    assert "EncoderError" in log


def test_an_unexpected_error_shows_no_detail_to_the_sender(ask, request_of, pb_utils, monkeypatch, capsys):
    def broken(*inputs):
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(pb_utils.encoder, "logits", broken)
    (response,) = ask(request_of(("who?", SHORT)))
    assert_error(
        response, pb_utils, "INTERNAL", r"^an unexpected error \(fault [0-9a-f]{12}: the server's log says more\)$"
    )
    assert "secret detail" in capsys.readouterr().err


@pytest.mark.parametrize("shape", ["short", "flat"])
def test_a_network_of_another_shape_is_internal(ask, request_of, pb_utils, monkeypatch, shape):
    def wrong(ids, mask, types):
        array = np.zeros((len(ids), ids.shape[1] - 1) if shape == "short" else ids.size, dtype=np.float32)
        return array, array

    monkeypatch.setattr(pb_utils.encoder, "logits", wrong)
    (response,) = ask(request_of(("who?", SHORT)))
    assert_error(response, pb_utils, "INTERNAL", "the network is not the one the repository was built with")


def test_logits_that_are_not_finite_fail_their_own_request(ask, request_of, pb_utils, monkeypatch, tokenizer):
    sound = pb_utils.encoder.logits
    tower = int(tokenizer.pieces("tower").ids[0])

    def overflowing(ids, mask, types):
        start, end = sound(ids, mask, types)
        return np.where(ids == tower, np.float32("nan"), start), end

    expected = ask(request_of(("who?", SHORT)))[0]
    monkeypatch.setattr(pb_utils.encoder, "logits", overflowing)
    short, long = ask(request_of(("who?", SHORT)), request_of(("who?", LONG)))
    assert_same_arrays(short, expected)
    assert_error(long, pb_utils, "INTERNAL", "logits are not finite")


@pytest.fixture
def asked_at_every_call(monkeypatch):
    """Has Triton asked at every call whether a sender has given up, not only now and then."""
    monkeypatch.setattr(jobs, "CHECK_S", -1.0)


@pytest.mark.usefixtures("asked_at_every_call")
def test_a_cancelled_request_costs_no_call_and_its_neighbours_are_answered(ask, request_of, pb_utils):
    (cancelled,) = ask(request_of(("who?", LONG), cancelled=True))
    assert_error(cancelled, pb_utils, "CANCELLED", "cancelled by its sender")
    assert pb_utils.encoder.calls == []
    expected = ask(request_of(("who?", SHORT)))[0]
    cancelled, answered = ask(request_of(("who?", LONG), cancelled=True), request_of(("who?", SHORT)))
    assert_error(cancelled, pb_utils, "CANCELLED", "cancelled by its sender")
    assert_same_arrays(answered, expected)


@pytest.mark.usefixtures("asked_at_every_call")
def test_a_request_cancelled_half_way_asks_the_encoder_no_more(ask, request_of, pb_utils):
    request = request_of(("who?", LONG * 4))
    pb_utils.encoder.before_call = request.cancel
    (response,) = ask(request)
    assert_error(response, pb_utils, "CANCELLED", "cancelled")
    n_cancelled = len(pb_utils.encoder.calls)
    pb_utils.encoder.before_call = None
    pb_utils.encoder.calls.clear()
    ask(request_of(("who?", LONG * 4)))
    assert n_cancelled < len(pb_utils.encoder.calls)


@pytest.mark.parametrize("text", [SHORT, ""], ids=["an answer", "an error"])
def test_who_asks_hears_of_a_response_that_found_no_shared_memory(ask, request_of, pb_utils, monkeypatch, text):
    (undisturbed,) = ask(request_of(("who?", SHORT)))
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=1, f_frsize=4096))
    full = request_of(("who?", text))
    full.get_response_sender().has_memory = False
    lost, sound = ask(full, request_of(("who?", SHORT)))
    assert_error(lost, pb_utils, "INTERNAL", "expected a single response, got 0")
    assert_same_arrays(sound, undisturbed)


def test_a_request_that_waits_holds_none_of_its_tensors(ask, request_of, pb_utils):
    request = request_of(("who?", LONG))
    sender, tensor = request.get_response_sender(), weakref.ref(request.inputs()[0])
    with pb_utils.encoder.held(1) as next_call:
        ask.only(request)
        next_call()
        del request
        gc.collect()
        assert tensor() is None
    assert not sender.answer().has_error()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"TOP_N": [9]},
        {"TOP_N": [64], "MAX_ANSWER_TOKENS": [2]},
        {"NO_ANSWER_THRESHOLD": [-100.0]},
        {"NO_ANSWER_THRESHOLD": [np.nan], "MAX_ANSWER_TOKENS": [0], "DISTINCT": [False]},
        {"TOP_N": [9], "DISTINCT": [True]},
        {"TOP_N": [3], "MAX_ANSWER_TOKENS": [1000]},
        {"TOP_N": [3], "NO_ANSWER_THRESHOLD": [np.inf], "MAX_ANSWER_TOKENS": [20]},
    ],
)
@pytest.mark.parametrize("context", [SHORT, CITY, LONG[:170], "École\u00a0東京 🚀\te\u0301 한국어 [SEP] שבא"])
def test_the_ensembles_stages_answer_as_the_main_entry(ask, ask_ensemble, request_of, context, options):
    question = "who sat on what is where and how many?"
    assert_same_arrays(
        ask_ensemble(request_of((question, context), **options)), ask(request_of((question, context), **options))[0]
    )


def test_the_ensemble_refuses_a_long_text_and_names_the_entry_that_takes_it(ask, ask_ensemble, request_of, pb_utils):
    response = ask_ensemble(request_of(("who?", LONG)))
    assert_error(
        response,
        pb_utils,
        "INVALID_ARG",
        r"^the context needs \d+ windows, question_answering_ensemble takes at most 4: ask the model "
        "question_answering instead, which takes texts of any length$",
    )
    assert not ask(request_of(("who?", LONG)))[0].has_error()


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        (("", SHORT), {}, "^QUESTION is empty"),
        (("who?", "\x00"), {}, "^the context holds no word"),
        (("who?", SHORT), {"TOP_N": [65]}, "^TOP_N must be from 1 to 64, got 65"),
        (("who?", SHORT), {"MAX_ANSWER_TOKENS": [-28]}, "^MAX_ANSWER_TOKENS must be at least 1"),
    ],
)
def test_the_ensembles_errors_are_those_of_the_main_entry(
    ask, ask_ensemble, request_of, pb_utils, row, options, message
):
    staged, routed = ask_ensemble(request_of(row, **options)), ask(request_of(row, **options))[0]
    assert_error(staged, pb_utils, "INVALID_ARG", message)
    assert staged.error().message() == routed.error().message()


@pytest.fixture
def network(repository):
    """A real ONNX network whose logits depend on the whole row, so that padding would change them."""
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["ids"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["token_type_ids"], ["types"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["ids"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Add", ["ids", "mean"], ["sum"]),
        helper.make_node("Add", ["sum", "types"], ["start_logits"]),
        helper.make_node("Sub", ["mask", "sum"], ["end_logits"]),
    ]
    values = [
        helper.make_tensor_value_info(tensor.name, kind, ["rows", "length"])
        for tensors, kind in (
            (contract.ENCODER_INPUTS, TensorProto.INT32),
            (contract.ENCODER_OUTPUTS, TensorProto.FLOAT),
        )
        for tensor in tensors
    ]
    graph = helper.make_graph(nodes, "tiny", values[:3], values[3:])
    folder = repository / contract.ENCODER / "1"
    folder.mkdir(parents=True)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, folder / "network.onnx")


def test_the_cpu_encoder_runs_each_row_without_its_padding(network, model, pb_utils):
    rng = np.random.default_rng(7)
    lengths = [12, 5, 1, 9, 12, 3]
    mask = (np.arange(12) < np.array(lengths)[:, None]).astype(np.int32)
    ids = rng.integers(1, 500, size=mask.shape).astype(np.int32) * mask
    types = (mask * (np.arange(12) > 2)).astype(np.int32)
    arrays = dict(zip([tensor.name for tensor in contract.ENCODER_INPUTS], (ids, mask, types), strict=True))
    encoder = model(contract.ENCODER)

    def run(rows):
        inputs = [pb_utils.Tensor(name, array[rows]) for name, array in arrays.items()]
        (response,) = encoder.execute([pb_utils.InferenceRequest(inputs)])
        assert not response.has_error()
        return response.arrays()

    batch = run(slice(None))
    for row, length in enumerate(lengths):
        mean = ids[row, :length].mean(dtype=np.float32)
        np.testing.assert_allclose(batch["start_logits"][row, :length], ids[row, :length] + mean + types[row, :length])
        np.testing.assert_allclose(batch["end_logits"][row, :length], 1 - ids[row, :length] - mean)
        assert not batch["start_logits"][row, length:].any()
        alone = run(slice(row, row + 1))
        for name in ("start_logits", "end_logits"):
            np.testing.assert_array_equal(alone[name][0], batch[name][row])


def test_a_broken_request_to_the_encoder_leaves_its_neighbours_alone(network, model, pb_utils):
    good = [pb_utils.Tensor(tensor.name, np.ones((2, 4), dtype=np.int32)) for tensor in contract.ENCODER_INPUTS]
    broken, answered = model(contract.ENCODER).execute(
        [pb_utils.InferenceRequest(good[:2]), pb_utils.InferenceRequest(good)]
    )
    assert_error(broken, pb_utils, "INTERNAL", r"^an unexpected error \(fault")
    assert answered.arrays()["start_logits"].shape == (2, 4)
