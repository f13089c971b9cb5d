"""The rival of TensorRT on a GPU: a fused float16 network for ONNX Runtime's CUDA provider."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import onnx
import onnxruntime

from spanqa.windows import Batch
from spanqa_build.activation_scan import scan_activations
from spanqa_build.cpu import fused_from_onnx
from spanqa_build.errors import ParityError, PrecisionError
from spanqa_build.float16_export import float32_graph
from spanqa_build.onnx_export import onnx_from_model, save_network
from spanqa_build.parity import Network, run_onnx
from spanqa_training.model import SpanModel

CUDA = "CUDAExecutionProvider"


def fused_float16_from_model(model: SpanModel, path: Path, batches: Iterable[Batch]) -> None:
    """Export, fuse and convert a network: attention and norms as single nodes, all but the logits in float16.

    ONNX Runtime's CUDA provider has fused attention kernels for it; those of sm_70 take heads of 64 and lengths up to
    384, and beyond that attention runs unfused.

    Args:
        model: The model; it is left as it is.
        path: The file to write.
        batches: Real windows, to see whether float16 holds every activation.

    Raises:
        PrecisionError: It does not, and this form cannot keep single tensors in float32.
        BuildError: The network cannot be exported or fused.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    too_large = scan_activations(float32_graph(model), batches).float32_tensors
    if too_large:
        raise PrecisionError(
            f"{len(too_large)} activations, first {too_large[0]}, come near float16's range, and the fused network"
            " cannot keep them in float32: use --engine tensorrt"
        )
    with tempfile.TemporaryDirectory() as scratch:
        plain, fused = Path(scratch) / "plain.onnx", Path(scratch) / "fused.onnx"
        onnx_from_model(model, plain)
        fused_from_onnx(plain, fused, model.config, for_cuda=True)
        network = convert_float_to_float16(onnx.load(fused), keep_io_types=True, disable_shape_infer=True)
    save_network(network, path)


def check_cuda_provider() -> None:
    """Refuse to build for a provider that is not there.

    Raises:
        ParityError: This onnxruntime has no CUDA provider.
    """
    if CUDA not in onnxruntime.get_available_providers():
        raise ParityError(
            f"the fused float16 network runs on a GPU alone, and this onnxruntime {onnxruntime.__version__} has no "
            f"{CUDA}: build in the image of build/Dockerfile, or pip install onnxruntime-gpu in its place"
        )


def cuda_network(path: Path) -> Network:
    """Load a network on the first GPU.

    Raises:
        ParityError: This onnxruntime has no CUDA provider, or it cannot start or load the network.
    """
    check_cuda_provider()
    try:
        session = onnxruntime.InferenceSession(str(path), providers=[CUDA])
    except Exception as error:  # onnxruntime has a class for each status and no common base
        reason = " ".join(str(error).split())
        raise ParityError(f"{path}: ONNX Runtime's {CUDA} cannot load it: {reason}") from error
    if CUDA not in session.get_providers():  # it falls back to the CPU with no more than a warning
        raise ParityError(
            f"{path}: ONNX Runtime {onnxruntime.__version__} cannot start its {CUDA}: install the CUDA and cuDNN that"
            " it was made for, or build in the image of build/Dockerfile"
        )
    return partial(run_onnx, session)
