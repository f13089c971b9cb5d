"""Is what the configurations of a repository with buckets say what Triton's backends take: read as those read it.

Triton refuses some of these faults when it loads, which is on the GPU; others it serves without a word, slower or from
too few bytes. build/README.md names the sources.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from spanqa import contract
from spanqa.limits import CONFIG_FILE
from spanqa.manifest import TORCH, Engine, Manifest
from spanqa.packing import Bucket
from spanqa_build.configs import ONNXRUNTIME, OPEN, PROFILE, TENSORRT, TYPES
from spanqa_build.errors import RepositoryError
from spanqa_build.warmup import WARMUP_FOLDER

_ITEM_BYTES = 4
"""Of an int32, which every input of an encoder is."""
_BACKENDS = {
    TENSORRT: ("tensorrt", "model.plan"),
    ONNXRUNTIME: ("onnxruntime", "model.onnx"),
    TORCH: ("python", "model.py"),
}
"""By platform: the backend that runs it, and the file that this one opens where the configuration names none."""
_NEWEST = pb.ModelVersionPolicy(latest=pb.ModelVersionPolicy.Latest(num_versions=1))
_CPU_ONLY = "FORCE_CPU_ONLY_INPUT_TENSORS"
"""The parameter with which a Python model may ask for its inputs where they lie; without it they come in CPU memory."""


def check_gpu_configs(repository: Path, manifest: Manifest) -> None:
    """Hold the configurations of a repository for a GPU against what Triton's backends do with them.

    Args:
        repository: The repository's folder, its configurations and warm-up files in place.
        manifest: Of the version that they are for; looked at where the encoders have buckets and an engine.

    Raises:
        RepositoryError: The first thing that Triton would refuse, or would not do as it is meant.
    """
    if manifest.engine is None or manifest.engine.platform not in _BACKENDS:
        return
    engines = {facts["length"]: facts["largest_batch"] for facts in manifest.encoder.get("engines", ())}
    for bucket in manifest.packing.buckets:
        path = repository / bucket.model / CONFIG_FILE
        most = min(bucket.max_rows, engines.get(bucket.length, bucket.max_rows))
        _Encoder(path=path, config=_read(path), bucket=bucket, engine=manifest.engine, largest_batch=most).check()
    for name in set(manifest.models) - {*manifest.packing.encoders, contract.ENSEMBLE}:
        path = repository / name / CONFIG_FILE
        _check_python(path, _read(path))
    for name in manifest.models:
        path = repository / name / CONFIG_FILE
        _check_versions(path, _read(path))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Encoder:
    """The configuration of one encoder, and what it must fit.

    Args:
        path: Its file.
        config: What that says.
        bucket: What the calls are.
        engine: How Triton runs it.
        largest_batch: Most rows that both the calls have and the engine's profile allows.
    """

    path: Path
    config: pb.ModelConfig
    bucket: Bucket
    engine: Engine
    largest_batch: int

    def check(self) -> None:
        config = self.config
        self._check_backend()
        if config.max_batch_size != self.largest_batch:
            raise _refusal(self.path, f"max_batch_size is {config.max_batch_size}", str(self.largest_batch))
        self._check_tensors()
        self._check_instances()
        if config.WhichOneof("scheduling_choice") != "dynamic_batching":
            raise _refusal(self.path, "dynamic_batching is missing", "it, or calls run one by one")
        self._check_graphs()
        self._check_warmup()

    def _check_backend(self) -> None:
        config = self.config
        backend, file = _BACKENDS[self.engine.platform]
        # A model of the Python backend has no platform; Triton knows the backend of its own platforms.
        platform = "" if self.engine.is_torch else self.engine.platform
        if (config.name, config.platform) != (self.bucket.model, platform):
            raise _refusal(
                self.path,
                f"is of {config.name} on {config.platform or 'no platform'}",
                f"{self.bucket.model} on {platform or 'none'}",
            )
        if config.backend != backend and (config.backend or self.engine.is_torch):
            raise _refusal(self.path, f"backend is {config.backend!r}", f"{backend!r}, which runs the network")
        if config.default_model_filename not in ("", file):
            raise _refusal(
                self.path, f"default_model_filename is {config.default_model_filename!r}", f"{file!r}, or nothing"
            )
        if self.engine.is_torch:
            _check_inputs_on_cpu(self.path, config)

    def _check_tensors(self) -> None:
        # Triton's ONNX Runtime compares outputs exactly, and the network leaves their length open.
        given = OPEN if self.engine.platform == ONNXRUNTIME else self.bucket.length
        for kind, declared, tensors, length in (
            ("input", self.config.input, contract.ENCODER_INPUTS, self.bucket.length),
            ("output", self.config.output, contract.ENCODER_OUTPUTS, given),
        ):
            found = [(one.name, pb.DataType.Name(one.data_type), list(one.dims)) for one in declared]
            expected = [(one.name, pb.DataType.Name(TYPES[one.dtype]), [length]) for one in tensors]
            if found != expected:
                raise _refusal(self.path, f"the {kind}s are {found}", str(expected))

    def _check_instances(self) -> None:
        needed = "KIND_GPU" if self.engine.device == "cuda" else "KIND_CPU"
        wanted = [PROFILE] if self.engine.platform == TENSORRT else []
        for group in self.config.instance_group:
            kind = pb.ModelInstanceGroup.Kind.Name(group.kind)
            if kind != needed:
                raise _refusal(self.path, f"instances are {kind}", f"{needed}, as the network is for a {needed[5:]}")
            if group.gpus:
                raise _refusal(
                    self.path, f"instances are on GPUs {list(group.gpus)}", "none named: it uses those shown"
                )
            if list(group.profile) != wanted:
                what = f"profile {PROFILE!r}, the only one of the engine" if wanted else "none: it has no profiles"
                raise _refusal(self.path, f"instances run profiles {list(group.profile)}", what)
        if not self.config.instance_group:
            raise _refusal(self.path, "instance_group is missing", f"one of {needed}")
        counts = [group.count for group in self.config.instance_group]
        if counts != [self.engine.instances]:
            raise _refusal(self.path, f"instance counts are {counts}", f"[{self.engine.instances}], as the manifest")

    def _check_graphs(self) -> None:
        cuda = self.config.optimization.cuda
        if self.engine.platform != TENSORRT and (cuda.graphs or cuda.graph_spec):
            raise _refusal(self.path, f"CUDA graphs are asked of {self.engine.platform}", f"none but of {TENSORRT}")
        if cuda.graphs != bool(cuda.graph_spec):
            raise _refusal(self.path, f"graphs is {cuda.graphs} with {len(cuda.graph_spec)} graph_spec", "both or none")
        for graph in cuda.graph_spec:
            what = f"a CUDA graph is for {graph.batch_size} rows"
            if not 1 <= graph.batch_size <= self.largest_batch:
                raise _refusal(self.path, what, f"1 to {self.largest_batch}, as calls have")
            if graph.HasField("graph_lower_bound"):
                raise _refusal(self.path, f"{what} or fewer", "no graph_lower_bound, under which rows of chance run")
            self._check_shapes(what, {name: list(shape.dim) for name, shape in graph.input.items()})
        fitting = [n_rows for n_rows in self.engine.graph_rows if n_rows <= self.largest_batch]
        wanted = sorted(fitting) if self.engine.platform == TENSORRT else []
        if (found := sorted(graph.batch_size for graph in cuda.graph_spec)) != wanted:
            raise _refusal(self.path, f"CUDA graphs are for {found} rows", f"{wanted}, as the manifest")

    def _check_warmup(self) -> None:
        if not self.config.model_warmup:
            raise _refusal(self.path, "model_warmup is missing", "a real window, before the model counts as ready")
        for sample in self.config.model_warmup:
            what = f"warm-up {sample.name!r}"
            if not 1 <= sample.batch_size <= self.largest_batch:
                raise _refusal(self.path, f"{what} has {sample.batch_size} rows", f"1 to {self.largest_batch}")
            if sample.count != self.engine.instances:
                raise _refusal(
                    self.path, f"{what} has count {sample.count}", f"{self.engine.instances}, one an instance"
                )
            self._check_shapes(what, {name: list(tensor.dims) for name, tensor in sample.inputs.items()})
            for name, tensor in sample.inputs.items():
                if tensor.data_type != pb.TYPE_INT32:
                    kind = pb.DataType.Name(tensor.data_type)
                    raise _refusal(self.path, f"{what} gives {name} as {kind}", "TYPE_INT32, as the model takes it")
                self._check_warmup_file(f"{what} reads {name}", tensor.input_data_file)
        given = {sample.batch_size for sample in self.config.model_warmup}
        if missing := sorted({1, self.largest_batch} - given):
            raise _refusal(self.path, f"no warm-up has {missing[0]} rows", "the smallest and the largest batch")

    def _check_shapes(self, what: str, shapes: dict[str, list[int]]) -> None:
        expected = {tensor.name: list(tensor.dims) for tensor in self.config.input}
        if strangers := sorted(shapes.keys() ^ expected.keys()):
            raise _refusal(self.path, f"{what} names {_listed(shapes)}", f"{_listed(expected)}: see {strangers[0]}")
        for name, dims in shapes.items():
            if dims != expected[name]:
                raise _refusal(self.path, f"{what} has {name} of {dims}", f"{expected[name]}, as the bucket's windows")

    def _check_warmup_file(self, what: str, name: str) -> None:
        # One row: Triton makes a batch of as many requests, each with the same bytes.
        n_bytes = _ITEM_BYTES * self.bucket.length
        file = self.path.parent / WARMUP_FOLDER / name
        found = f"has {file.stat().st_size:,} bytes" if name and file.is_file() else "is missing"
        if found != (wanted := f"has {n_bytes:,} bytes"):
            raise _refusal(self.path, f"{what} from {WARMUP_FOLDER}/{name}, which {found}", f"one that {wanted}")


def _check_python(path: Path, config: pb.ModelConfig) -> None:
    """Hold a Python model to the CPU: numpy reads no other memory, and a GPU would give it an instance on each."""
    for group in config.instance_group:
        if group.kind != pb.ModelInstanceGroup.KIND_CPU:
            raise _refusal(path, f"instances are {pb.ModelInstanceGroup.Kind.Name(group.kind)}", "KIND_CPU")
    if not config.instance_group:
        raise _refusal(path, "instance_group is missing, for which Triton puts KIND_GPU", "one of KIND_CPU")
    _check_inputs_on_cpu(path, config)


def _check_inputs_on_cpu(path: Path, config: pb.ModelConfig) -> None:
    if (asked := config.parameters[_CPU_ONLY].string_value) not in ("", "yes"):
        raise _refusal(path, f"{_CPU_ONLY} is {asked!r}", "yes, or nothing: numpy cannot read a GPU's memory")


def _check_versions(path: Path, config: pb.ModelConfig) -> None:
    """Hold any model to its newest version alone: the stages of one answer are of one build."""
    if config.version_policy != _NEWEST:
        found = " ".join(text_format.MessageToString(config.version_policy).split())
        raise _refusal(path, f"version_policy is {found or 'missing'}", "the latest version alone")


def _read(path: Path) -> pb.ModelConfig:
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), pb.ModelConfig())
    except OSError as error:
        raise RepositoryError(f"{path}: cannot be read: {error.strerror}: build the repository again") from error
    except (ValueError, text_format.ParseError) as error:
        reason = " ".join(str(error).split())
        raise RepositoryError(
            f"{path}: is no configuration of Triton's: {reason}: build the repository again"
        ) from error


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


def _refusal(path: Path, found: str, wanted: str) -> RepositoryError:
    return RepositoryError(f"{path}: {found}, and Triton needs {wanted}: build the repository again")
