"""Average the weights of checkpoints of one line of training.

    python training/recipes/minilm_average.py -o OUTPUT CHECKPOINT=0.5 CHECKPOINT=0.25 CHECKPOINT=0.25

What lies beside the weights is the first one's; its threshold and scale fit the average no more and are to be fitted
again, its metrics are left out. (Averaging along or across runs: Izmailov et al. 2018, https://arxiv.org/abs/1803.05407;
Wortsman et al. 2022, https://arxiv.org/abs/2203.05482.)
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path

import torch

from spanqa_training.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from spanqa_training.errors import CheckpointError
from spanqa_training.model import SpanModel


def average(shares: list[tuple[Path, float]]) -> tuple[Checkpoint, SpanModel]:
    """Give the first checkpoint with the average of all weights, in float32.

    Args:
        shares: Each checkpoint with what it counts; 1 in all.

    Raises:
        CheckpointError: The shares do not add up to 1, or a checkpoint is of another architecture or vocabulary.
    """
    if not math.isclose(sum(share for _, share in shares), 1):
        raise CheckpointError(f"shares add up to {sum(share for _, share in shares):g}: they must to 1")
    checkpoint, model = load_checkpoint(shares[0][0])
    sums = {name: shares[0][1] * tensor for name, tensor in model.state_dict().items()}
    for path, share in shares[1:]:
        other, weights = load_checkpoint(path)
        if (other.encoder, other.tokenizer_json) != (checkpoint.encoder, checkpoint.tokenizer_json):
            raise CheckpointError(f"{path}: is of another architecture or vocabulary than {shares[0][0]}")
        for name, tensor in weights.state_dict().items():
            sums[name] += share * tensor
    model.load_state_dict(sums)
    # Every stage calls its checkpoint alike: what tells them apart is the folder of its results.
    averaged = [{"name": "/".join(path.parts[-3:]), "share": share} for path, share in shares]
    facts = {**checkpoint.provenance, "averaged": averaged}
    return dataclasses.replace(checkpoint, provenance=facts, metrics={}), model


def _share(text: str) -> tuple[Path, float]:
    path, _, share = text.rpartition("=")
    return Path(path), float(share)


def main() -> None:
    """Write the average, in float16."""
    parser = argparse.ArgumentParser(description="Average the weights of checkpoints of one line of training.")
    parser.add_argument("checkpoints", nargs="+", type=_share, metavar="CHECKPOINT=SHARE")
    parser.add_argument("-o", "--output", required=True, type=Path, help="folder, or file that ends in .tlt")
    args = parser.parse_args()
    with torch.inference_mode():
        checkpoint, model = average(args.checkpoints)
    save_checkpoint(checkpoint, model, args.output, dtype="float16")
    print(args.output)


if __name__ == "__main__":
    main()
