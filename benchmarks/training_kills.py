"""kill -9 at random moments of `spanqa adapt` and `spanqa train`: the run that follows ends with the same weights.

A small model with dropout is trained on real questions and on their paragraphs, one thread each; the state is saved
after every step, so that kills meet its saves, validations and the writing of the result as well. The exit status is 1
where a run did not end, ended with other weights, or too few were killed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import multiprocessing
import random
import signal
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench_setting import ROOT, parser_of, print_result
from tqdm import tqdm

QUESTIONS = ROOT / "data" / "heldout200.json"
SHIPPED = ROOT / "training" / "checkpoints" / "spanqa-minilm"
OPTIONS = (
    *("--quiet", "trainer.precision=32", "trainer.save_every_s=0", "trainer.val_check_interval=0.5", "optim.lr=1e-3"),
    *("trainer.gradient_clip_val=1.0", "training_ds.batch_size=4", "trainer.max_epochs=2", "trainer.gpus=0"),
)
COMMANDS = {
    "adapt": ("--held-out", "0.2", "training_ds.num_samples=12", "model.dataset.max_seq_length=64"),
    "train": (f"validation_ds.file={QUESTIONS}", "validation_ds.num_samples=4", "training_ds.num_samples=16"),
}
MOST_TRIES = 4
"""Runs for each kill: some end before the moment that was drawn for them."""
RESULTS = {"adapt": "adapted-model.tlt", "train": "trained-model.tlt"}


def main() -> None:
    """Kill, resume, compare, and print how often what was found."""
    parser = parser_of(__doc__)
    parser.add_argument("--kills", metavar="N", type=int, default=30, help="of each command (default: %(default)s)")
    parser.add_argument("--only", choices=COMMANDS, help="one of the commands")
    args = parser.parse_args()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["spanqa_training.run.training_run", "spanqa_training.adaptation.adaptation_run"])
    with tempfile.TemporaryDirectory() as name:
        base = Path(name) / "base"
        _in_process(context, _write_base, base).join()
        chosen = [args.only] if args.only else list(COMMANDS)
        result = {
            command: _killed_runs(context, command, base, Path(name) / command, args.kills, quiet=args.quiet)
            for command in chosen
        }
    table = [("command", *result[chosen[0]]), *((name, *map(str, found.values())) for name, found in result.items())]
    print_result(result, table, as_json=args.json)
    wrong = any(found["other weights"] or found["did not end"] for found in result.values())
    raise SystemExit(wrong or any(found["kills"] < args.kills for found in result.values()))


def _killed_runs(context: Any, command: str, base: Path, folder: Path, n_kills: int, *, quiet: bool) -> dict[str, int]:
    """Run undisturbed, then as often as said, each time killed once at another moment and resumed."""
    folder.mkdir()
    _in_process(context, _run, command, base, folder / "warm").join()
    began = time.monotonic()
    _in_process(context, _run, command, base, folder / "whole").join()
    whole_s = time.monotonic() - began
    wanted = _digest(folder / "whole", command)
    counts = dict.fromkeys(("kills", "too late", "with a state", "did not end", "other weights"), 0)
    drawn = random.Random(30)  # noqa: S311 - no secret
    with tqdm(total=n_kills, desc=command, disable=True if quiet else None) as progress:
        for number in range(MOST_TRIES * n_kills):
            if counts["kills"] == n_kills:
                break
            results = folder / f"killed{number}"
            process = _in_process(context, _run, command, base, results)
            process.join(drawn.uniform(0.05, 1.0) * whole_s)
            process.kill()
            process.join()
            if process.exitcode != -signal.SIGKILL:  # it had ended before: another moment, in another run
                counts["too late"] += process.exitcode == 0
                counts["did not end"] += process.exitcode != 0
                continue
            counts["kills"] += 1
            progress.update()
            counts["with a state"] += (results / "state" / "state.pt").exists()
            again = _in_process(context, _run, command, base, results)
            again.join()
            counts["did not end"] += again.exitcode != 0
            counts["other weights"] += again.exitcode == 0 and _digest(results, command) != wanted
    return counts


def _in_process(context: Any, function: Callable[..., None], *arguments: Any) -> Any:
    process = context.Process(target=function, args=arguments)
    process.start()
    return process


def _digest(results: Path, command: str) -> str:
    """What the weights of a result come to."""
    digest = hashlib.sha256()
    with zipfile.ZipFile(results / "checkpoints" / RESULTS[command]) as archive:
        for name in sorted(name for name in archive.namelist() if name.endswith(".safetensors")):
            digest.update(name.encode() + archive.read(name))
    return digest.hexdigest()


def _run(command: str, base: Path, results: Path) -> None:
    """Run a command, with one thread."""
    import torch

    from spanqa.cli import main as spanqa

    torch.set_num_threads(1)
    line = [command, "-m", str(base), "-r", str(results), f"training_ds.file={QUESTIONS}", *OPTIONS, *COMMANDS[command]]
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        code = spanqa(line)
    if code:
        print(said.getvalue())
    sys.exit(code)


def _write_base(folder: Path) -> None:
    """Save a small model of random weights with the shipped vocabulary."""
    import torch

    from spanqa.windows import WindowSettings
    from spanqa_training.checkpoints.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
    from spanqa_training.model import EncoderConfig, SpanModel

    torch.manual_seed(0)
    shipped = read_checkpoint(SHIPPED)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 2,
        "intermediate_size": 64,
        "max_positions": 256,
    }
    config = EncoderConfig(vocab_size=shipped.encoder.vocab_size, **sizes)
    windows = WindowSettings(max_seq_length=256, doc_stride=128)
    checkpoint = Checkpoint(encoder=config, tokenizer_json=shipped.tokenizer_json, windows=windows)
    save_checkpoint(checkpoint, SpanModel(config), folder)


if __name__ == "__main__":
    main()
