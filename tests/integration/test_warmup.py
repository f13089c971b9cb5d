"""A real Triton reads the warm-up that the build writes for a GPU's encoders, and refuses faults as the build does."""

import shutil

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from spanqa import contract
from spanqa.manifest import Engine, Manifest, load_manifest
from spanqa.packing import Bucket, Packing
from spanqa.windows import Batch
from spanqa_build import versions
from spanqa_build.configs import config_texts
from spanqa_build.warmup import warmup_files
from spanqa_client.client import QAClient
from spanqa_server.errors import ModelLoadError
from spanqa_server.server import Server

LENGTH = 384


def parsed(text):
    return text_format.Parse(text, pb.ModelConfig())


@pytest.fixture
def warmed(repository, tmp_path, monkeypatch):
    """Makes the shipped repository's encoder, which Python runs, warm up as a GPU's encoder would."""

    def make(change=lambda config: None):
        folder = tmp_path / "repository"
        shutil.copytree(repository, folder)
        bucket = Bucket(length=LENGTH, model=contract.ENCODER, max_rows=8)
        engine = Engine(platform="tensorrt_plan", instances=2)
        gpu = Manifest(tokenizer_sha256="0", packing=Packing(buckets=(bucket,)), engine=engine)
        samples = parsed(config_texts(gpu)[contract.ENCODER]).model_warmup

        def with_warmup(manifest, limits=None, **options):
            texts = config_texts(manifest, **options)
            config = parsed(texts[contract.ENCODER])
            config.model_warmup.extend(samples)
            change(config)
            return {**texts, contract.ENCODER: text_format.MessageToString(config)}

        ids = np.ones((1, LENGTH), dtype=np.int32)
        row = Batch(input_ids=ids, attention_mask=ids, token_type_ids=np.zeros_like(ids))
        for name, content in warmup_files({contract.ENCODER: row}).items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        monkeypatch.setattr(versions, "config_texts", with_warmup)
        versions.seal_version(folder, 1, load_manifest(folder / contract.QUESTION_ANSWERING / "1"))
        return folder

    return make


def test_triton_warms_up_with_what_the_build_writes_and_serves(warmed):
    # The ensemble asks the encoder; the main entry's network is in its own process.
    with (
        Server(warmed(), report=lambda _: None) as server,
        QAClient(server.url, model_name=contract.ENSEMBLE) as client,
    ):
        assert client.ask("Where do cats live?", "Cats live in Paris.").text == "Paris"
        stats = client_statistics(server.url)
    # Each of two instances on a GPU has a row and 8 of them once; the question is the one call after.
    assert stats.execution_count >= 2 * 2 + 1
    assert stats.inference_count >= 2 * (1 + 8) + 1


def client_statistics(url):
    from tritonclient.grpc import InferenceServerClient

    with InferenceServerClient(url) as client:
        return client.get_inference_statistics(contract.ENCODER).model_stats[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda sample: setattr(sample.inputs["input_ids"], "input_data_file", "ids"), "warmup/ids"),
        (lambda sample: sample.inputs["input_ids"].dims.__setitem__(0, LENGTH + 1), "expects 1540 bytes"),
        (
            lambda sample: sample.inputs["mask"].CopyFrom(sample.inputs.pop("attention_mask")),
            "expected 3 inputs but got 2",
        ),
    ],
    ids=["a file of another name", "a file that is too short", "an input that the model has not"],
)
def test_triton_refuses_a_warm_up_that_does_not_fit(warmed, change, message):
    folder = warmed(lambda config: change(config.model_warmup[0]))
    with pytest.raises(ModelLoadError, match=message):
        Server(folder, report=lambda _: None).start()
