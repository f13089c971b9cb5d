"""`spanqa import`: weights of another project become a checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from spanqa_training.commands.arguments import add_key_option, key_from_args
from spanqa_training.errors import ImportWeightsError

if TYPE_CHECKING:
    from spanqa_training.weights.recognition import Imported


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "source",
        type=Path,
        metavar="SOURCE",
        help="a Hugging Face folder (bert, megatron-bert, roberta, xlm-roberta, camembert, distilbert, electra, albert,"
        " mpnet or deberta-v2), Megatron-LM's model_optim_rng.pt or the folder or zip of it, or a .nemo of a question"
        " answering model",
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="CHECKPOINT", help="the checkpoint to write"
    )
    add_key_option(parser)
    parser.add_argument(
        "--layer-norm-eps",
        type=float,
        metavar="EPS",
        help="in place of the source's; Hugging Face folders of weights trained by Megatron-LM want 1e-5",
    )
    parser.add_argument("--activation", choices=("gelu", "gelu_tanh"), help="in place of the source's (Megatron: gelu)")
    parser.add_argument(
        "--num-heads", type=int, metavar="N", help="attention heads, where the source does not say (width / 64)"
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="PATH",
        help="vocab.txt, tokenizer.json or a folder of one, in place of the source's own",
    )
    parser.add_argument(
        "--do-lower-case",
        action=argparse.BooleanOptionalAction,
        help="whether a vocab.txt is one of lower-cased text (default: seen from its word pieces)",
    )
    parser.add_argument(
        "--dtype", choices=("float32", "float16"), default="float32", help="precision of the stored weights"
    )
    parser.add_argument("--seed", type=int, default=0, help="draws the head where the source has none (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Import, save, and say what was taken over."""
    from spanqa_training.checkpoints.checkpoint import save_checkpoint
    from spanqa_training.weights.recognition import ImportOptions, import_model

    options = ImportOptions(
        layer_norm_eps=args.layer_norm_eps,
        activation=args.activation,
        num_heads=args.num_heads,
        tokenizer=args.tokenizer,
        do_lower_case=args.do_lower_case,
        seed=args.seed,
    )
    key = key_from_args(args)
    imported = import_model(args.source, options)
    lower_cases = imported.checkpoint.tokenizer().lower_cases
    if args.do_lower_case not in (None, lower_cases):
        raise ImportWeightsError(
            f"{args.source}: its tokenizer.json {'lower-cases text' if lower_cases else 'keeps case'}, and"
            " --do-lower-case only decides where there is a bare vocab.txt: leave the option out, or give that file"
            " (--tokenizer)"
        )
    save_checkpoint(
        imported.checkpoint,
        imported.model,
        args.output,
        dtype=args.dtype,
        key=key,
        lm_head=imported.lm_head or None,
    )
    print(f"{args.output}: {_summary(imported)}")
    return 0


def _summary(imported: Imported) -> str:
    encoder, facts = imported.checkpoint.encoder, imported.checkpoint.provenance
    n_parameters = sum(parameter.numel() for parameter in imported.model.parameters())
    return (
        f"{facts['source']}, {facts['model_type']}, {encoder.num_layers} layers of {encoder.hidden_size}, "
        f"{encoder.num_heads} heads, {n_parameters:,} parameters, layer norm eps {encoder.layer_norm_eps:g}, "
        f"{encoder.activation}, vocabulary of {imported.checkpoint.tokenizer().vocab_size:,}, head {facts['head']}"
        f"{', masked-LM head kept' if imported.lm_head else ''}"
    )
