"""A rehearsal as text and as JSON: its steps, what TensorRT saw, what is proven by it and what is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from spanqa_build.rehearsal.rehearsal import Rehearsed, Step
from spanqa_build.targets import Target

_MIB = 1 << 20


def line_of_step(step: Step) -> str:
    """Give the line of one step: name, seconds, size, what it showed."""
    size = f"{step.size_bytes / _MIB:>8,.1f} MiB" if step.size_bytes is not None else " " * 12
    return f"{step.name:<12}{step.seconds:>7.1f} s  {size}  {step.found}"


def rehearsed(target: Target, report: Rehearsed) -> list[str]:
    """Say what a rehearsal has shown, one clause each."""
    lengths = ", ".join(str(engine.length) for engine in report.engines)
    return [
        f"{report.builder}, NVIDIA's parser and builder of today, takes the network with its precisions as written",
        f"it builds the engines for {lengths} tokens with the profile, batches and layer norm of {target.name}",
        "float16, every result rounded as a GPU rounds it, answers as the checkpoint does",
        "the repository is written and its configurations are checked as the build does it",
    ]


def unproven(target: Target) -> list[str]:
    """Say what only the GPU can show, one clause each."""
    found = [
        f"that {target.tensorrt_package} takes the network: it is another release, held by a table of its operators"
        " and the signatures of its bindings alone",
        f"that engines run and answer on {target.description}: speed, memory, CUDA graphs, tactic sources and timing"
        " caches",
        "that Triton's TensorRT backend loads them: its source was read, and it was not run",
    ]
    if target.compute_capabilities == ("7.0",):
        found.append("anything of compute capability 7.0: TensorRT for RTX builds for 7.5 and newer")
    return found


def text_from_rehearsal(target: Target, report: Rehearsed, remaining: Sequence[str]) -> str:
    """Give what follows the lines of the steps, to read."""
    lines = ["", f"{'layers that compute with floats':<34}{'precision':<22}{'number':>6}"]
    for role, counts in report.layers.items():
        for precision, n in counts.items():
            lines.append(f"{role:<34}{precision:<22}{n:>6,}")
    for title, clauses in (
        ("Rehearsed", rehearsed(target, report)),
        ("Unproven, for want of the GPU", unproven(target)),
        ("What remains, where the GPU is", remaining),
    ):
        lines += ["", f"{title}:", *(f"  {clause}" for clause in clauses)]
    return "\n".join(lines)


def json_from_rehearsal(target: Target, report: Rehearsed, remaining: Sequence[str]) -> dict[str, Any]:
    """Give a rehearsal as JSON values."""
    return {
        **asdict(report),
        "rehearsed": rehearsed(target, report),
        "unproven": unproven(target),
        "remaining": list(remaining),
    }
