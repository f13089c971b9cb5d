"""TensorRT without its libraries: objects with exactly the members of the real classes, run by ONNX Runtime.

Every member that is touched must exist in the real class, and every call must fit one of its signatures. A plan is the
ONNX file with the shapes and settings that it was built with.
"""

import ctypes
import inspect
import json
import sys
import types

import numpy as np
import onnxruntime
import signatures

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUTS = ("start_logits", "end_logits")
LAYER_NAMES = ["/layers.0/attention/MatMul+Softmax", "__myl_Fc_0x1f", "_gemm_mha_v2_0x0123abcd"]
MAGIC = b"PLAN"


class Fake:
    """An object of a real class; what it does beyond answering with its class's declared types is in `behaviour`."""

    def __init__(self, kind, **behaviour):
        object.__setattr__(self, "_kind", kind)
        object.__setattr__(self, "_behaviour", behaviour)

    @property
    def __class__(self):
        return self._kind

    def __getattr__(self, name):
        module = sys.modules["tensorrt"]
        member = inspect.getattr_static(self._kind, name, None)
        if member is None:
            raise AttributeError(f"{self._kind.__name__} has no {name}")
        module.used.add(f"{self._kind.__name__}.{name}")
        if isinstance(member, property):
            return self._behaviour.get(name, 0)

        def call(*args, **kwargs):
            where = f"{self._kind.__name__}.{name}"
            returns = signatures.bind(module.real, where, getattr(self._kind, name), args, kwargs)
            if name in self._behaviour:
                return self._behaviour[name](*args, **kwargs)
            kind = getattr(module.real, returns, None)
            return Fake(kind) if isinstance(kind, type) else {"bool": True, "int": 0}.get(returns)

        return call

    def __setattr__(self, name, value):
        member = inspect.getattr_static(self._kind, name, None)
        if not isinstance(member, property) or member.fset is None:
            raise AttributeError(f"{self._kind.__name__} has no {name} to set")
        sys.modules["tensorrt"].used.add(f"{self._kind.__name__}.{name}")
        self._behaviour[name] = value

    def __len__(self):
        return 0

    def __bool__(self):
        return True

    def __iter__(self):
        return iter(())


def allocate(allocator, name, n_bytes, stream):
    """Ask for memory as TensorRT does: the newer of two methods, where the allocator has it."""
    if hasattr(allocator, "reallocate_output_async"):
        return allocator.reallocate_output_async(name, 0, n_bytes, 256, stream)
    return allocator.reallocate_output(name, 0, n_bytes, 256)


class HostMemory(bytes):
    """A serialized engine or timing cache."""

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        return None


