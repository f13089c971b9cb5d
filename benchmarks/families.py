"""Every family against transformers at the shapes of its base model, and int8 against fused float32 on this CPU.

    python benchmarks/families.py [--families roberta,distilbert] [--length 384] [--windows 24] [--no-timing]

draws random weights, holds the logits of torch and of the fused network against those of transformers (with padding,
and at the longest window that there are positions for), and times windows of one length through the fused float32
and the int8 network, alternately, one call a core. Needs 4 GB of memory and 2 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from bare_network import run_batch, session_of
from bench_setting import machine

from spanqa.windows import Batch
from spanqa_build.cpu import cpu_networks_from_model
from spanqa_build.parity import run_onnx, run_torch, session_from_onnx
from spanqa_training.model import SpanModel
from spanqa_training.weights.hugging_face_names import parts_from_hugging_face

ROBERTA_POSITIONS = {"max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
DEBERTA_V3 = {
    "vocab_size": 128_100,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "relative_attention": True,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
    "position_biased_input": False,
    "type_vocab_size": 0,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", {"vocab_size": 28_996}),
    "roberta": ("Roberta", {"vocab_size": 50_265, **ROBERTA_POSITIONS}),
    "xlm-roberta": ("XLMRoberta", {"vocab_size": 250_002, **ROBERTA_POSITIONS}),
    "camembert": ("Camembert", {"vocab_size": 32_005, **ROBERTA_POSITIONS}),
    "distilbert": ("DistilBert", {"vocab_size": 28_996}),
    "electra": (
        "Electra",
        {"embedding_size": 768, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
    ),
    "electra-small": ("Electra", {}),
    "albert": ("Albert", {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}),
    "mpnet": ("MPNet", {"max_position_embeddings": 514, "layer_norm_eps": 1e-5}),
    "deberta-v2": ("DebertaV2", DEBERTA_V3),
}
"""The base model of each, by the names of transformers' classes and what differs from its configuration's defaults."""
READ_TYPES = ("bert", "electra", "electra-small", "albert")
WITHOUT_TYPES = ("distilbert", "mpnet")
N_TURNS = 5


def main() -> None:
    """Compare, time, print."""
    # ONNX Runtime's optimiser imports a module float16 of its own, which the benchmark of that name would hide.
    sys.path.remove(str(Path(__file__).resolve().parent))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", default=",".join(FAMILIES), help="which, separated by commas (default: all)")
    parser.add_argument("--length", type=int, default=384, help="tokens of the timed windows")
    parser.add_argument("--windows", type=int, default=24, help="timed windows of a turn")
    parser.add_argument("--cores", type=int, default=2, help="calls side by side")
    parser.add_argument("--no-timing", action="store_true", help="compare logits only, which needs no quiet machine")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    rows = []
    for family in args.families.split(","):
        rows.append(measured(family, args))
        if not args.json:
            print_row(rows[-1], is_first=len(rows) == 1)
    if args.json:
        print(json.dumps({"machine": machine(), "rows": rows}, indent=2))
    else:
        print(f"\n{machine()}; transformers {transformers.__version__}; windows of {args.length} tokens")


def measured(family: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measure one family."""
    name, changes = FAMILIES[family]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**changes)
    oracle = getattr(transformers, f"{name}ForQuestionAnswering")(config).eval()
    parts = parts_from_hugging_face(oracle.state_dict(), config.to_dict())
    model = SpanModel(parts.config).eval()
    model.load_state_dict({**parts.encoder, **parts.head})
    longest = parts.config.max_positions
    batch = random_batch((longest, longest // 3), config.vocab_size, config.pad_token_id)
    wanted = oracle_logits(oracle, family, batch)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    row = {"family": family, "parameters": n_parameters, "longest": longest}
    row["torch"] = largest_difference(run_torch(model, batch), wanted, batch)
    del oracle
    with tempfile.TemporaryDirectory() as folder:
        networks = cpu_networks_from_model(model, Path(folder))
        del model
        row["fused"] = largest_difference(run_onnx(session_from_onnx(networks.float32), batch), wanted, batch)
        timed = {} if args.no_timing else rates_of({"float32": networks.float32, "int8": networks.int8}, config, args)
    return row | timed


def rates_of(paths: Mapping[str, Path], config: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Time windows of one length through the two networks, taking turns."""
    one = random_batch((args.length,), config.vocab_size, config.pad_token_id)
    runs = {
        name: partial(pass_seconds, sessions_of(path, args.cores), one, args.windows) for name, path in paths.items()
    }
    turns: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(N_TURNS):
        for precision, run in runs.items():
            turns[precision].append(args.windows / run())
    medians = {precision: statistics.median(rates) for precision, rates in turns.items()}
    ratios = [int8 / float32 for int8, float32 in zip(turns["int8"], turns["float32"], strict=True)]
    return {
        "float32_windows_per_s": medians["float32"],
        "int8_windows_per_s": medians["int8"],
        "ratio": statistics.median(ratios),
        "ratios": [min(ratios), max(ratios)],
    }


def random_batch(lengths: Sequence[int], vocab_size: int, pad_id: int) -> Batch:
    """Draw windows of these many tokens, padded to the longest."""
    rng = np.random.default_rng(sum(lengths))
    shape = (len(lengths), max(lengths))
    mask = (np.arange(shape[1]) < np.array(lengths)[:, None]).astype(np.int32)
    ids = rng.integers(5, vocab_size, shape) * mask + pad_id * (1 - mask)
    types = (np.arange(shape[1]) > 12) * mask
    return Batch(input_ids=ids.astype(np.int32), attention_mask=mask, token_type_ids=types.astype(np.int32))


def oracle_logits(oracle: Any, family: str, batch: Batch) -> tuple[Any, Any]:
    """What transformers gives."""
    ids, mask, types = (
        torch.from_numpy(array).long() for array in (batch.input_ids, batch.attention_mask, batch.token_type_ids)
    )
    given = {} if family in WITHOUT_TYPES else {"token_type_ids": types if family in READ_TYPES else types * 0}
    with torch.inference_mode():
        out = oracle(input_ids=ids, attention_mask=mask, **given)
    return out.start_logits.numpy(), out.end_logits.numpy()


def largest_difference(got: tuple[Any, Any], wanted: tuple[Any, Any], batch: Batch) -> float:
    """The largest difference of two pairs of logits, padding left out."""
    kept = batch.attention_mask.astype(bool)
    return max(float(np.abs(one[kept] - other[kept]).max()) for one, other in zip(got, wanted, strict=True))


def sessions_of(path: Path, n_cores: int) -> list[Any]:
    """Load a network once a core, as it is served."""
    return [session_of(path, n_threads=1, is_spinning=False) for _ in range(n_cores)]


def pass_seconds(sessions: Sequence[Any], window: Batch, n_windows: int) -> float:
    """Time a number of windows, one a call, over the sessions."""
    for session in sessions:
        run_batch(session, window)

    def work(session: Any) -> None:
        for _ in range(n_windows // len(sessions)):
            run_batch(session, window)

    threads = [threading.Thread(target=work, args=(session,)) for session in sessions]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


def print_row(row: dict[str, Any], *, is_first: bool) -> None:
    """Print one line of the table."""
    columns = ["family", "parameters", "longest window", "torch - transformers", "fused - transformers"]
    cells = [row["family"], f"{row['parameters'] / 1e6:.1f} M", f"{row['longest']}"]
    cells += [f"{row['torch']:.1e}", f"{row['fused']:.1e}"]
    if "ratio" in row:
        columns += ["float32", "int8", "int8 / float32 (least to most of the turns)"]
        low, high = row["ratios"]
        cells += [f"{row['float32_windows_per_s']:.2f}/s", f"{row['int8_windows_per_s']:.2f}/s"]
        cells += [f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})"]
    lines = [columns, ["---"] * len(columns)] if is_first else []
    for line in (*lines, cells):
        print(f"| {' | '.join(line)} |", flush=True)


if __name__ == "__main__":
    main()
