"""How large a network's activations become on real windows, and which of them float16 must not hold."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from spanqa.contract import ATTENTION_MASK, ENCODER_OUTPUTS, INPUT_IDS, TOKEN_TYPE_IDS
from spanqa.windows import Batch
from spanqa_build.errors import PrecisionError
from spanqa_build.network_file import write_network
from spanqa_build.parity import session_from_onnx
from spanqa_build.precision import float16_tensors

LIMIT = 30_000.0
"""Largest magnitude trusted to float16, which ends at 65,504: a factor of two for windows that were not scanned, and
for partial sums where a GPU adds in float16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationScan:
    """What a scan found.

    Args:
        n_windows: Windows scanned.
        limit: Largest magnitude trusted to float16.
        largest: Largest magnitude of every tensor that is float16 where nothing is kept, in the order of the graph.
    """

    n_windows: int
    limit: float
    largest: Mapping[str, float]

    @property
    def float32_tensors(self) -> tuple[str, ...]:
        """The tensors to keep in float32: those beyond the limit."""
        return tuple(name for name, largest in self.largest.items() if largest > self.limit)

    def table(self, n_rows: int = 10) -> str:
        """Say what was found, with the `n_rows` largest tensors and every one that is kept in float32."""
        kept = set(self.float32_tensors)
        ordered = sorted(self.largest.items(), key=lambda item: -item[1])
        rows = [(f"{value:,.1f}", "float32" if name in kept else "float16", name) for name, value in ordered]
        lines = [f"{'largest':>16}  {'held in':<7}  tensor"]
        lines += [f"{value:>16}  {kind:<7}  {name}" for value, kind, name in rows[: max(n_rows, len(kept))]]
        lines.append(
            f"{len(kept)} of {len(self.largest)} tensors pass {self.limit:,.0f} on {self.n_windows} windows"
            " and are kept in float32"
        )
        return "\n".join(lines)


def scan_activations(network: onnx.ModelProto, batches: Iterable[Batch], *, limit: float = LIMIT) -> ActivationScan:
    """Measure a network on real windows, in float32 arithmetic.

    Args:
        network: A graph by `float32_graph`; it is left as it is.
        batches: Real windows; padding counts too, since its states are computed like the others.
        limit: Largest magnitude trusted to float16.

    Raises:
        PrecisionError: There are no windows, or the network is not finite even in float32.
    """
    names = float16_tensors(network)
    outputs = [tensor.name for tensor in ENCODER_OUTPUTS]
    largest = np.zeros(len(names), dtype=np.float32)
    n_windows = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        _write_probed(network, names, path)
        session = session_from_onnx(path)
        for batch in batches:
            n_windows += len(batch.input_ids)
            feeds = {
                INPUT_IDS.name: batch.input_ids,
                ATTENTION_MASK.name: batch.attention_mask,
                TOKEN_TYPE_IDS.name: batch.token_type_ids,
            }
            start, end, *found = session.run([*outputs, *map(_probe_of, names)], feeds)
            largest = np.maximum(largest, np.array(found, dtype=np.float32))
            # A NaN may hide from the maxima; it does not from the logits.
            if not all(np.isfinite(values).all() for values in (start, end, largest)):
                raise PrecisionError(
                    "the network's activations are not finite even in float32: its weights are broken; use another"
                    " checkpoint"
                )
    if not n_windows:
        raise PrecisionError("no windows to scan the network's activations on: give some real questions")
    return ActivationScan(
        n_windows=n_windows, limit=limit, largest=dict(zip(names, largest.tolist(), strict=True))
    )  # fmt: skip


def _probe_of(name: str) -> str:
    return f"{name}.largest"


def _write_probed(network: onnx.ModelProto, names: Iterable[str], path: Path) -> None:
    """Write a network with the largest magnitudes of tensors as further outputs."""
    graph = network.graph
    n_nodes, n_outputs = len(graph.node), len(graph.output)
    try:
        for name in names:
            probe = _probe_of(name)
            graph.node.append(helper.make_node("Abs", [name], [f"{probe}.abs"], f"{probe}.abs"))
            graph.node.append(helper.make_node("ReduceMax", [f"{probe}.abs"], [probe], probe, keepdims=0))
            graph.output.append(helper.make_tensor_value_info(probe, TensorProto.FLOAT, []))
        write_network(network, path)
    finally:
        del graph.node[n_nodes:], graph.output[n_outputs:]
