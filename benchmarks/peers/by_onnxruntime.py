"""A turn of a repository's network bare in ONNX Runtime: windows are cut before the clock, logits are dropped."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import onnxruntime
from bare_network import BareNetwork, Way, run_batch, session_of, ways
from bench_setting import answering_folder, network_file
from turn import Question, Said, Turn, fastest

from spanqa.manifest import load_served_tokenizer
from spanqa.windows import WindowMaker, Windows, batch_windows

ROWS = (1, 2, 4, 8, 16)


def _one_by_one(turn: Turn, network: Path, all_windows: list[Windows], warm_up: list[Windows]) -> None:
    """One unpadded window after another on all cores, as in serving.py."""
    session = session_of(network, n_threads=turn.task["n_threads"], is_spinning=False)
    batches = [[batch_windows([(windows, row)]) for row in range(len(windows))] for windows in all_windows]
    for windows in warm_up:
        run_batch(session, batch_windows([(windows, 0)]))
    turn.ready(versions={"onnxruntime": onnxruntime.__version__}, threads=turn.task["n_threads"])
    waiting = iter(batches)

    def run(_question: str, _context: str) -> Said:
        for batch in next(waiting):
            run_batch(session, batch)
        return Said(text="")

    turn.one_by_one(run)
    turn.done()


def _all_at_once(turn: Turn, network: Path, all_windows: list[Windows], warm_up: list[Windows]) -> None:
    """Windows sorted by length in batches, in the way that is the fastest on other questions."""
    trial = BareNetwork(network, warm_up)
    found = turn.task["found"]
    way = Way(**found) if found else fastest(ways(turn.task["n_threads"], ROWS), trial.seconds)
    # A pass loads the network and warms it up before its clock starts: a pass over one question of one window says
    # what that costs, to within that window.
    one_window = BareNetwork(network, [min(warm_up, key=len)])
    turn.loading_cpu_s = min(_cpu_s(lambda: one_window.seconds(way)) for _ in range(2))
    bare = BareNetwork(network, all_windows)
    turn.ready(
        versions={"onnxruntime": onnxruntime.__version__},
        threads=turn.task["n_threads"],
        found={"n_sessions": way.n_sessions, "n_threads": way.n_threads, "rows": way.rows},
    )
    turn.seconds = bare.seconds(way)
    turn.done()


def _cpu_s(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def main() -> None:
    """Take the turn."""
    turn = Turn.taken()
    repository = Path(turn.task["place"])
    manifest, tokenizer = load_served_tokenizer(answering_folder(repository))
    maker = WindowMaker(tokenizer, manifest.windows)

    def cut(questions: list[Question]) -> list[Windows]:
        return maker.windows_of_many(questions)

    run = _one_by_one if turn.task["batch_size"] == 1 else _all_at_once
    run(turn, network_file(repository), cut(turn.questions), cut(turn.warm_up))


if __name__ == "__main__":
    main()
