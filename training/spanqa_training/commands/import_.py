"""`spanqa import`: weights of another project become a checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "source",
        type=Path,
        metavar="SOURCE",
        help="a Hugging Face folder of model_type bert or megatron-bert: config.json, model.safetensors, tokenizer",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="CHECKPOINT", help="the folder to write")
    parser.add_argument(
        "--layer-norm-eps",
        type=float,
        metavar="EPS",
        help="in place of config.json's; weights trained by Megatron-LM want its 1e-5, which folders rarely say",
    )
    parser.add_argument(
        "--dtype", choices=("float32", "float16"), default="float32", help="precision of the stored weights"
    )
    parser.add_argument("--seed", type=int, default=0, help="draws the head where the source has none (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Import, save, and say what was taken over."""
    from spanqa_training.checkpoint import save_checkpoint
    from spanqa_training.importers import checkpoint_from_hugging_face

    checkpoint, model = checkpoint_from_hugging_face(args.source, layer_norm_eps=args.layer_norm_eps, seed=args.seed)
    save_checkpoint(checkpoint, model, args.output, dtype=args.dtype)
    encoder = checkpoint.encoder
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{args.output}: {checkpoint.provenance['model_type']}, {encoder.num_layers} layers of {encoder.hidden_size}, "
        f"{n_parameters:,} parameters, layer norm eps {encoder.layer_norm_eps:g}, "
        f"head {checkpoint.provenance['head']}"
    )
    return 0
