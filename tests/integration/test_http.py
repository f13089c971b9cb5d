"""HTTP as people use it: one JSON in, one JSON out, whatever is asked."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import pytest

from spanqa import contract
from spanqa_client.client import QAClient
from spanqa_server.server import Server

pytestmark = pytest.mark.triton
MODEL = f"v2/models/{contract.QUESTION_ANSWERING}"


def post(server: Server, path: str, document: dict[str, Any]) -> dict[str, Any]:
    """Send JSON and read strict JSON: neither NaN nor infinity is any."""
    request = urllib.request.Request(f"http://{server.http_url}/{path}", json.dumps(document).encode())
    with urllib.request.urlopen(request, timeout=30) as response:
        answer: dict[str, Any] = json.loads(response.read(), parse_constant=no_json)
    return answer


def no_json(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def column(tensor: contract.Tensor, *values: Any) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.dtype, "shape": [len(values), 1], "data": list(values)}


def test_the_generate_endpoint_answers_a_question_and_a_context(server: Server) -> None:
    asked = {"QUESTION": "Where do cats live?", "CONTEXT": "Cats live in Paris."}
    said = post(server, f"{MODEL}/generate", asked)
    with QAClient(server.url) as client:
        right = client.ask(asked["QUESTION"], asked["CONTEXT"])
    best = right.spans[0]
    assert (said["ANSWER"], said["CHAR_START"], said["CHAR_END"]) == (best.text, best.char_start, best.char_end)
    assert (said["HAS_ANSWER"], said["model_version"]) == (right.has_answer, right.model_version)


def test_a_bad_request_is_a_sentence_with_the_status_of_bad_requests(server: Server) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        post(server, f"{MODEL}/generate", {"QUESTION": "", "CONTEXT": "Cats live in Paris."})
    assert caught.value.code == 400
    assert "QUESTION is empty: send some text" in json.loads(caught.value.read())["error"]


def test_rows_with_fewer_spans_than_others_are_strict_json(server: Server) -> None:
    rows = [
        column(contract.QUESTION, "Where do cats live?", "Who?"),
        column(contract.CONTEXT, "Cats live in Paris.", "Bob"),
        column(contract.TOP_N, 5, 5),
    ]
    said = post(server, f"{MODEL}/infer", {"inputs": rows})
    outputs = {output["name"]: output["data"] for output in said["outputs"]}
    assert outputs["ANSWER"][5:] == ["Bob", "", "", "", ""]
    assert outputs["LOGIT"][6:] == [pytest.approx(contract.LOWEST_LOGIT)] * 4
