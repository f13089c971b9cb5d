"""The config.pbtxt of every model, made from the wire contract as protobuf messages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from spanqa import contract
from spanqa.contract import Tensor
from spanqa.limits import Limits, limits_from_config
from spanqa.manifest import Engine, Manifest
from spanqa.packing import Bucket

TYPES = {"BYTES": pb.TYPE_STRING, "INT32": pb.TYPE_INT32, "FP32": pb.TYPE_FP32, "BOOL": pb.TYPE_BOOL}
TENSORRT = "tensorrt_plan"
ONNXRUNTIME = "onnxruntime_onnx"
"""Triton's names of the formats that its own backends run."""
PROFILE = "0"
"""The one optimization profile of an engine, by its number, as Triton reads names of profiles."""
OPEN = -1
"""A dimension that a request decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """One step of the ensemble: a model, and the tensors that it takes and gives under their own names."""

    model: str
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]


_STAGED_INPUTS = tuple(tensor for tensor in contract.INPUTS if tensor.optional)
_PREPROCESS = _Step(
    model=contract.PREPROCESS,
    inputs=(contract.QUESTION, contract.CONTEXT),
    outputs=(*contract.ENCODER_INPUTS, *contract.STAGE_TENSORS),
)
_POSTPROCESS = _Step(
    model=contract.POSTPROCESS,
    inputs=(contract.CONTEXT, *_STAGED_INPUTS, *contract.STAGE_TENSORS, *contract.ENCODER_OUTPUTS),
    outputs=contract.OUTPUTS,
)
_BATCHED = frozenset(
    tensor.name for tensor in (*contract.INPUTS, *contract.OUTPUTS, *contract.ENCODER_INPUTS, *contract.ENCODER_OUTPUTS)
)
"""Tensors whose first dimension is a row: in models without batching it is part of their shape."""


def config_texts(manifest: Manifest, limits: Limits | None = None, *, version: int = 1) -> dict[str, str]:
    """Make the text of each model's config.pbtxt.

    Args:
        manifest: The repository's settings.
        limits: What its entries take on; the defaults where none are given.
        version: The version that they are for: the ensemble's stages are of one build.

    Returns:
        Text by model name.
    """
    limits = limits or Limits()
    configs = [
        _preprocess_config(limits),
        *_encoder_configs(manifest),
        _python_config(_POSTPROCESS, max_batch_size=0, n_instances=1),
        _ensemble_config(manifest, version),
        _main_config(manifest, limits),
    ]
    for config in configs:
        config.version_policy.latest.num_versions = 1
    return {config.name: text_format.MessageToString(config) for config in configs}


def limits_from_text(text: str, manifest: Manifest) -> Limits:
    """Read the limits from the text of the main entry's configuration.

    Args:
        text: Of its config.pbtxt.
        manifest: Has the longest context of repositories that were built when it was no parameter.

    Raises:
        ParseError: If it is no configuration.
        SettingsError: If a limit is none.
    """
    config = text_format.Parse(text, pb.ModelConfig())
    values = {name: {"string_value": value.string_value} for name, value in config.parameters.items()}
    return limits_from_config(json.dumps({"parameters": values}), manifest)


def _preprocess_config(limits: Limits) -> pb.ModelConfig:
    config = _python_config(_PREPROCESS, max_batch_size=0, n_instances=1)
    config.parameters["max_context_bytes"].string_value = str(limits.max_context_bytes)
    return config


def _main_config(manifest: Manifest, limits: Limits) -> pb.ModelConfig:
    config = _python_config(
        _Step(model=contract.QUESTION_ANSWERING, inputs=contract.INPUTS, outputs=contract.OUTPUTS),
        max_batch_size=contract.MAX_ROWS,
        # On a CPU one process has a worker for each core. Of two beside a GPU one reads and decodes while the encoders
        # work for the other.
        n_instances=1 if manifest.engine is None and not manifest.packing.buckets else 2,
    )
    # No dynamic batching: the model gathers windows of all requests by itself, and Triton's Python backend refuses a
    # whole batch for one text that its sender cut off.
    # For people who read a configuration: no client does, as only the version that answers knows its own.
    config.parameters["no_answer_threshold"].string_value = repr(manifest.decode.no_answer_threshold)
    config.parameters["max_answer_tokens"].string_value = str(manifest.decode.max_answer_tokens)
    for name, value in limits.parameters().items():
        config.parameters[name].string_value = str(value)
    if manifest.packing.buckets:
        table = json.dumps([asdict(bucket) for bucket in manifest.packing.buckets])
        config.parameters["buckets"].string_value = table
    return config


def _encoder_step(model: str) -> _Step:
    return _Step(model=model, inputs=contract.ENCODER_INPUTS, outputs=contract.ENCODER_OUTPUTS)


def _encoder_configs(manifest: Manifest) -> list[pb.ModelConfig]:
    if manifest.engine is None:
        sizes = [(bucket.model, bucket.max_rows) for bucket in manifest.packing.buckets]
        return [
            _python_config(_encoder_step(model), max_batch_size=max_rows, n_instances=1)
            for model, max_rows in sizes or [(contract.ENCODER, manifest.packing.rows_per_call)]
        ]
    return [_engine_config(bucket, manifest.engine) for bucket in manifest.packing.buckets]


def _engine_config(bucket: Bucket, engine: Engine) -> pb.ModelConfig:
    """One encoder for rows of one length, so that captured graphs fit what comes."""
    config = pb.ModelConfig(name=bucket.model, max_batch_size=bucket.max_rows)
    if engine.is_torch:
        config.backend = "python"
    else:
        config.platform = engine.platform
    step = _encoder_step(bucket.model)
    _declare(config, step.inputs, step.outputs)
    for tensor in config.input:
        tensor.dims[:] = [bucket.length]
    # Triton's ONNX Runtime takes an output only as the network declares it, and one network serves every length.
    output_length = OPEN if engine.platform == ONNXRUNTIME else bucket.length
    for tensor in config.output:
        tensor.dims[:] = [output_length]
    kind = pb.ModelInstanceGroup.KIND_GPU if engine.device == "cuda" else pb.ModelInstanceGroup.KIND_CPU
    group = config.instance_group.add(count=engine.instances, kind=kind)
    config.dynamic_batching.SetInParent()  # the ensemble's requests come one by one
    if engine.platform == TENSORRT:
        group.profile.append(PROFILE)  # Triton loads only the profiles that are listed
        _declare_graphs(config, engine.graph_rows)
    for n_rows in sorted({1, bucket.max_rows}):
        # Triton's TensorRT gives a call to its next instance, whichever is being loaded: as many calls, one for each.
        sample = config.model_warmup.add(name=f"rows_{n_rows}", batch_size=n_rows, count=engine.instances)
        for tensor in config.input:
            sample.inputs[tensor.name].CopyFrom(
                pb.ModelWarmup.Input(data_type=tensor.data_type, dims=tensor.dims, input_data_file=tensor.name)
            )
    return config


def _declare_graphs(config: pb.ModelConfig, graph_rows: Sequence[int]) -> None:
    """Have a CUDA graph captured for each batch size, with every input's shape named."""
    sizes = [n_rows for n_rows in graph_rows if n_rows <= config.max_batch_size]
    config.optimization.cuda.graphs = bool(sizes)
    for n_rows in sizes:
        graph = config.optimization.cuda.graph_spec.add(batch_size=n_rows)
        for tensor in config.input:
            graph.input[tensor.name].dim[:] = tensor.dims