class TensorRT(types.ModuleType):
    """The real bindings, but for the classes that would ask the missing libraries for an object."""

    def __init__(self, real):
        super().__init__("tensorrt")
        self.real = real
        self.used = set()
        self.faults = set()
        self.built = []

    def __getattr__(self, name):
        value = getattr(self.real, name)
        self.used.add(name)
        return value

    def fits(self, kind, *args):
        signatures.bind(self.real, kind.__name__, kind.__init__, args, {})
        self.used.add(kind.__name__)

    def log_error(self, logger, message):
        logger.log(self.real.ILogger.Severity.ERROR, message)

    def Builder(self, logger):
        self.fits(self.real.Builder, logger)

        def network(flags=0):
            typed = bool(flags & 1 << int(self.real.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
            inputs = [Fake(self.real.ITensor, name=name, shape=(-1, -1), is_shape_tensor=False) for name in INPUTS]
            fake = Fake(self.real.INetworkDefinition, num_inputs=3, get_input=lambda index: inputs[index])
            fake._behaviour.update(onnx=None, typed=typed)
            return fake

        def build(network, config):
            if "build" in self.faults:
                self.log_error(logger, "Error Code 10: Internal Error (Could not find any implementation for node X.)")
                return None
            settings = {**config._behaviour["recorded"], "strongly_typed": network._behaviour["typed"]}
            settings["optimization_level"] = config.builder_optimization_level
            settings["verbosity"] = config.profiling_verbosity.name
            self.built.append(settings)
            config._behaviour["attached"]["cache"]._behaviour["parts"].append(b"measured")
            return HostMemory(MAGIC + json.dumps(settings).encode() + b"\n" + network._behaviour["onnx"])

        return Fake(
            self.real.Builder,
            create_network=network,
            create_builder_config=lambda: self._config(),
            create_optimization_profile=self._profile,
            build_serialized_network=build,
        )

    def _profile(self):
        shapes = {}
        return Fake(
            self.real.IOptimizationProfile,
            set_shape=lambda input, min, opt, max: shapes.update({input: [min, opt, max]}),
            shapes=shapes,
        )

    def _config(self):
        recorded, attached = {"tactic_sources": [], "profiles": []}, {}

        def timing_cache(content):
            parts = [bytes(content)]
            return Fake(self.real.ITimingCache, parts=parts, serialize=lambda: HostMemory(b"".join(parts)))

        def attach(cache, ignore_mismatch):
            attached["cache"] = cache
            recorded["cache_read"] = len(cache._behaviour["parts"][0])
            return True

        def tactics(mask):
            every = self.real.TacticSource.__members__.items()
            recorded["tactic_sources"] = [name for name, value in every if mask & 1 << int(value)]
            return True

        return Fake(
            self.real.IBuilderConfig,
            recorded=recorded,
            attached=attached,
            DLA_core=-1,
            default_device_type=self.real.DeviceType.GPU,
            add_optimization_profile=lambda profile: recorded["profiles"].append(profile._behaviour["shapes"]) or 0,
            set_memory_pool_limit=lambda pool, pool_size: recorded.update({pool.name: pool_size}),
            set_tactic_sources=tactics,
            create_timing_cache=timing_cache,
            set_timing_cache=attach,
            get_timing_cache=lambda: attached["cache"],
        )

    def OnnxParser(self, network, logger):
        self.fits(self.real.OnnxParser, network, logger)

        def parse(path):
            with open(path, "rb") as file:
                network._behaviour["onnx"] = file.read()
            if network._behaviour["onnx"]:
                return True
            self.log_error(logger, "ModelImporter.cpp: Failed to parse ONNX model from file")
            return False

        return Fake(self.real.OnnxParser, parse_from_file=parse, num_errors=0)

    def Runtime(self, logger):
        self.fits(self.real.Runtime, logger)

        def deserialize(plan):
            if not bytes(plan).startswith(MAGIC):
                self.log_error(logger, "Error Code 1: Serialization (magicTag mismatch)")
                return None
            settings, _, onnx = bytes(plan)[len(MAGIC) :].partition(b"\n")
            return self._engine(json.loads(settings), onnx)

        return Fake(self.real.Runtime, deserialize_cuda_engine=deserialize)

    def _engine(self, settings, onnx):
        names, real = (*INPUTS, *OUTPUTS), self.real
        mode = {name: real.TensorIOMode.INPUT if name in INPUTS else real.TensorIOMode.OUTPUT for name in names}
        inspector = Fake(
            real.EngineInspector,
            get_engine_information=lambda format: json.dumps({"Layers": [{"Name": name} for name in LAYER_NAMES]}),
        )
        engine = Fake(
            real.ICudaEngine,
            num_io_tensors=len(names),
            num_layers=len(LAYER_NAMES),
            device_memory_size_v2=12345,
            get_tensor_name=names.__getitem__,
            get_tensor_mode=mode.__getitem__,
            get_tensor_format=lambda *args: real.TensorFormat.LINEAR,
            get_tensor_dtype=lambda name: real.DataType.INT32 if name in INPUTS else real.DataType.FLOAT,
            get_tensor_shape=lambda name: (-1, -1),
            is_shape_inference_io=lambda name: False,
            get_aliased_input_tensor=lambda name: None,
            create_engine_inspector=lambda: inspector,
            create_execution_context=lambda *strategy: self._context(engine, settings, onnx),
        )
        return engine

    def _context(self, engine, settings, onnx):
        session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
        shapes, addresses, allocators, kept = {}, {}, {}, {}
        fewest, _, most = settings["profiles"][0]["input_ids"]

        def set_shape(name, shape):
            shapes[name] = tuple(shape)
            return shape[1] == most[1] and fewest[0] <= shape[0] <= most[0]

        def execute(stream):
            if "run" in self.faults:
                return False
            texts = [ctypes.string_at(addresses[name], 4 * int(np.prod(shapes[name]))) for name in INPUTS]
            if tuple(texts) not in kept:  # timing repeats one call
                arrays = [np.frombuffer(text, np.int32).reshape(shapes["input_ids"]) for text in texts]
                kept[tuple(texts)] = session.run(list(OUTPUTS), dict(zip(INPUTS, arrays, strict=True)))
            for name, array in zip(OUTPUTS, kept[tuple(texts)], strict=True):
                address = allocate(allocators[name], name, array.nbytes, stream)
                ctypes.memmove(address, np.ascontiguousarray(array).ctypes.data, array.nbytes)
                allocators[name].notify_shape(name, array.shape)
            return True

        return Fake(
            self.real.IExecutionContext,
            engine=engine,
            get_tensor_shape=lambda name: shapes.get(name, (-1, -1)),
            get_tensor_address=lambda name: addresses.get(name, 0),
            set_input_shape=set_shape,
            set_tensor_address=lambda name, address: addresses.update({name: address}) is None,
            set_output_allocator=lambda name, allocator: allocators.update({name: allocator}) is None,
            execute_async_v3=execute,
        )
