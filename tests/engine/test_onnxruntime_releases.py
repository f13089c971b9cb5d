"""What we export opens, and answers the same, in the ONNX Runtime of Triton 24.09, in Python 3.10's last, and here.

The older two are installed by `make test`, side by side and out of the way; each runs in a process of its own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from spanqa.contract import ENCODER_INPUTS, ENCODER_OUTPUTS
from spanqa_build.cpu import cpu_networks_from_model
from spanqa_build.float16_export import LAYER_NORMS, float16_network_from_graph
from spanqa_training.model import EncoderConfig, SpanModel

RELEASES = {"1.19.2": "ort119", "1.23.2": "ort123"}
N_ROWS, N_TOKENS = 3, 40
NETWORKS = [f"{family}_{form}" for family in ("pre", "post") for form in ("plain", "float32", "int8", *LAYER_NORMS)]
CHILD = """
import json, sys
import numpy as np, onnxruntime

feed, logits = dict(np.load(sys.argv[1])), {}
for name, path in json.loads(sys.argv[2]).items():
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    logits[name] = np.stack(session.run(json.loads(sys.argv[4]), feed))
np.savez(sys.argv[3], **logits)
print(onnxruntime.__version__)
"""


@pytest.fixture(scope="module")
def networks(root, graph_of, tmp_path_factory):
    """Every form of network that we write, of both families, and the shipped one."""
    folder = tmp_path_factory.mktemp("networks")
    paths = {"shipped": root / "model_repository" / "encoder" / "1" / "network.onnx"}
    sizes = {"vocab_size": 60, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 96}
    for family in ("pre", "post"):
        torch.manual_seed(3)
        config = EncoderConfig(**sizes, max_positions=64, initializer_range=0.15, layer_norm=family)
        model = SpanModel(config).eval()
        cpu = cpu_networks_from_model(model, folder / family)
        paths |= {f"{family}_{form}": getattr(cpu, form) for form in ("plain", "float32", "int8")}
        graph = graph_of(model)
        for form in LAYER_NORMS:
            path = folder / f"{family}_{form}.onnx"
            float16_network_from_graph(graph, path, layer_norm=form)
            paths[f"{family}_{form}"] = path
    return {name: str(path) for name, path in paths.items()}


@pytest.fixture(scope="module")
def feed(tmp_path_factory):
    """Windows of several lengths, as a file."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("feed") / "feed.npz"
    mask = (np.arange(N_TOKENS) < np.array([N_TOKENS, 17, 5])[:, None]).astype(np.int32)
    ids, types = (rng.integers(low, high, (N_ROWS, N_TOKENS)) * mask for low, high in ((1, 60), (0, 2)))
    names = [tensor.name for tensor in ENCODER_INPUTS]
    arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    np.savez(path, **{name: arrays[name].astype(np.int32) for name in names})
    return path


@pytest.fixture(scope="module")
def logits_of(networks, feed, tmp_path_factory):
    """Gives the logits of every network by a release; None is the one of this environment."""
    done = {}

    def of(release):
        if release not in done:
            folder, output = Path(sys.prefix) / RELEASES.get(release, ""), tmp_path_factory.mktemp("logits") / "out.npz"
            if release and not (folder / "onnxruntime").is_dir():
                pytest.skip(f"ONNX Runtime {release} is not in {folder}: run make test, which installs it")
            outputs = json.dumps([tensor.name for tensor in ENCODER_OUTPUTS])
            command = [sys.executable, "-c", CHILD, str(feed), json.dumps(networks), str(output), outputs]
            environment = {**os.environ, **({"PYTHONPATH": str(folder)} if release else {})}
            ran = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
            assert ran.returncode == 0, ran.stderr
            assert ran.stdout.strip() == (release or onnxruntime.__version__)
            done[release] = dict(np.load(output))
        return done[release]

    return of


@pytest.mark.parametrize("name", ["shipped", *NETWORKS])
@pytest.mark.parametrize("release", RELEASES)
def test_a_network_opens_in_an_older_release_and_gives_the_same_logits(logits_of, release, name):
    older, newest = (logits_of(which)[name] for which in (release, None))
    assert older.shape == newest.shape == (len(ENCODER_OUTPUTS), N_ROWS, N_TOKENS)
    assert older.dtype == newest.dtype == np.float32
    assert np.isfinite(older).all()
    # int8 kernels, and whether float16 nodes are computed in float32, are each release's own.
    limit = 1e-5 if name.endswith(("plain", "float32")) else 0.05 if name in ("shipped",) or "int8" in name else 0.01
    assert np.abs(older - newest).max() < limit * max(1.0, np.abs(newest).max())
