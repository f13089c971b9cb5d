"""GPU memory of building and of serving, estimated from a model's architecture alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spanqa.manifest import TORCH
from spanqa_build.targets import Target
from spanqa_training.inference.fixed_length import batch_sizes
from spanqa_training.model import EncoderConfig

FP16_BYTES = 2
FLOAT32_BYTES = 4
MIB = 1 << 20
_CONTEXT_BYTES = 600 * MIB
"""Assumed for one process with CUDA, cuBLAS and TensorRT or torch loaded."""
_KERNELS_PER_LAYER = 20
"""Assumed for an unfused layer: 8 matrix products, and what lies between them."""
_GRAPH_BYTES_PER_KERNEL = 64 << 10
"""Assumed of what a CUDA graph keeps of one kernel launch."""
_GRAPH_COPIES = 3
"""Triton's TensorRT captures a graph once for each of its sets of events."""
_POOL_BYTES = 64 * MIB
"""What Triton sets aside on each GPU for tensors between models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuMemory:
    """GPU memory of a server with every engine loaded, estimated rather too high than too low.

    Args:
        weights_bytes: Each bucket's engine has its own, and so has each of its instances, as Triton shares no engine
            whose batch is dynamic.
        activations_bytes: Of the largest batch, in each bucket and instance.
        graphs_bytes: CUDA graphs, for each bucket, instance and batch.
        context_bytes: CUDA itself, the libraries, and Triton's pool.
    """

    weights_bytes: int
    activations_bytes: int
    graphs_bytes: int
    context_bytes: int

    @property
    def total_bytes(self) -> int:
        """The sum."""
        return self.weights_bytes + self.activations_bytes + self.graphs_bytes + self.context_bytes


def n_parameters(encoder: EncoderConfig) -> int:
    """Count the parameters of a model from its architecture."""
    size, wide, narrow = encoder.hidden_size, encoder.intermediate_size, encoder.table_width
    disentangled = encoder.position_scheme == "disentangled"
    positions = 0 if disentangled else encoder.max_positions + encoder.position_offset
    embeddings = (encoder.vocab_size + positions + encoder.type_vocab_size) * narrow
    projection = 0 if encoder.embedding_size is None else (narrow + 1) * size
    buckets = encoder.relative_buckets or 0
    distances = (2 * buckets + 2) * size if disentangled else buckets * encoder.num_heads
    attention = 4 * (size * size + size)
    feed_forward = 2 * size * wide + size + wide
    layers = (1 if encoder.shared_layers else encoder.num_layers) * (attention + feed_forward + 4 * size)
    # Each family has one norm outside its layers: on the embeddings (post-LN) or after the last layer (pre-LN).
    norm = 2 * (narrow if encoder.layer_norm == "post" else size)
    return embeddings + projection + distances + layers + norm + 2 * size + 2


def activation_bytes(encoder: EncoderConfig, n_rows: int, length: int) -> int:
    """Estimate the activations of one call from above: attention unfused, nothing else recomputed.

    Args:
        encoder: The architecture.
        n_rows: Windows of the call.
        length: Tokens of a window.

    Returns:
        Bytes that live at once: the residual stream in float32, and the larger of attention (query, key, value and
        result, with scores in float32 and probabilities in fp16) and feed-forward (before and after its activation).
    """
    size = encoder.hidden_size
    residual = (FLOAT32_BYTES + FP16_BYTES) * size
    # Beside scores and probabilities a bias by distance, or the scores of all distances and what is picked of them.
    score_bytes = FLOAT32_BYTES + FP16_BYTES + (FLOAT32_BYTES if encoder.position_scheme == "biased" else 0)
    attention = 4 * FP16_BYTES * size + score_bytes * encoder.num_heads * length
    if encoder.position_scheme == "disentangled":
        attention += 2 * FLOAT32_BYTES * encoder.num_heads * (length + 2 * (encoder.relative_buckets or 0))
    feed_forward = 2 * FP16_BYTES * encoder.intermediate_size
    return n_rows * length * (residual + max(attention, feed_forward))


def serving_memory(encoder: EncoderConfig, target: Target, lengths: Sequence[int], engine: str) -> GpuMemory:
    """Estimate what serving needs.

    Args:
        encoder: The architecture.
        target: The GPU.
        lengths: Tokens of the windows of each encoder.
        engine: What runs them; one of plan.ENGINES.
    """
    is_torch = engine == TORCH
    n_instances = len(lengths) * target.instances
    n_graphs = (
        len(batch_sizes(target.graph_batches, target.largest_batch))
        if is_torch
        else _GRAPH_COPIES * len(target.graph_batches)
    )
    activations = sum(activation_bytes(encoder, target.largest_batch, length) for length in lengths)
    return GpuMemory(
        weights_bytes=n_instances * FP16_BYTES * n_parameters(encoder),
        activations_bytes=target.instances * activations,
        graphs_bytes=n_instances * n_graphs * encoder.num_layers * _KERNELS_PER_LAYER * _GRAPH_BYTES_PER_KERNEL,
        # With torch every instance is a process of its own, beside Triton's.
        context_bytes=_CONTEXT_BYTES * (1 + n_instances * is_torch) + _POOL_BYTES,
    )


def building_bytes(encoder: EncoderConfig, target: Target, lengths: Sequence[int], engine: str) -> int:
    """Estimate what must be free to build: the largest engine, its scratch memory and CUDA; arguments as above."""
    weights = FP16_BYTES * n_parameters(encoder)
    activations = [activation_bytes(encoder, target.largest_batch, length) for length in lengths]
    if engine == TORCH:  # all lengths are held against the checkpoint at once
        return len(lengths) * weights + sum(activations) + _CONTEXT_BYTES
    needed = weights + max(activations) + _CONTEXT_BYTES
    # TensorRT holds the weights twice while it lays them out for the kernels that it times.
    return needed + weights + (target.workspace_mib << 20) if engine == "tensorrt" else needed
