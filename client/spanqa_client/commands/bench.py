"""`spanqa bench`: what a server does under load, where its knee is, whether two runs differ, and what grows."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from spanqa.datasets import read_dataset
from spanqa.errors import InputError
from spanqa.files import write_atomically
from spanqa.squad import Example
from spanqa_client.bench.arguments import add_bench, command_from, duration_from, levels_from, metrics_url_from
from spanqa_client.bench.breakdown import stage_snapshot
from spanqa_client.bench.comparison import Change, check_levels, check_rounds, compare
from spanqa_client.bench.generator import Generator
from spanqa_client.bench.interruption import interrupted_by_signals, interruptions_held
from spanqa_client.bench.knee import knee_sentence
from spanqa_client.bench.load import Load, served_version, server_text
from spanqa_client.bench.measurement import Level
from spanqa_client.bench.periods import period_head, period_line, summary_text
from spanqa_client.bench.plot import svg_from_measurements
from spanqa_client.bench.report import (
    Header,
    Run,
    bench_table,
    breakdown_table,
    check_comparable,
    comparison_table,
    csv_from_run,
    json_from_run,
    machine,
    run_from_file,
)
from spanqa_client.bench.run import Plan, measure_levels, requests_from_examples, requests_sha256
from spanqa_client.bench.soak import LineFile, Watch, entry_of, now_text, soak
from spanqa_client.commands.arguments import answering
from spanqa_client.commands.connecting import client_from, connection_from
from spanqa_client.options import Options

_SLOWER = 1


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_bench(parser)


def run(args: argparse.Namespace) -> int:
    """Measure, compare or soak, and print what was found."""
    levels = levels_from(args)
    compared = [Path(name) for name in args.compare or ()]
    if len(compared) > 2:
        raise InputError(f"--compare has {len(compared)} files: give one, or two")
    if args.fail_on_slower is not None and not (compared and args.fail_on_slower >= 0):
        raise InputError("--fail-on-slower needs --compare, and a percentage of at least 0")
    if len(compared) == 2:
        old, new = (run_from_file(path) for path in compared)
        return _compared(args, old, new, shown="")
    if args.dataset is None:
        raise InputError("--dataset is missing: give a file of questions")
    if args.questions < 1:
        raise InputError(f"got --questions {args.questions}: give at least 1")
    with interrupted_by_signals():
        return _soaked(args, levels) if args.soak else _measured(args, levels, compared)


def _measured(args: argparse.Namespace, levels: tuple[Level, ...], compared: Sequence[Path]) -> int:
    from tqdm import tqdm

    load = _load(args)
    plan = Plan(
        load=load,
        levels=levels,
        n_rounds=args.rounds,
        warm_up_s=args.warm_up_s,
        timeout_s=args.timeout_s,
        metrics_url=_metrics_url(args),
    )
    examples, options = _examples(args), Options(**answering(args))
    header = _header(args, load, examples, options)
    old = run_from_file(compared[0]) if compared else None
    if old:  # which is told before minutes go by
        check_rounds(args.rounds)
        check_comparable(old.header, header)
        check_levels([one.level for one in old.measurements], levels)
    with tqdm(total=len(levels) * args.rounds, unit="run", disable=True if args.quiet else None) as bar:
        measurements = measure_levels(plan, examples, options, tell=lambda _: bar.update())
    new = Run(header=header, measurements=tuple(measurements))
    if args.output:
        _write(Path(args.output), new)
    shown = "\n\n".join(part for part in _parts(new) if part)
    if old:
        return _compared(args, old, new, shown=shown)
    print(json_from_run(new) if args.json else shown)
    return 0


def _parts(new: Run) -> list[str]:
    """The tables, and a sentence about each knee."""
    kinds = [[one for one in new.measurements if (one.rate is None) is closed] for closed in (True, False)]
    sentences = [knee_sentence(kind) for kind in kinds]
    knees = "\n".join(sentence for sentence in sentences if sentence)
    return [bench_table(new.measurements), breakdown_table(new.measurements), knees]


def _compared(args: argparse.Namespace, old: Run, new: Run, *, shown: str) -> int:
    remark = check_comparable(old.header, new.header)
    changes = compare(old.measurements, new.measurements)
    if args.json:
        content: dict[str, Any] = {**asdict(new), "changes": [asdict(change) for change in changes]}
        print(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        print("\n\n".join(part for part in (shown, comparison_table(changes), remark) if part))
    return _SLOWER if args.fail_on_slower is not None and _slower(changes, args.fail_on_slower) else 0


def _slower(changes: Sequence[Change], percent: float) -> bool:
    return any(change.differs and change.slower_percent > percent for change in changes)


def _soaked(args: argparse.Namespace, levels: tuple[Level, ...]) -> int:
    duration_s = duration_from(args.soak)
    if len(levels) != 1:
        raise InputError(f"--soak presses one level, got {len(levels)}: give one number to --concurrency or --rates")
    if args.compare or not args.period_s > 0:
        raise InputError("--soak goes without --compare, and its --period-s is above 0")
    examples, options = _examples(args), Options(**answering(args))
    load = _load(args)
    header = _header(args, load, examples, options)
    requests = requests_from_examples(args.model, examples, options)
    watch = Watch(args.url)
    # Without a folder the lines go nowhere but to the screen.
    path = Path(args.output) / "soak.jsonl" if args.output else Path("/dev/null")
    with LineFile(path) as lines, Generator(load, requests, timeout_s=args.timeout_s) as generator:
        lines.write({"kind": "run", "time": now_text(), **asdict(header)})
        if not args.json:
            print(period_head(levels[0], watch.look()), flush=True)
        summary, interrupted = soak(
            generator,
            levels[0],
            watch,
            duration_s=duration_s,
            period_s=args.period_s,
            tell=lambda one: _tell(lines, entry_of("period", one), "" if args.json else period_line(one)),
        )
        entry = {**entry_of("summary", summary), "interrupted": interrupted}
        _tell(lines, entry, "" if args.json else summary_text(summary))
    return 0


def _tell(lines: LineFile, entry: dict[str, Any], shown: str) -> None:
    lines.write(entry)
    print(shown or json.dumps(entry, ensure_ascii=False), flush=True)


def _load(args: argparse.Namespace) -> Load:
    return Load(url=args.url, model_name=args.model, window_s=args.window_s, connection=connection_from(args))


def _examples(args: argparse.Namespace) -> list[Example]:
    examples = list(read_dataset(args.dataset, require_answers=False))
    # Drawn at random so that every measurement sees the same mix of lengths; seeded so that every run does.
    examples = random.Random(0).sample(examples, min(args.questions, len(examples)))  # noqa: S311 - no secrets
    with client_from(args) as client:
        # A server that cannot answer says why, here.
        client.ask(examples[0].question, examples[0].context, timeout_s=args.timeout_s, **answering(args))
    return examples


def _header(args: argparse.Namespace, load: Load, examples: Sequence[Example], options: Options) -> Header:
    return Header(
        date=now_text(),
        server=server_text(load),
        model=load.model_name,
        model_version=served_version(load),
        machine=machine(),
        command=command_from(args),
        dataset=f"{Path(args.dataset).name}, {len(examples):,} questions",
        requests_sha256=requests_sha256(examples, options),
        window_s=load.window_s,
    )


def _metrics_url(args: argparse.Namespace) -> str | None:
    found = metrics_url_from(args)
    if found is None:
        return None
    try:
        stage_snapshot(found, args.model)
    except InputError:
        if args.metrics_url is not None:
            raise
        return None  # nobody asked for it
    return found


def _write(folder: Path, new: Run) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"-o {folder}: cannot be made a folder: {error.strerror}") from error
    title = f"{new.header.model}: {new.header.dataset}"
    files = {
        "bench.json": json_from_run(new) + "\n",
        "bench.csv": csv_from_run(new),
        "bench.svg": svg_from_measurements(new.measurements, title=title),
    }
    with interruptions_held():  # all are of one run
        for name, text in files.items():
            write_atomically(folder / name, text)
