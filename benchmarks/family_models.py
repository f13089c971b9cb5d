"""Small models of every family for `family_stages.py`: a tokenizer of its kind, transformers' own class, a training.

Folders are laid out as models of a family are published, so that all goes through `spanqa import` and `spanqa train`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_setting import ROOT
from family_vocabularies import write_vocabulary

from spanqa.files import write_atomically

SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 256,
    "max_position_embeddings": 384,
}
DISTILBERT_SIZES = {"dim": 64, "n_layers": 2, "n_heads": 2, "hidden_dim": 256, "max_position_embeddings": 384}
ROBERTA_SIZES = SIZES | {"type_vocab_size": 1, "layer_norm_eps": 1e-5, "max_position_embeddings": 386}
DEBERTA_SIZES = SIZES | {
    "relative_attention": True,
    "position_buckets": 64,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
    "position_biased_input": False,
    "type_vocab_size": 0,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", SIZES),
    "roberta": ("Roberta", ROBERTA_SIZES),
    "xlm-roberta": ("XLMRoberta", ROBERTA_SIZES),
    "camembert": ("Camembert", ROBERTA_SIZES),
    "distilbert": ("DistilBert", DISTILBERT_SIZES),
    "electra": ("Electra", SIZES | {"embedding_size": 32}),
    "albert": ("Albert", SIZES | {"embedding_size": 32}),
    "mpnet": ("MPNet", SIZES | {"max_position_embeddings": 386, "layer_norm_eps": 1e-5}),
    "deberta-v2": ("DebertaV2", DEBERTA_SIZES),
}
"""By model_type: the name in transformers' classes, and a small configuration."""
MAX_CHARACTERS = 700
"""Of a paragraph that is trained on: one window each, for the most part."""
UNANSWERED = ("how", "who", "when")
"""First words of the questions that are taught to have no answer."""
WINDOWS = {"max_seq_length": 192, "doc_stride": 96, "max_query_length": 40}
"""So short that many of SQuAD's paragraphs take several windows."""


def trained_checkpoint(family: str, folder: Path, data: dict[str, Path], *, steps: int, quiet: bool) -> Path:
    """Make a family's model and train it; what an earlier call has finished is taken as it is.

    Args:
        family: One of FAMILIES.
        folder: Where all of it goes.
        data: "train" and "validation": datasets.
        steps: Of the optimiser.
        quiet: Whether to hide progress.

    Returns:
        The trained checkpoint.
    """
    source, base, results = folder / "source", folder / "base", folder / f"{steps}-steps"
    trained = results / "checkpoints" / "trained-model.tlt"
    if not (source / "is-made").exists():
        source.mkdir(parents=True, exist_ok=True)
        contexts = list(contexts_of(data["train"]))
        write_vocabulary(family, source, contexts)
        write_random_weights(family, source)
        (source / "is-made").touch()
    if not base.exists():
        spanqa("import", source, "-o", base)
    if not trained.exists():
        spanqa("train", *training_arguments(base, results, data, steps), *["--quiet"] * quiet)
    return trained


def spanqa(*arguments: str | Path) -> None:
    """Run a command of ours, its output on stderr.

    Raises:
        SystemExit: It failed.
    """
    command = [sys.executable, "-m", "spanqa.cli", *map(str, arguments)]
    if subprocess.run(command, stdout=sys.stderr).returncode:
        raise SystemExit(f"spanqa {' '.join(command[3:])} failed")


def training_arguments(base: Path, results: Path, data: dict[str, Path], steps: int) -> list[str | Path]:
    """What `spanqa train` is given: float32, windows so short that there are many, a threshold of 0."""
    settings = {
        **{f"model.dataset.{name}": value for name, value in WINDOWS.items()},
        "model.dataset.null_score_diff_threshold": 0.0,
        "trainer.max_steps": steps,
        "trainer.max_epochs": 1000,
        "trainer.precision": 32,
        "trainer.save_top_k": 0,
        "trainer.gradient_clip_val": 1.0,
        "training_ds.file": data["train"],
        "training_ds.batch_size": 16,
        "validation_ds.file": data["validation"],
        "optim.lr": 2e-3,
        "optim.weight_decay": 0.01,
        "optim.sched.name": "WarmupAnnealing",
        "optim.sched.warmup_ratio": 0.1,
    }
    spec = ROOT / "training" / "specs" / "train.yaml"
    return ["-e", spec, "-m", base, "-r", results, *(f"{key}={value}" for key, value in settings.items())]


def write_data(dataset: Path, folder: Path) -> dict[str, Path]:
    """Write what the models are taught: a SQuAD file's short paragraphs, the last two articles to validate.

    A model so small does not learn in some hundred steps which questions have no answer. It learns their first word:
    those that ask UNANSWERED are taught to have none, and of the others only the answerable are kept. So both come out,
    and margins reach to either side.

    Args:
        dataset: The file.
        folder: Where the two are written.
    """
    articles = json.loads(dataset.read_text("utf-8"))["data"]
    for article in articles:
        short = [one for one in article["paragraphs"] if len(one["context"]) <= MAX_CHARACTERS]
        article["paragraphs"] = [one | {"qas": list(filter(None, map(taught, one["qas"])))} for one in short]
    files = {"train": folder / "train.json", "validation": folder / "validation.json"}
    for name, part in (("train", articles[:-2]), ("validation", articles[-2:])):
        write_atomically(files[name], json.dumps({"version": "v2.0", "data": part}, ensure_ascii=False))
    return files


def taught(question: dict[str, Any]) -> dict[str, Any] | None:
    """A question as it is taught; None where it is left out."""
    if question["question"].lower().startswith(UNANSWERED):
        return {**question, "is_impossible": True, "answers": [], "plausible_answers": []}
    return None if question["is_impossible"] else question


def contexts_of(dataset: Path) -> Sequence[str]:
    """Every paragraph of a SQuAD file."""
    articles = json.loads(dataset.read_text("utf-8"))["data"]
    return [paragraph["context"] for article in articles for paragraph in article["paragraphs"]]


def write_random_weights(family: str, folder: Path) -> None:
    """Write transformers' own class with random weights, as large as the vocabulary that lies there."""
    import torch
    import transformers

    from spanqa_training.weights.import_types import ImportOptions
    from spanqa_training.weights.vocabulary import load_vocabulary

    tokenizer = load_vocabulary(ImportOptions(), [folder], config={"model_type": family})
    name, sizes = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(
        vocab_size=tokenizer.vocab_size, pad_token_id=tokenizer.pad_id, **sizes
    )
    torch.manual_seed(0)
    getattr(transformers, f"{name}ForQuestionAnswering")(config).save_pretrained(folder)
