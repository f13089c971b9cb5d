"""`spanqa build`: from a checkpoint to a model repository for a target, checked on the way."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from spanqa.manifest import TORCH
from spanqa_build.check import check_repository
from spanqa_build.comparison import Comparison, Stage, table_from_stages
from spanqa_build.cpu_build import CpuBuild
from spanqa_build.cpu_candidates import ENGINES as CPU_ENGINES
from spanqa_build.cpu_candidates import PRECISIONS
from spanqa_build.cpu_choice import PREFERENCES
from spanqa_build.cpu_gate import MAX_LOSS, verdict_of
from spanqa_build.errors import BuildError, ParityError
from spanqa_build.gpu_build import GpuBuild
from spanqa_build.parity import Parity, run_torch
from spanqa_build.plan import ENGINES, plan_from, table_from_plan
from spanqa_build.plan_commands import Wanted
from spanqa_build.questions import DEFAULT_DATA, add_data_option, questions_to_check
from spanqa_build.rehearsal.rehearsal import Rehearsal, Step
from spanqa_build.rehearsal.report import json_from_rehearsal, line_of_step, text_from_rehearsal
from spanqa_build.rollback import rollback_repository
from spanqa_build.targets import AUTO, CPU, all_targets, target_from_name
from spanqa_build.termination import terminable
from spanqa_build.torch_engine import DEVICES
from spanqa_training.checkpoints.checkpoint import Checkpoint, is_checkpoint, read_checkpoint
from spanqa_training.commands.arguments import add_key_option, key_from_args
from spanqa_training.model import SpanModel
from spanqa_training.weights.model_sources import open_model

_GPU_TARGETS = tuple(name for name, target in all_targets().items() if target.is_gpu)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("-m", "--model", help="checkpoint")
    parser.add_argument("-o", "--output", help="model repository to write, or to add a version to")
    add_key_option(parser)
    parser.add_argument(
        "--target", choices=(*all_targets(), AUTO), default=CPU, help="what it will run on (default: cpu)"
    )
    parser.add_argument(
        "--engine",
        choices=tuple(dict.fromkeys((*ENGINES, *CPU_ENGINES))),
        help=f"what runs the network: on a GPU {', '.join(ENGINES)} (default: {ENGINES[0]}), on a CPU"
        f" {', '.join(CPU_ENGINES)} (default: the faster, of those that are installed)",
    )
    parser.add_argument(
        "--device",
        choices=DEVICES,
        help=f"of --engine {TORCH} (default: {DEVICES[0]}); cpu builds the same in float32, to try it without a GPU",
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="on a CPU; auto takes whichever passes")
    parser.add_argument(
        "--prefer",
        choices=PREFERENCES,
        default=PREFERENCES[0],
        help="on a CPU, of the networks that pass: the fastest, or the most faithful within 10 %% of its speed",
    )
    add_data_option(parser)
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--plan", action="store_true", help="say what a build would make, need and run; needs no GPU")
    only.add_argument(
        "--rehearse",
        action="store_true",
        help="build for a GPU without one, with TensorRT for RTX as parser and builder (extra `rehearsal`)",
    )
    only.add_argument("--check", metavar="DIR", help="check a repository, build nothing")
    only.add_argument(
        "--served",
        metavar="H:P",
        help="hold what a running server answers against the checkpoint (-m), build nothing; fails where F1 falls by"
        f" more than {MAX_LOSS:g} points and by more than chance: as a server tells no precision, int8's limit",
    )
    only.add_argument("--rollback", metavar="DIR", help="make a repository's version before the newest the newest")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def run(args: argparse.Namespace) -> int:
    """Export, check, choose and write; an existing repository serves on until all checks pass."""
    with terminable():
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    if args.check or args.rollback:
        _refuse_beside_a_repository(args)
        return _check(args) if args.check else _rollback(args)
    if not args.model or not (args.output or args.plan or args.served or args.rehearse):
        raise BuildError(
            "-m CHECKPOINT and -o REPOSITORY say what to build; --plan, --rehearse and --served need -m alone, --check"
            " neither"
        )
    _refuse_what_means_nothing(args)
    if args.plan:
        return _plan(args)
    checkpoint, model = open_model(args.model, key=key_from_args(args))
    if args.served:
        return _served(args, checkpoint, model)
    target = target_from_name(args.target)
    common: dict[str, Any] = {
        "checkpoint": checkpoint,
        "model": model,
        "name": Path(args.model).resolve().stem,
        "data": args.data,
        "quiet": args.quiet,
    }
    if args.rehearse:
        return _rehearse(args, GpuBuild(**{**common, "quiet": True}, target=target))
    if target.is_gpu:
        engine, device = args.engine or ENGINES[0], args.device or DEVICES[0]
        manifest = GpuBuild(**common, target=target, engine=engine, device=device).write(args.output)
    else:
        cpu_build = CpuBuild(**common, engine=args.engine or AUTO, precision=args.precision, prefer=args.prefer)
        manifest = cpu_build.write(args.output)
    report = {"repository": args.output, "target": target.name, **manifest.encoder}
    print(json.dumps(report, indent=2) if args.json else table(report))
    return 0


def _refuse_beside_a_repository(args: argparse.Namespace) -> None:
    given = [f"--{name}" for name in ("model", "output", "engine", "device") if getattr(args, name)]
    given += [
        f"--{name}"
        for name, default in (("target", CPU), ("precision", PRECISIONS[0]), ("prefer", PREFERENCES[0]))
        if getattr(args, name) != default
    ]
    if given:
        what = "--check" if args.check else "--rollback"
        raise BuildError(f"{what} takes a repository as it is: leave {', '.join(given)} out")


def _refuse_what_means_nothing(args: argparse.Namespace) -> None:
    if args.served and (args.output or args.engine or args.device or args.target != CPU):
        raise BuildError("--served builds nothing: leave --output, --engine, --device and --target out")
    if args.target == AUTO and (args.rehearse or args.device == CPU):
        raise BuildError(f"--target {AUTO} looks for a GPU, which is not needed here: name {', '.join(_GPU_TARGETS)}")
    if args.device and args.engine != TORCH:
        raise BuildError(
            f"--device {args.device} is of --engine {TORCH}: give --target {', '.join(_GPU_TARGETS)} and"
            f" --engine {TORCH}, or leave --device out"
        )
    if args.target == CPU and args.engine and args.engine not in CPU_ENGINES:
        raise BuildError(f"--engine {args.engine} is for GPUs: name one with --target, or leave --engine out")
    if args.target != CPU and args.engine and args.engine not in ENGINES:
        raise BuildError(
            f"--engine {args.engine} is for --target {CPU}: give {', '.join(ENGINES)}, or leave --engine out"
        )
    if args.rehearse and (args.target == CPU or args.engine not in (None, ENGINES[0])):
        raise BuildError(
            f"--rehearse is of TensorRT's engines: give --target {', '.join(_GPU_TARGETS)}, and no other --engine"
        )
    if args.target != CPU and args.precision != PRECISIONS[0]:
        raise BuildError(f"--precision {args.precision} is for --target {CPU}: a GPU's network is float16")
    if args.target != CPU and args.prefer != PREFERENCES[0]:
        raise BuildError(f"--prefer {args.prefer} is for --target {CPU}: a GPU's network is one")


def _rehearse(args: argparse.Namespace, build: GpuBuild) -> int:
    report = Rehearsal(build, on_step=_say_nothing if args.json or args.quiet else _say_step).run(args.output)
    remaining = plan_from(build.checkpoint, build.target, wanted=_wanted(args, Wanted().output)).commands
    if args.json:
        print(json.dumps(json_from_rehearsal(build.target, report, remaining), indent=2))
    else:
        print(text_from_rehearsal(build.target, report, remaining))
    return 0


def _say_step(step: Step) -> None:
    print(line_of_step(step), flush=True)


def _say_nothing(_step: Step) -> None:
    pass


def _plan(args: argparse.Namespace) -> int:
    checkpoint = read_checkpoint(args.model) if is_checkpoint(args.model) else open_model(args.model)[0]
    target = target_from_name(args.target)
    wanted = _wanted(args, args.output or Wanted().output)
    engine, device = (args.target != CPU and args.engine) or ENGINES[0], args.device or DEVICES[0]
    plan = plan_from(checkpoint, target, engine=engine, device=device, wanted=wanted)
    print(json.dumps(plan.as_json(), indent=2) if args.json else table_from_plan(plan))
    return 0


def _wanted(args: argparse.Namespace, output: str) -> Wanted:
    data = None if args.data == DEFAULT_DATA else str(args.data)
    of_cpu = {}
    if args.target == CPU:
        of_cpu = {
            "engine": args.engine,
            "precision": None if args.precision == PRECISIONS[0] else args.precision,
            "prefer": None if args.prefer == PREFERENCES[0] else args.prefer,
        }
    return Wanted(model=args.model, output=output, data=data, key=args.key, **of_cpu)


def _served(args: argparse.Namespace, checkpoint: Checkpoint, model: SpanModel) -> int:
    reference = partial(run_torch, model.eval())
    comparison = Comparison(checkpoint, questions_to_check(args.data), reference, quiet=args.quiet)
    served = comparison.of_server("served", args.served)
    stages = [comparison.reference, served]
    print(json.dumps([asdict(stage) for stage in stages], indent=2) if args.json else table_from_stages(stages))
    verdict = verdict_of(comparison.paired(served))
    if not verdict.passes:
        raise ParityError(
            f"served against torch: {verdict.reason}: serve a repository that is built from this checkpoint"
        )
    return 0


def _rollback(args: argparse.Namespace) -> int:
    version = rollback_repository(args.rollback)
    told = f"{args.rollback}: version {version} is the one before the newest, again"
    print(json.dumps({"repository": args.rollback, "version": version}) if args.json else told)
    return 0


def _check(args: argparse.Namespace) -> int:
    checked = check_repository(args.check)
    report = {"versions": checked.versions, "target": checked.manifest.target, "lines": checked.lines}
    print(json.dumps(report, indent=2) if args.json else "\n".join(checked.lines))
    return 0


def table(report: Mapping[str, Any]) -> str:
    """The report of a build, to read."""
    lines = [
        f"repository   {report['repository']}",
        f"network      {report['precision']} for {report.get('target', 'cpu')}, checked on {report['checked_on']}",
        table_from_stages(_stages(report["stages"])),
    ]
    for name, speed in report.get("windows_per_s", {}).items():
        chosen = "  served" if name == report["variant"] else ""
        lines.append(f"{name:<17} {speed:.1f} windows/s{chosen}")
    lines += report.get("verdicts", {}).values()
    for engine in report.get("engines", ()):
        fused = ", ".join(engine["fused_attention"]) or "none seen"
        times = ", ".join(f"{ms:.2f} ms at batch {n_rows}" for n_rows, ms in engine["latency_ms"].items())
        lines.append(f"{engine['length']:<12} {times}; fused attention: {fused}")
    return "\n".join(lines)


def _stages(stages: Sequence[Mapping[str, Any]]) -> list[Stage]:
    return [Stage(**{**stage, "parity": Parity(**stage["parity"]) if stage["parity"] else None}) for stage in stages]
