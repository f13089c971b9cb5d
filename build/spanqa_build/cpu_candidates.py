"""The networks that a CPU could serve: each by what runs it and in which precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

from spanqa.cpu_network import CpuNetwork, load_network
from spanqa.openvino_network import INSTALL, OPENVINO
from spanqa_build.cpu import CpuNetworks
from spanqa_build.errors import BuildError, ParityError
from spanqa_build.openvino_export import (
    openvino_from_onnx,
    openvino_is_installed,
    openvino_version,
    precisions_here,
)

AUTO = "auto"
ONNX_RUNTIME = "onnxruntime"
ENGINES = (ONNX_RUNTIME, OPENVINO)
"""What runs a network on a CPU."""
PRECISIONS = (AUTO, "float32", "bfloat16", "int8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A network that could be served.

    Args:
        name: For reports.
        path: Its file.
        engine: One of ENGINES.
        precision: What its products are computed in: float32, bfloat16 or int8.
        is_needed: Whether the build fails where it is not the checkpoint's network; else it is left out.
    """

    name: str
    path: Path
    engine: str
    precision: str
    is_needed: bool = False

    def load(self, *, n_threads: int) -> CpuNetwork:
        """Load it as it is served.

        Raises:
            ParityError: What runs it cannot load it.
        """
        try:
            return load_network(self.path, n_threads=n_threads)
        except Exception as error:  # onnxruntime has a class for each status and no common base
            raise ParityError(f"{self.name}: {self.engine} cannot load it: {error}") from error


def check_wanted(engine: str, precision: str) -> None:
    """Refuse what this machine cannot build: before the work.

    Args:
        engine: One of ENGINES, or AUTO.
        precision: One of PRECISIONS.

    Raises:
        BuildError: There is no such network here.
    """
    if engine == OPENVINO and not openvino_is_installed():
        raise BuildError(f"--engine {OPENVINO}: OpenVINO is not installed: {INSTALL}, or leave --engine out")
    if not _offered(engine, precision):
        raise BuildError(
            f"no network in {precision} for {'ONNX Runtime or OpenVINO' if engine == AUTO else engine} on this machine:"
            f" bfloat16 is OpenVINO's ({INSTALL}), on cores with AVX512_BF16 or AMX; give"
            f" another --precision or --engine"
        )


def candidates_from_networks(networks: CpuNetworks, folder: Path, *, engine: str, precision: str) -> list[Candidate]:
    """Give the candidates, and write those of OpenVINO.

    Args:
        networks: The ONNX networks.
        folder: Where OpenVINO's are written.
        engine: One of ENGINES, or AUTO for both, OpenVINO where it is installed.
        precision: One of PRECISIONS.

    Raises:
        BuildError: OpenVINO cannot read the network.
    """
    files = {"plain": networks.plain, "float32": networks.float32, "int8": networks.int8}
    made = []
    offered = _offered(engine, precision)
    for name, of_engine, of_precision in offered:
        if of_engine == OPENVINO:
            path = openvino_from_onnx(networks.plain, folder / name, precision=of_precision)
        else:
            path = files[name]
        is_needed = (
            of_engine != OPENVINO or engine == OPENVINO
            if of_precision == "float32"
            else precision != AUTO and len(offered) == 1  # another of the same precision may pass
        )
        made.append(Candidate(name=name, path=path, engine=of_engine, precision=of_precision, is_needed=is_needed))
    return made


def versions_of(candidates: Sequence[Candidate]) -> dict[str, str]:
    """The releases of what runs the candidates."""
    engines = {candidate.engine for candidate in candidates}
    versions = {ONNX_RUNTIME: onnxruntime.__version__}
    return versions | ({OPENVINO: openvino_version()} if OPENVINO in engines else {})


def _offered(engine: str, precision: str) -> list[tuple[str, str, str]]:
    """Name, engine and precision of each candidate of this machine that is asked for."""
    onnx_networks = [("float32", "float32"), ("int8", "int8")]
    if precision == AUTO:
        onnx_networks.insert(0, ("plain", "float32"))
    all_networks = [(name, ONNX_RUNTIME, of) for name, of in onnx_networks]
    if engine != ONNX_RUNTIME and openvino_is_installed():
        all_networks += [(f"{OPENVINO}_{of}", OPENVINO, of) for of in precisions_here()]
    return [
        (name, of_engine, of_precision)
        for name, of_engine, of_precision in all_networks
        if engine in (AUTO, of_engine) and precision in (AUTO, of_precision)
    ]
