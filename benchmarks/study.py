"""What the study runner costs, and how it scales: overhead, workers, stores of many records.

``python benchmarks/study.py [overhead|workers|store ...]`` prints a table each. Everything is measured in one
run, so that only ratios count. `workers` needs an otherwise idle machine, and `store` counts seconds of the
processor beside those of the clock, which others on the machine lengthen.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

STUDY = """
name = "benchmark"
seeds = {seeds}
[models]
plain = "small_cnn"
[data]
num_train = {num_train}
num_test = 1000
[training]
epochs = {epochs}
[objective]
num_examples = 1024
modes = ["running"]
[measures.sam_sharpness]
[measures.fisher_rao_norm]
"""

# Runs of about half a minute each, as the target has them.
OVERHEAD = {"seeds": 2, "num_train": 10_000, "epochs": 6}
WORKERS = {"seeds": 4, "num_train": 4_000, "epochs": 3}
SIZES = (1_000, 10_000, 100_000)


def made(folder: Path, **numbers: int):
    """The plan of the benchmark's study in a folder."""
    from thalweg.study.plan import StudyPlan
    from thalweg.study.study_file import read_study

    file = folder / "benchmark.toml"
    file.write_text(STUDY.format(**numbers))
    return StudyPlan(read_study(file), folder / "out")


def overhead(folder: Path) -> None:
    """Wall time of a study in this process over that of the work in its tasks, both of one run of it.

    The same tasks called one by one are no yardstick: two such runs differ by more than two per cent.
    """
    from thalweg.study.study import run_study

    plan = made(folder, **OVERHEAD)
    began = time.perf_counter()
    num_tasks = len(plan.tasks)
    planned = time.perf_counter() - began
    began = time.perf_counter()
    records = run_study(plan, workers=1)
    whole = time.perf_counter() - began
    inside = sum(record.seconds for record in records)
    print(f"{OVERHEAD['seeds']} runs, {num_tasks} tasks, {whole / OVERHEAD['seeds']:.1f} s a run")
    print(f"  once, whatever the number of runs: {planned:.2f} s to read the data and plan")
    print(f"  wall time by the work of its tasks: {whole / inside - 1:+.2%} (target: under 2 %)")


def workers(folder: Path) -> None:
    """One one-thread worker, two of them, one of two threads, and the default."""
    from thalweg.study import study as study_module
    from thalweg.study.study import STUDY_FILE, run_study

    def seconds(name: str, num_workers: int | None, threads: int | None) -> float:
        place = folder / name
        place.mkdir()
        plan = made(place, **WORKERS)
        plan.out.mkdir()
        if threads is not None:
            # What a first run would choose is written there for it.
            study_module._freeze(plan, [], threads)
        began = time.perf_counter()
        run_study(plan, workers=num_workers)
        took = time.perf_counter() - began
        found = json.loads((plan.out / STUDY_FILE).read_text())["threads"]
        print(f"  {name}: {took:.1f} s ({found} threads each)")
        return took

    one = seconds("one worker of one thread", 1, 1)
    two = seconds("two workers of one thread", 2, 1)
    wide = seconds("one worker of two threads", 1, 2)
    default = seconds("the default", None, None)
    print(f"  two workers by one: {one / two:.2f} times (target: 1.7)")
    print(f"  the default by one worker of two threads: {wide / default:.2f} times (target: never below 1)")


def store(folder: Path) -> None:
    """Reading, reporting and appending, by the number of records."""
    from tests.report.made_up_studies import batch_norm_study, made_up_store

    from thalweg.report.study_page import write_study_page
    from thalweg.study.store import Record, Store
    from thalweg.study.study import Study
    from thalweg.study.table import rows

    def studied(num_seeds: int):
        # All pairs of hundreds of seeds would be most of the records.
        return batch_norm_study(num_seeds, pairs={"barrier": {"measure": "linear_path"}})

    print("records   read  table  page  its processor time  open for writing  append 100")
    for size in SIZES:
        made_up_store(folder / "small", studied(2))
        per_seed = len(Store(folder / "small").records()) / 2
        shutil.rmtree(folder / "small")
        place = made_up_store(folder / str(size), studied(max(2, round(size / per_seed))))
        began = time.perf_counter()
        records = Store(place).records()
        read = time.perf_counter() - began
        study = Study.open(place)
        began = time.perf_counter()
        rows(study)
        table = time.perf_counter() - began
        began, spent = time.perf_counter(), time.process_time()
        # From the folder: read, table and verdicts are in it.
        write_study_page(Study.open(place), place / "report.html")
        report, spent = time.perf_counter() - began, time.process_time() - spent
        filled = Store(place)
        began = time.perf_counter()
        with filled.writing():
            opened = time.perf_counter() - began
            began = time.perf_counter()
            for i in range(100):
                content = {**records[0].content, "provenance": {"extra": i}}
                filled.append(Record(run="extra", task=f"extra{i}", content=content))
            append = time.perf_counter() - began
        size_of = (place / "report.html").stat().st_size / 2**20
        print(
            f"{len(records):7,} {read:6.2f} {table:6.2f} {report:5.2f} {spent:19.2f} {opened:17.2f}"
            f" {append:11.3f}   page {size_of:.1f} MiB",
            flush=True,
        )


PARTS = {"overhead": overhead, "workers": workers, "store": store}


def main() -> None:
    """Run the parts that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parts = parser.parse_args().parts or list(PARTS)
    print(f"{os.cpu_count()} processors, torch {torch.__version__}")
    for part in parts:
        print(part)
        with tempfile.TemporaryDirectory() as folder:
            PARTS[part](Path(folder))


if __name__ == "__main__":
    main()
