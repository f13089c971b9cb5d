"""The pipeline's answers and ours for models of several families that all know what the default model knows.

python benchmarks/pipeline_families.py --families electra,distilbert,mpnet,roberta

Families that a small model cannot be trained for in minutes are made of the default model's weights: ELECTRA's are the
same numbers by other names; DistilBERT, MPNet and RoBERTa have no second token type, so that every token is given the
question's, which costs some points of F1 and none of the certainty that pipelines are compared by. MPNet's bias by
distance is zero. RoBERTa's pair is <s> question </s></s> context </s>, its positions begin after the padding's id.
Everything else is benchmarks/pipeline_answers.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from bench_setting import parser_of, print_result
from peer_environments import PeerError, default_folder
from pipeline_answers import LEAST_SHARE, SHIPPED, compared
from pipeline_decoding import UNEXPLAINED
from torch import Tensor

from spanqa_training.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from spanqa_training.encoder.config import EncoderConfig
from spanqa_training.model import SpanModel

POSITIONS, TYPES = "embeddings.position.weight", "embeddings.token_type.weight"
CHANGES: dict[str, dict[str, Any]] = {
    "electra": {},
    "distilbert": {"type_vocab_size": 0},
    "mpnet": {
        "type_vocab_size": 0,
        "position_offset": 2,  # transformers counts from 1, whatever pads
        "position_scheme": "biased",
        "relative_buckets": 32,
        "relative_distance": 128,
    },
    "roberta": {"type_vocab_size": 1, "position_offset": 1},
}
"""What of the configuration differs from BERT's. The padding's id is 0, after which RoBERTa's positions begin."""
ROBERTA_PAIR = ("[CLS]", "A", "[SEP]", "[SEP]", "B", "[SEP]")


def reshaped(checkpoint: Checkpoint, model: SpanModel, family: str) -> tuple[Checkpoint, SpanModel]:
    """A model of BERT's as one of another family, with the same weights wherever that family has a place for them."""
    changes = CHANGES[family]
    config: EncoderConfig = dataclasses.replace(checkpoint.encoder, family=family, **changes)
    weights: dict[str, Tensor] = dict(model.state_dict())
    types = weights[TYPES]
    if config.type_vocab_size == 0:
        weights[POSITIONS] = weights[POSITIONS] + types[0]
        del weights[TYPES]
    else:
        weights[TYPES] = types[: config.type_vocab_size]
    unused = torch.zeros(config.position_offset, config.hidden_size)
    weights[POSITIONS] = torch.cat([unused, weights[POSITIONS]])
    other = SpanModel(config).eval()
    weights |= {
        name: torch.zeros_like(bias) for name, bias in other.state_dict().items() if name.startswith("distances")
    }
    other.load_state_dict(weights)
    tokenizer = json.loads(checkpoint.tokenizer_json)
    if config.type_vocab_size < len(types):
        tokenizer["post_processor"]["pair"] = _untyped_pair(tokenizer, is_roberta=family in ("mpnet", "roberta"))
    return dataclasses.replace(checkpoint, encoder=config, tokenizer_json=json.dumps(tokenizer)), other


def _untyped_pair(tokenizer: Mapping[str, Any], *, is_roberta: bool) -> list[dict[str, Any]]:
    """The template of a pair whose tokens have one type; MPNet's is RoBERTa's."""
    pair = ROBERTA_PAIR if is_roberta else [next(iter(part.values()))["id"] for part in _pair(tokenizer)]
    kinds = {"A": "Sequence", "B": "Sequence"}
    return [{kinds.get(name, "SpecialToken"): {"id": name, "type_id": 0}} for name in pair]


def _pair(tokenizer: Mapping[str, Any]) -> list[dict[str, dict[str, Any]]]:
    parts: list[dict[str, dict[str, Any]]] = tokenizer["post_processor"]["pair"]
    return parts


def row_of(family: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Make a family's model and compare its answers."""
    checkpoint, model = reshaped(*load_checkpoint(SHIPPED), family)
    save_checkpoint(checkpoint, model, folder / "model")
    asked = argparse.Namespace(**vars(args) | {"checkpoint": folder / "model"})
    rows, _about = compared(asked, folder / "pipeline")
    others = [row for row in rows if row["reason"] is not None]
    return {
        "family": family,
        "questions": len(rows),
        "same": len(rows) - len(others),
        "share": 1 - len(others) / len(rows),
        "reasons": Counter(row["reason"] for row in others),
        "others": others,
    }


def main() -> int:
    """Compare each family and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--families", default=",".join(CHANGES), metavar="NAMES", help="default: %(default)s")
    parser.add_argument("--questions", type=int, default=500, metavar="N", help="questions (default: %(default)s)")
    parser.add_argument("--environments", type=Path, default=default_folder(), metavar="DIR", help="the pipeline's")
    args = parser.parse_args()
    families = args.families.split(",")
    if unknown := [family for family in families if family not in CHANGES]:
        parser.error(f"--families names {', '.join(unknown)}: give some of {', '.join(CHANGES)}")
    results = []
    for family in families:
        with tempfile.TemporaryDirectory(prefix="spanqa-families-") as folder:
            (Path(folder) / "pipeline").mkdir()
            try:
                results.append(row_of(family, args, Path(folder)))
            except PeerError as error:
                print(f"error: {error}", file=sys.stderr)
                return 2
    table: list[tuple[str, ...]] = [("family", "the same", "share", "the others, by what the pipeline does otherwise")]
    for one in results:
        reasons = "; ".join(f"{count} {reason}" for reason, count in one["reasons"].most_common())
        table.append((one["family"], f"{one['same']:,} of {one['questions']:,}", f"{one['share']:.1%}", reasons))
    print_result({"families": results}, table, as_json=args.json)
    return int(any(one["share"] < LEAST_SHARE or UNEXPLAINED in one["reasons"] for one in results))


if __name__ == "__main__":
    sys.exit(main())
