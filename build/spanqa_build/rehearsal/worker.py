"""The process of a rehearsal's TensorRT: TensorRT for RTX in its place, so that the engine code runs as it stands.

Reads one request as JSON from its standard input. Writes JSON lines: the layers that the parser made, then each engine
as it is built, or what failed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from spanqa_build.engine import plan_from_onnx
from spanqa_build.engine_run import one_line_errors
from spanqa_build.errors import BuildError
from spanqa_build.rehearsal.layers import layers_of
from spanqa_build.targets import target_from_name
from spanqa_build.termination import end_with

BINDINGS = "tensorrt_rtx_bindings"
_KIB = 1 << 10


def main() -> int:
    """Answer one request."""
    request = json.loads(sys.stdin.read())
    end_with(request["parent"])
    # What TensorRT and Polygraphy print must not stand among the answers.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        put_in_place()
        try:
            for said in _answers(request):
                print(json.dumps(said), file=answers, flush=True)
        except (BuildError, OSError) as error:
            print(json.dumps({"error": str(error)}), file=answers, flush=True)
            return 2
    return 0


def put_in_place() -> None:
    """Give TensorRT for RTX the names by which Polygraphy and the engine code import TensorRT."""
    rtx = import_module(BINDINGS)
    sys.modules["tensorrt"] = sys.modules["tensorrt_rtx"] = rtx


def _answers(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    onnx, target = Path(request["onnx"]), target_from_name(request["target"])
    started = time.monotonic()
    layers = _parsed_layers(onnx)
    yield {"layers": layers, "seconds": time.monotonic() - started, "peak_bytes": _peak_bytes()}
    for length, output in request["engines"]:
        started = time.monotonic()
        plan = plan_from_onnx(onnx, target, length, (), Path(f"{output}.timing-cache"))
        Path(output).write_bytes(plan)
        yield {
            "length": length,
            "size_bytes": len(plan),
            "seconds": time.monotonic() - started,
            "peak_bytes": _peak_bytes(),
        }


def _parsed_layers(onnx: Path) -> list[dict[str, Any]]:
    from polygraphy.backend.trt import NetworkFromOnnxPath

    with one_line_errors(f"{onnx}: TensorRT cannot read the network", "export the network again"):
        # The builder and the parser own what the network is made of: they must live as long.
        builder, network, parser = NetworkFromOnnxPath(path=str(onnx), strongly_typed=True)()
        layers = [asdict(layer) for layer in layers_of(network)]
        del network, parser, builder
    return layers


def _peak_bytes() -> int:
    """Give the most memory that this process has had so far; getrusage would count that of the process it came from."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return int(kib) * _KIB


if __name__ == "__main__":
    sys.exit(main())
