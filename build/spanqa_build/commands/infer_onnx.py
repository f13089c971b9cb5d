"""`spanqa infer_onnx`: answer a dataset offline with an exported ONNX, through ONNX Runtime."""

from __future__ import annotations

import argparse
from functools import partial

from spanqa_build.parity import run_onnx, session_from_onnx
from spanqa_training.commands.arguments import add_overrides, add_spec_options, request_from_args
from spanqa_training.commands.infer import INFERENCE_KEYS, add_output_options, infer, show
from spanqa_training.weights.model_sources import open_network, restored_path


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_spec_options(parser)
    add_output_options(parser)
    add_overrides(parser)


def run(args: argparse.Namespace) -> int:
    """Answer infer_ds and write the three files of `spanqa infer`."""
    request = request_from_args(args, uses={"infer_ds"}, reads=INFERENCE_KEYS)
    request.spec.require_files("infer_ds")
    packed = open_network(restored_path(request.spec, request.results), key=request.key)
    network = partial(run_onnx, session_from_onnx(packed.network))
    # On the CPU, where `infer -g N` has N batches in work at once too.
    n_threads = request.spec.trainer.gpus or 1
    report = infer(
        request, packed.checkpoint, network, distinct_spans=args.distinct, n_threads=n_threads, quiet=args.quiet
    )
    show(args, report)
    return 0
