"""`spanqa export`: a checkpoint as a packed ONNX, a Triton model repository or a Hugging Face folder."""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

from spanqa_build.commands.build import table
from spanqa_build.cpu_build import PARITY_QUESTIONS, CpuBuild, checked_parity
from spanqa_build.onnx_export import onnx_from_model
from spanqa_build.questions import add_data_option, questions_to_check
from spanqa_build.termination import terminable
from spanqa_training.checkpoints.checkpoint import Checkpoint
from spanqa_training.checkpoints.packed_network import save_packed_network
from spanqa_training.commands.arguments import (
    ANSWERING_KEYS,
    Request,
    add_overrides,
    add_spec_options,
    note,
    request_from_args,
)
from spanqa_training.inference.decode_settings import decode_settings, threshold_from_spec
from spanqa_training.model import SpanModel
from spanqa_training.weights.hugging_face import write_hugging_face
from spanqa_training.weights.model_sources import open_model, restored_path

SUFFIXES = {"ONNX": ".eonnx", "RIVA": ".riva", "JARVIS": ".riva", "HF": ""}
"""What each format's name ends with; JARVIS is what RIVA was called at first."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_spec_options(parser)
    parser.add_argument("-o", "--output", type=Path, help="what to write (default: the spec's export_to below -r)")
    add_data_option(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress")
    add_overrides(parser)


def run(args: argparse.Namespace) -> int:
    """Export in the format that the spec names."""
    request = request_from_args(
        args,
        uses={"export_format", "export_to"},
        reads=ANSWERING_KEYS,
        results_required=args.output is None,
    )
    spec = request.spec
    path = restored_path(spec, request.results)
    checkpoint, model = open_model(path, key=request.key)
    asked, decode = threshold_from_spec(spec), decode_settings(checkpoint, spec)
    checkpoint = dataclasses.replace(
        checkpoint,
        windows=spec.window_settings(checkpoint.windows),
        max_answer_tokens=decode.max_answer_tokens,
        word_boundaries=decode.word_boundaries,
        no_answer_threshold=checkpoint.no_answer_threshold if asked is None else asked,
    )
    target = args.output or request.results / target_name(spec.export_format, spec.export_to)
    _WRITERS[spec.export_format](args, request, path.stem, checkpoint, model, target)
    return 0


def target_name(export_format: str, export_to: str | None) -> str:
    """The name to write; a suffix of another format gives way to this one's."""
    name, suffix = Path(export_to or "exported-model"), SUFFIXES[export_format]
    return str(name.with_suffix(suffix) if name.suffix in SUFFIXES.values() else name)


def _write_onnx(
    args: argparse.Namespace, request: Request, _name: str, checkpoint: Checkpoint, model: SpanModel, target: Path
) -> None:
    examples = questions_to_check(args.data)[:PARITY_QUESTIONS]
    with terminable(), tempfile.TemporaryDirectory() as scratch:
        # Private to the user, and gone at the end: an ONNX file must exist in plain to be made.
        network = Path(scratch) / "network.onnx"
        onnx_from_model(model, network)
        parity = checked_parity(checkpoint, model, network, examples, quiet=args.quiet)
        facts = {"float32_parity": dataclasses.asdict(parity), "checked_on": args.data.name}
        save_packed_network(target, checkpoint, network, precision="float32", key=request.key, facts=facts)
    print(
        f"{target}\nfloat32 against torch: logits within {parity.max_difference:.1e}, "
        f"{parity.answers_changed} of {parity.n_questions} answers changed"
    )


def _write_riva(
    args: argparse.Namespace, request: Request, name: str, checkpoint: Checkpoint, model: SpanModel, target: Path
) -> None:
    if request.key:
        note("a model repository is not encrypted: Triton reads its network as it is")
    build = CpuBuild(checkpoint=checkpoint, model=model, name=name, data=args.data, quiet=args.quiet)
    manifest = build.write(target)
    print(table({"repository": str(target), **manifest.encoder}))
    print(f"This is a Triton model repository, not an archive for riva-build: spanqa serve --repository {target}")


def _write_hf(
    _args: argparse.Namespace, request: Request, _name: str, checkpoint: Checkpoint, model: SpanModel, target: Path
) -> None:
    if request.key:
        note("a Hugging Face folder is not encrypted: transformers reads its weights as they are")
    write_hugging_face(checkpoint, model, target)
    print(target)


_Writer = Callable[[argparse.Namespace, Request, str, Checkpoint, SpanModel, Path], None]
_WRITERS: dict[str, _Writer] = {
    "ONNX": _write_onnx,
    "RIVA": _write_riva,
    "JARVIS": _write_riva,
    "HF": _write_hf,
}
