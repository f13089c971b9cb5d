"""The config.pbtxt of every model, made from the wire contract as protobuf messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from spanqa import contract
from spanqa.contract import Tensor
from spanqa.manifest import Manifest

_TYPES = {"BYTES": pb.TYPE_STRING, "INT32": pb.TYPE_INT32, "FP32": pb.TYPE_FP32, "BOOL": pb.TYPE_BOOL}
MAX_QUESTIONS = 32
"""Most rows of a request to question_answering, and most questions in one of its batches."""
MAX_QUEUED_REQUESTS = 1024
"""Requests that may wait; one more is refused as UNAVAILABLE instead of waiting for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """One step of the ensemble: a model, and the tensors that it takes and gives under their own names."""

    model: str
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]


_STAGED_INPUTS = (contract.TOP_N, contract.NO_ANSWER_THRESHOLD, contract.MAX_ANSWER_TOKENS)
_PREPROCESS = _Step(
    model=contract.PREPROCESS,
    inputs=(contract.QUESTION, contract.CONTEXT),
    outputs=(*contract.ENCODER_INPUTS, *contract.STAGE_TENSORS),
)
_ENCODER = _Step(model=contract.ENCODER, inputs=contract.ENCODER_INPUTS, outputs=contract.ENCODER_OUTPUTS)
_POSTPROCESS = _Step(
    model=contract.POSTPROCESS,
    inputs=(contract.CONTEXT, *_STAGED_INPUTS, *contract.STAGE_TENSORS, *contract.ENCODER_OUTPUTS),
    outputs=contract.OUTPUTS,
)
_BATCHED = frozenset(
    tensor.name for tensor in (*contract.INPUTS, *contract.OUTPUTS, *contract.ENCODER_INPUTS, *contract.ENCODER_OUTPUTS)
)
"""Tensors whose first dimension is a row: in models without batching it is part of their shape."""


def config_texts(manifest: Manifest) -> dict[str, str]:
    """Make the text of each model's config.pbtxt.

    Args:
        manifest: The repository's settings.

    Returns:
        Text by model name.
    """
    encoder = _python_config(_ENCODER, max_batch_size=manifest.packing.rows_per_call, n_instances=1)
    main = _python_config(
        _Step(model=contract.QUESTION_ANSWERING, inputs=contract.INPUTS, outputs=contract.OUTPUTS),
        max_batch_size=MAX_QUESTIONS,
        n_instances=2,  # one reads and decodes while the encoder works for the other
    )
    main.dynamic_batching.default_queue_policy.max_queue_size = MAX_QUEUED_REQUESTS
    # float32, as the wire carries it: what a client sends back is what the server compares with.
    main.parameters["no_answer_threshold"].string_value = repr(manifest.decode.no_answer_threshold)
    main.parameters["max_answer_tokens"].string_value = str(manifest.decode.max_answer_tokens)
    configs = [
        _python_config(_PREPROCESS, max_batch_size=0, n_instances=1),
        encoder,
        _python_config(_POSTPROCESS, max_batch_size=0, n_instances=1),
        _ensemble_config(),
        main,
    ]
    return {config.name: text_format.MessageToString(config) for config in configs}


def _python_config(step: _Step, *, max_batch_size: int, n_instances: int) -> pb.ModelConfig:
    config = pb.ModelConfig(name=step.model, backend="python", max_batch_size=max_batch_size)
    _declare(config, step.inputs, step.outputs)
    config.instance_group.add(count=n_instances, kind=pb.ModelInstanceGroup.KIND_CPU)
    return config


def _ensemble_config() -> pb.ModelConfig:
    config = pb.ModelConfig(name=contract.ENSEMBLE, platform="ensemble", max_batch_size=0)
    _declare(config, contract.INPUTS, contract.OUTPUTS)
    for step in (_PREPROCESS, _ENCODER, _POSTPROCESS):
        added = config.ensemble_scheduling.step.add(model_name=step.model, model_version=-1)
        for tensor in step.inputs:
            added.input_map[tensor.name] = tensor.name
        for tensor in step.outputs:
            added.output_map[tensor.name] = tensor.name
    return config


def _declare(config: pb.ModelConfig, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    for tensor in inputs:
        config.input.add(
            name=tensor.name,
            data_type=_TYPES[tensor.dtype],
            dims=_dims(config, tensor),
            optional=tensor.optional,
        )
    for tensor in outputs:
        config.output.add(name=tensor.name, data_type=_TYPES[tensor.dtype], dims=_dims(config, tensor))


def _dims(config: pb.ModelConfig, tensor: Tensor) -> tuple[int, ...]:
    if config.max_batch_size or tensor.name not in _BATCHED:
        return tensor.dims
    rows = 1 if tensor in contract.INPUTS or tensor in contract.OUTPUTS else -1
    return (rows, *tensor.dims)
