"""Megatron-BERT 345M at full size, random weights, through NVIDIA's own parser and builder, every bucket of a target.

    python benchmarks/rehearsal.py [--target v100] [--folder DIR]

exports the explicit float16 network, has TensorRT for RTX parse it and build an engine a bucket, holds the precisions
against those that were meant, and prints seconds, bytes, peak memory of both processes, and the table of layers. The
folder needs 6 GB. `spanqa build --target v100 --rehearse` does the same for a checkpoint, and much more.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import torch
from bench_setting import machine
from full_size import MEGATRON_345M

from spanqa_build.float16_export import float16_network
from spanqa_build.rehearsal.engines import Parsed, rehearsed_engines, rtx_version
from spanqa_build.rehearsal.layers import check_precisions, count_layers
from spanqa_build.targets import target_from_name
from spanqa_training.model import SpanModel


def main() -> None:
    """Export, parse, build, tell."""
    parser = argparse.ArgumentParser(description="Megatron-BERT 345M rehearsed at full size.")
    parser.add_argument("--target", default="v100", help="a target with a GPU")
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    args = parser.parse_args()
    target, began = target_from_name(args.target), time.monotonic()
    print(f"{machine()}, TensorRT for RTX {rtx_version()}, target {target.name}")
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder, since = Path(name), time.monotonic()
        torch.manual_seed(0)
        network = float16_network(SpanModel(MEGATRON_345M), folder / "network.onnx", layer_norm=target.layer_norm)
        tell("export", time.monotonic() - since, network.n_bytes, own_peak_bytes())
        outputs = {length: folder / f"{length}.plan" for length in target.buckets}
        counts: dict[str, dict[str, int]] = {}
        for said in rehearsed_engines(network.path, target, outputs):
            if isinstance(said, Parsed):
                check_precisions(said.layers, network.meant)
                counts = count_layers(said.layers)
                tell(f"parse, {len(said.layers):,} layers", said.seconds, None, said.peak_bytes)
            else:
                tell(f"engine for {said.length} tokens", said.seconds, said.size_bytes, said.peak_bytes)
                outputs[said.length].unlink()
    print(f"{'all':<28}{time.monotonic() - began:>8.1f} s")
    print(json.dumps(counts, indent=2))


def tell(what: str, seconds: float, size_bytes: int | None, peak_bytes: int) -> None:
    """Print one line."""
    size = f"{size_bytes / 2**20:>9,.1f} MiB" if size_bytes else " " * 13
    print(f"{what:<28}{seconds:>8.1f} s {size}   peak {peak_bytes / 2**30:.1f} GiB", flush=True)


def own_peak_bytes() -> int:
    """Most memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


if __name__ == "__main__":
    main()