def _python_config(step: _Step, *, max_batch_size: int, n_instances: int) -> pb.ModelConfig:
    config = pb.ModelConfig(name=step.model, backend="python", max_batch_size=max_batch_size)
    _declare(config, step.inputs, step.outputs)
    config.instance_group.add(count=n_instances, kind=pb.ModelInstanceGroup.KIND_CPU)
    return config


def _ensemble_config(manifest: Manifest, version: int) -> pb.ModelConfig:
    config = pb.ModelConfig(name=contract.ENSEMBLE, platform="ensemble", max_batch_size=0)
    _declare(config, contract.INPUTS, contract.OUTPUTS)
    for step in (_PREPROCESS, _encoder_step(manifest.packing.encoders[-1]), _POSTPROCESS):
        added = config.ensemble_scheduling.step.add(model_name=step.model, model_version=version)
        for tensor in step.inputs:
            added.input_map[tensor.name] = tensor.name
        for tensor in step.outputs:
            added.output_map[tensor.name] = tensor.name
    return config


def _declare(config: pb.ModelConfig, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    for tensor in inputs:
        config.input.add(
            name=tensor.name,
            data_type=TYPES[tensor.dtype],
            dims=_dims(config, tensor),
            optional=tensor.optional,
        )
    for tensor in outputs:
        config.output.add(name=tensor.name, data_type=TYPES[tensor.dtype], dims=_dims(config, tensor))


def _dims(config: pb.ModelConfig, tensor: Tensor) -> tuple[int, ...]:
    if config.max_batch_size or tensor.name not in _BATCHED:
        return tensor.dims
    rows = 1 if tensor in contract.INPUTS or tensor in contract.OUTPUTS else -1
    return (rows, *tensor.dims)
