"""A study from its file to its verdicts: run once, whatever interrupts it, and only what is new."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.study.toy import write_study

from thalweg.core.atomic import replacing
from thalweg.core.errors import ThalwegError
from thalweg.core.lock import sole_writer
from thalweg.study.changes import changes
from thalweg.study.plan import StudyPlan
from thalweg.study.spec import DataSpec
from thalweg.study.store import Store, same_result
from thalweg.study.study import STUDY_FILE, Study, run_study
from thalweg.study.study_file import read_study
from thalweg.study.table import rows
from thalweg.training.branch import kept_checkpoint
from thalweg.training.trainer import CHECKPOINT_FILE

# Lines of the study that make it as little as will do.
LITTLE = {"seeds": "seeds = 1", "moments": 'moments = ["end"]'}

# What two runs of one study may differ in.
CIRCUMSTANCES = ("seconds", "host")


def plan(folder: Path, out: str = "out", preset: str | None = None, **replaced: str) -> StudyPlan:
    return StudyPlan(read_study(write_study(folder, **replaced), preset), folder / out)


def results(out: Path) -> dict[str, dict[str, Any]]:
    """What the store holds, by task, but for the circumstances."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(out.glob("records*.jsonl")):
        for line in file.read_text().splitlines():
            row = json.loads(line)
            assert row["task"] not in found, "nothing is doubled"
            found[row["task"]] = {k: v for k, v in row.items() if k not in CIRCUMSTANCES}
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy study, run without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    from tests.study.toy import write_module

    write_module(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.delitem(sys.modules, "toy_networks", raising=False)
        patch.setattr("thalweg.study.study.cores", lambda: 1)
        run_study(plan(folder), workers=1)
        sys.modules.pop("toy_networks", None)
    return folder / "out"


def test_every_run_is_measured_at_each_moment_in_each_mode(whole: Path) -> None:
    study = Study.open(whole)
    assert study.status() == {
        "done": len(study.tasks),
        "diverged": 0,
        "refused": 0,
        "crashed": 0,
        "blocked": 0,
        "open": 0,
    }
    table = rows(study)
    sam = [(r["model"], r["seed"], r["moment"], r["mode"]) for r in table if r["name"] == "sam_sharpness"]
    modes = {"bn": ["running", "batch"], "plain": ["any"]}
    expected = [
        (model, seed, moment, mode)
        for seed in (1, 2)
        for model in ("bn", "plain")
        for moment in ("epoch 1", "end")
        for mode in modes[model]
    ]
    assert sorted(sam) == sorted(expected)
    assert {r["name"] for r in table} == {
        *("gap", "train_loss", "test_loss", "train_accuracy", "test_accuracy"),
        *("sam_sharpness", "average", "barrier"),
    }
    barriers = [(r["model"], r["seed"]) for r in table if r["name"] == "barrier" and r["mode"] != "batch"]
    assert barriers == [("bn", "1-2"), ("plain", "1-2")]
    assert all(r["low"] <= r["value"] <= r["high"] for r in table)


def test_the_numbers_are_those_of_the_library(whole: Path, toy_folder: Path) -> None:
    import thalweg as tw
    from thalweg.models.registry import build_model
    from thalweg.training.checkpoint import load_weights

    (row,) = [
        r
        for r in rows(Study.open(whole))
        if (r["name"], r["model"], r["seed"], r["moment"], r["mode"])
        == ("sam_sharpness", "bn", 1, "end", "batch")
    ]
    made = plan(toy_folder)
    run = next(run for run in made.runs if run.run == row["run"])
    network = build_model("toy_networks:Net", 1, batch_norm=True)
    folder = made.folder(run).name
    load_weights(whole / "checkpoints" / folder / "model.safetensors", network)
    objective = tw.Objective(network.eval(), made.train_data(run.settings), batch_norm="batch", batch_size=16)
    record = next(r for r in Study.open(whole).records.values() if r.content["value"] == row["value"])
    seed = record.content["provenance"]["arguments"]["seed"]
    assert tw.sam_sharpness(objective, seed=seed).value == pytest.approx(row["value"], rel=1e-5)


def test_a_study_is_never_done_twice(toy_folder: Path, whole: Path) -> None:
    class Nothing:
        num_slots = 1

        def __enter__(self) -> Nothing:
            return self

        def __exit__(self, *_: object) -> None: ...

        def submit(self, task: object, progress: object) -> None:
            raise AssertionError("nothing is left to do")

        def next_done(self) -> Any:
            raise AssertionError

    made = StudyPlan(plan(toy_folder).spec, whole)
    assert len(run_study(made, engine=Nothing())) == len(made.tasks)


def test_several_processes_give_the_same_records_on_the_threads_of_the_first_run(
    toy_folder: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two cores two processes have one each; one process alone would have both."""
    monkeypatch.setattr("thalweg.study.study.cores", lambda: 2)
    here, out = torch.get_num_threads(), toy_folder / "two"
    try:
        torch.set_num_threads(2)
        run_study(plan(toy_folder, "two"), workers=2)
        assert Study.open(out).threads == Study.open(whole).threads == 1
        assert results(out) == results(whole)
        run_study(plan(toy_folder, "two", preset="three"), workers=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(here)
    assert len(results(out)) > len(results(whole))
    assert {row["num_threads"] for row in results(out).values()} == {1}


def test_more_seeds_add_runs_and_change_none(toy_folder: Path, whole: Path) -> None:
    out = toy_folder / "out"
    out.mkdir()
    for file in ("records.jsonl", STUDY_FILE):
        (out / file).write_bytes((whole / file).read_bytes())
    before = (out / "records.jsonl").read_bytes()
    run_study(plan(toy_folder, preset="three"), workers=1)
    after = (out / "records.jsonl").read_bytes()
    assert after.startswith(before)
    added = [json.loads(line) for line in after[len(before) :].splitlines()]
    assert {row["labels"]["seed"] for row in added} == {3}, "a third seed has no partner"
    assert Study.open(out).status()["done"] == len(Study.open(out).tasks)


def test_a_changed_setting_makes_other_runs_and_old_records_stay(toy_folder: Path, whole: Path) -> None:
    out = toy_folder / "out"
    out.mkdir()
    (out / "records.jsonl").write_bytes((whole / "records.jsonl").read_bytes())
    run_study(plan(toy_folder, lr="lr = 0.05", seeds="seeds = 1"), workers=1)
    study = Study.open(out)
    assert study.status()["done"] == len(study.tasks)
    assert len(study.store.records()) == len(study.tasks) + len(results(whole))
    assert not {r.run for r in study.records.values()} & {row["run"] for row in results(whole).values()}


def test_another_function_that_a_network_calls_makes_other_runs(
    toy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = toy_folder / "toy_networks.py"
    text = module.read_text().replace("torch.tanh(", "act(") + "\n\ndef act(x):\n    return torch.tanh(x)\n"

    def runs() -> list[str]:
        monkeypatch.delitem(sys.modules, "toy_networks", raising=False)
        return [run.run for run in plan(toy_folder).runs]

    module.write_text(text)
    before = runs()
    assert runs() == before
    module.write_text(text.replace("return torch.tanh", "return torch.relu"))
    assert not {*runs()} & {*before}


def test_another_moment_trains_again_but_measures_only_what_is_new(toy_folder: Path, whole: Path) -> None:
    out = toy_folder / "out"
    out.mkdir()
    (out / "records.jsonl").write_bytes((whole / "records.jsonl").read_bytes())
    moments = 'moments = ["epoch 1", "step 2", "loss 0.6", "end"]'
    run_study(plan(toy_folder, moments=moments, seeds="seeds = 1"), workers=1)
    old = results(whole)
    new = {k: row for k, row in results(out).items() if k not in old}
    assert {row["labels"].get("moment") for row in new.values()} == {None, "step 2", "loss 0.6"}
    assert Study.open(out).status()["done"] > 0
    reached = [r for r in rows(Study.open(out)) if r["moment"] == "loss 0.6" and r["name"] == "train_loss"]
    assert all(r["status"] in ("done", "refused") for r in reached)
    # The look is at running statistics, on the very examples that are measured.
    assert all(
        r["value"] <= 0.6 for r in reached if r["status"] == "done" and r["mode"] in ("running", "any")
    )


def test_networks_without_batch_norm_are_the_same_folded_or_not(toy_folder: Path, whole: Path) -> None:
    out = shutil.copytree(whole, toy_folder / "out")
    folded = '[pairs.barrier]\nfold_batch_norm = true\nmodes = ["running"]'
    run_study(plan(toy_folder, **{"[pairs.barrier]": folded}), workers=1)
    assert Study.open(out).status()["done"] == len(Study.open(out).tasks)
    values = {
        row["value"]
        for row in results(out).values()
        if (row["labels"]["name"], row["labels"]["model"]) == ("barrier", "plain")
    }
    assert len(values) == 1, "two records of one number"


def test_looking_elsewhere_may_find_the_same_and_is_another_record(toy_folder: Path) -> None:
    """The same step, or the same curve of training, may come of every one of these files."""
    quantity = '[quantities.NAME]\nkind = "steps_to_loss"\nloss = 9.0\n[measures.sam_sharpness]'
    changes: list[dict[str, str]] = [
        {"moments": 'moments = ["end"]'},
        {"moments": 'moments = ["end"]\nlook_every = 4'},
        {"moments": 'moments = ["loss 9.0", "end"]\nlook_every = 4'},
        {"moments": 'moments = ["loss 9.0", "end"]\nlook_every = 2'},
        {"[measures.sam_sharpness]": quantity.replace("NAME", "fast")},
        {"[measures.sam_sharpness]": quantity.replace("NAME", "quick")},
        {
            "modes": 'modes = ["running"]\nnum_examples = 32',
            "[measures.sam_sharpness]": quantity.replace("NAME", "quick"),
        },
    ]
    for change in changes:
        made = plan(toy_folder, **{**LITTLE, "modes": 'modes = ["running"]', **change})
        run_study(made, workers=1)
        assert Study.open(made.out).status()["done"] == len(made.tasks), change


ANOTHER = {"[measures.sam_sharpness]": "[measures.sam_sharpness]\n[measures.fisher_rao_norm]"}


def test_networks_that_are_gone_are_trained_again_and_come_out_the_same(toy_folder: Path) -> None:
    """All of one run, what another kept on its way; a third measured of nothing more would stay as it is."""
    little = {"seeds": "seeds = 1", "modes": 'modes = ["running"]', "moments": 'moments = ["epoch 1", "end"]'}
    run_study(plan(toy_folder, **little), workers=1)
    out = toy_folder / "out"
    before = Store(out).records()
    first, second = sorted((out / "checkpoints").iterdir())
    shutil.rmtree(first)
    (second / "step4.safetensors").unlink()
    run_study(plan(toy_folder, **little), workers=1)
    assert len(Store(out).records()) == len(before), "nothing needs them"
    made = plan(toy_folder, **little | ANOTHER)
    run_study(made, workers=1)
    assert Study.open(out).status()["done"] == len(made.tasks)
    added = Store(out).records()[len(before) :]
    trained = {record.task: record for record in added if record.measure == "train"}
    assert len(trained) == 2
    for record in before:
        if record.task in trained:
            assert same_result(record.content, trained[record.task].content)
    assert len(added) == 2 + 4


def test_a_network_that_comes_out_otherwise_is_not_mixed_with_the_one_before(toy_folder: Path) -> None:
    little = {**LITTLE, "modes": 'modes = ["running"]'}
    made = plan(toy_folder, **little)
    run_study(made, workers=1)
    shutil.rmtree(made.folder(made.runs[0]))
    store = Store(made.out)
    lines = [json.loads(line) for line in store.file.read_text().splitlines()]
    (line,) = (x for x in lines if x["measure"] == "train" and x["run"] == made.runs[0].run)
    line["value"] = 0.125  # as another machine had it
    store.file.write_text("".join(json.dumps(x) + "\n" for x in lines))
    for attempt in (2, 3):
        run_study(plan(toy_folder, **little | ANOTHER), workers=1)
        (failure,) = [r.failure for r in Study.open(made.out).records.values() if r.failure]
        assert (failure.kind, failure.attempt) == ("crashed", attempt)
        assert "came out otherwise (0." in failure.reason
        assert "before 0.125)" in failure.reason
        assert Study.open(made.out).status()["blocked"] == 1, "of the other network nothing is measured"


def test_a_run_that_diverges_is_recorded_and_the_study_goes_on(toy_folder: Path) -> None:
    made = plan(toy_folder, lr="lr = 1e38")
    run_study(made, workers=1)
    study = Study.open(made.out)
    status = study.status()
    assert status["diverged"] == 4
    assert status["blocked"] == len(study.tasks) - 4
    reasons = {r["reason"] for r in rows(study)}
    assert any(reason.startswith("training diverged: ") for reason in reasons)
    before = (made.out / "records.jsonl").read_bytes()
    run_study(made, workers=1)
    assert (made.out / "records.jsonl").read_bytes() == before, "it would diverge again"


def test_a_crash_is_recorded_and_tried_again_by_the_next_call(
    toy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import thalweg.study.plan as plan_module

    made = plan(toy_folder, seeds="seeds = 1")
    gap = plan_module.generalization_gap

    def out_of_memory(*_: object, **__: object) -> None:
        raise MemoryError("no memory left")

    monkeypatch.setattr(plan_module, "generalization_gap", out_of_memory)
    run_study(made, workers=1)
    study = Study.open(made.out)
    crashed = [r for r in study.records.values() if r.failure]
    assert crashed
    assert {r.failure.kind for r in crashed if r.failure} == {"crashed"}
    assert all("no memory left" in r.failure.reason for r in crashed if r.failure)
    monkeypatch.setattr(plan_module, "generalization_gap", gap)
    run_study(made, workers=1)
    assert Study.open(made.out).status()["done"] == len(study.tasks)


def test_a_worker_that_dies_costs_its_own_task_alone(toy_folder: Path) -> None:
    made = plan(toy_folder, plain='plain = "toy_networks:Dying"', **LITTLE)
    run_study(made, workers=2)
    study = Study.open(made.out)
    for task in study.tasks:
        is_dying = "plain" in str(task.labels["model"])
        expected = ("crashed" if task.measure == "train" else "blocked") if is_dying else "done"
        assert study.state(task) == expected, task.labels


def test_data_that_are_others_in_a_worker_are_named(toy_folder: Path) -> None:
    with (toy_folder / "toy_networks.py").open("a") as module:
        module.write(
            "\n\ndef drawn():\n    import os\n"
            "    x = torch.frombuffer(bytearray(os.urandom(576)), dtype=torch.uint8).reshape(96, 6) / 255\n"
            "    return (x[:64], (x[:64, 0] > 0.5).long()), (x[64:], (x[64:, 0] > 0.5).long())\n"
        )
    made = plan(toy_folder, **LITTLE)
    made = StudyPlan(made.spec.model_copy(update={"data": DataSpec(name="toy_networks:drawn")}), made.out)
    changed = "the training data of toy_networks:drawn, the test data of toy_networks:drawn: not the same in"
    with pytest.raises(ThalwegError, match=changed):
        run_study(made, workers=2)
    assert Store(made.out).records() == []


def test_a_script_without_the_guard_is_told_of_it(toy_folder: Path) -> None:
    write_study(toy_folder, **LITTLE)
    script = toy_folder / "script.py"
    script.write_text('import thalweg as tw\ntw.Study.run("toy.toml", "out", workers=2)\n')
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(toy_folder), *sys.path])}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=toy_folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "a worker process ended with exit code 1 before it could begin" in last
    assert 'needs the guard `if __name__ == "__main__":`' in last
    assert "ThalwegError: a worker process must not run the study itself" in done.stderr
    assert Store(toy_folder / "out").records() == [], "no task is at fault"


def test_a_full_disk_ends_the_study_and_loses_nothing(
    toy_folder: Path, monkeypatch: pytest.MonkeyPatch, whole: Path
) -> None:
    made = plan(toy_folder)
    append, count = Store.append, 0

    def fills_up(self: Store, record: Any) -> Any:
        nonlocal count
        count += 1
        if count == 5:
            with self.file.open("a") as f:
                f.write(record.to_line()[:50])  # as much as there was room for
            raise OSError(28, "No space left on device")
        return append(self, record)

    monkeypatch.setattr(Store, "append", fills_up)
    with pytest.raises(OSError, match="No space left"):
        run_study(made, workers=1)
    monkeypatch.setattr(Store, "append", append)
    assert len(Store(made.out).records()) == 4
    run_study(made, workers=1)
    assert results(made.out) == results(whole)


def test_two_runners_on_one_store_are_told_at_once(toy_folder: Path) -> None:
    made = plan(toy_folder)
    with sole_writer(made.out, "out"), pytest.raises(ValueError, match="another one is at work in"):
        run_study(made, workers=1)
    assert not (made.out / STUDY_FILE).exists(), "whoever is at work there has its own file"


def test_shards_share_a_store_and_leave_pairs_to_the_last(toy_folder: Path, whole: Path) -> None:
    made = plan(toy_folder)
    with Store(made.out, "2-of-2").writing():  # at work at the same time
        run_study(made, workers=1, shard=(1, 2))
        with pytest.raises(ValueError, match="another one is at work"):
            run_study(made, workers=1)
    run_study(made, workers=1, shard=(2, 2))
    names = {row["labels"]["name"] for row in results(made.out).values()}
    assert names == {"train", "gap", "sam_sharpness", "average"}
    run_study(made, workers=1)
    assert results(made.out) == results(whole)


def test_a_store_of_a_later_version_is_refused(toy_folder: Path) -> None:
    made = plan(toy_folder)
    made.out.mkdir()
    with replacing(made.out / STUDY_FILE) as partial:
        partial.write_text(json.dumps({"schema": 99}))
    with pytest.raises(ValueError, match=r"has schema 99, this version reads up to 1; upgrade thalweg"):
        Study.open(made.out)
    with pytest.raises(ValueError, match=r"has no study\.json"):
        Study.open(toy_folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"schema": 99, "new": "precious"}', "has schema 99, this version reads up to 1; upgrade thalweg"),
        ('{"sche', r"study\.json is damaged \(JSONDecodeError: .*\)\. Put back what it was, or remove it"),
        ("{}", r"is damaged \(KeyError: 'schema'\)"),
        ("[]", r"is damaged \(TypeError"),
        ('{"schema": 1, "spec": {}, "tasks": []}', r"is damaged \(KeyError: 'threads'\)"),
    ],
)
def test_a_folder_that_cannot_be_read_is_not_written_over(
    toy_folder: Path, content: str, message: str
) -> None:
    made = plan(toy_folder)
    made.out.mkdir()
    (made.out / STUDY_FILE).write_text(content)
    for attempt in (lambda: run_study(made, workers=1), lambda: Study.open(made.out), lambda: changes(made)):
        with pytest.raises(ValueError, match=message):
            attempt()
    assert (made.out / STUDY_FILE).read_text() == content
    assert not Store(made.out).file.exists()


def test_what_has_changed_since_the_last_run_is_said(toy_folder: Path, whole: Path) -> None:
    out = toy_folder / "out"
    assert changes(plan(toy_folder)) == []
    out.mkdir()
    (out / STUDY_FILE).write_bytes((whole / STUDY_FILE).read_bytes())
    same = plan(toy_folder)
    assert changes(same) == []
    num = len(same.tasks)
    first, second = changes(plan(toy_folder, lr="lr = 0.05", margin="margin = 2.0"))
    assert first.endswith("last run: training.lr 0.1 -> 0.05; claims.flatter.margin 1.5 -> 2.0")
    assert (
        second == f"{num} tasks are new, {num} no longer asked for, whose records stay in the store, unused"
    )
    _, more = changes(plan(toy_folder, preset="three"))
    assert more.endswith(" tasks are new, 0 no longer asked for")
    module = toy_folder / "toy_networks.py"
    module.write_text(module.read_text() + "# another line\n")
    code, _ = changes(plan(toy_folder))
    assert code.startswith("the study file is as this folder was last run with, but code, data or versions")


def start(folder: Path, out: Path, workers: int = 1) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    command = [
        sys.executable,
        "-m",
        "thalweg",
        "study",
        "run",
        "toy.toml",
        "--out",
        str(out),
        "--workers",
        str(workers),
    ]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )


def children(pid: int) -> list[int]:
    """Processes that one has begun, and those they have."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += [int(child), *children(int(child))]
    return found


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_workers_die_with_a_runner_that_is_killed(toy_folder: Path) -> None:
    write_study(toy_folder)
    process = start(toy_folder, toy_folder / "out", workers=2)
    deadline = time.monotonic() + 500
    while not (toy_folder / "out" / "records.jsonl").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    workers = [
        pid for pid in children(process.pid) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    assert workers
    process.send_signal(signal.SIGKILL)
    process.wait()
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline, "a worker lives on"
        time.sleep(0.1)


@pytest.mark.slow
def test_killed_at_random_moments_twenty_times_the_records_are_equal(toy_folder: Path) -> None:
    write_study(toy_folder)
    began = time.monotonic()
    assert start(toy_folder, toy_folder / "one").wait() == 0
    whole_time = time.monotonic() - began
    clock = random.Random(0)
    out = toy_folder / "killed"
    for i in range(20):
        process = start(toy_folder, out, workers=1 + i % 2)
        time.sleep(clock.uniform(0.3, 1.0) * whole_time)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start(toy_folder, out).wait() == 0
    assert results(out) == results(toy_folder / "one")


def test_pairs_are_disjoint_or_all_there_are(toy_folder: Path) -> None:
    """And another process, which is sent the plan as what it was made of, plans the same."""

    def pairs(made: StudyPlan) -> list[str]:
        found = [t.labels for t in made.tasks if t.labels["name"] == "barrier"]
        return [f["seed"] for f in found if (f["model"], f["mode"]) == ("bn", "running")]

    more = '[presets.every.pairs.barrier]\npairing = "all"'
    disjoint, every = (plan(toy_folder, preset=p, seeds="seeds = 5", more=more) for p in (None, "every"))
    assert pairs(disjoint) == ["1-2", "3-4"]
    assert pairs(every) == ["1-2", "1-3", "1-4", "1-5", "2-3", "2-4", "2-5", "3-4", "3-5", "4-5"]
    assert set(disjoint.tasks_by_key()) < set(every.tasks_by_key()), "what was measured before stays"
    sent = pickle.loads(pickle.dumps(every))
    assert list(sent.tasks_by_key()) == list(every.tasks_by_key())


# Two schedules that part after four of six epochs, one of them of another length, and one that parts at once.
PARTING = """
[grid.axes]
"training.gamma" = [1.0, 0.1]
"training.step_size" = [5, 1]
"""
LATE = {
    "moments": 'moments = ["epoch 1", "loss 0.65", "end"]',
    "epochs": "epochs = 6\nevaluate_every = 4",
}


@pytest.mark.parametrize("workers", [1, 2])
def test_what_two_schedules_share_is_trained_once_and_changes_no_bit(
    toy_folder: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = {**LITTLE, **LATE}
    study = read_study(write_study(toy_folder, PARTING, **lines))
    shared, apart = StudyPlan(study, toy_folder / "shared"), StudyPlan(study, toy_folder / "apart")
    left = {run.run: run for run in shared.runs if shared.origin(run)}
    assert {(run.labels["gamma"], run.labels["step_size"]) for run in left.values()} >= {(0.1, 5)}
    assert (0.1, 1) not in {(run.labels["gamma"], run.labels["step_size"]) for run in left.values()}
    run_study(shared, workers=workers)
    with monkeypatch.context() as patch:
        patch.setattr("thalweg.study.shared_runs.shared_epochs", lambda a, b: 0)
        run_study(apart, workers=1)
    assert not apart._origins

    ours, theirs = results(shared.out), results(apart.out)
    assert ours.keys() == theirs.keys()
    assert all(same_result(row, theirs[key]) for key, row in ours.items())
    assert any(row["labels"].get("moment") == "loss 0.65" and "value" in row for row in ours.values())
    for run in apart.runs:
        for path in apart.folder(run).glob("*.safetensors"):
            alike, there = load_file(path), load_file(shared.folder(run) / path.name)
            assert alike.keys() == there.keys()
            assert all(torch.equal(alike[name], there[name]) for name in alike), path


@pytest.mark.parametrize("harm", ["none kept", "damaged", "refused"])
def test_a_run_whose_origin_is_of_no_use_is_trained_from_the_start(toy_folder: Path, harm: str) -> None:
    lines = {**LITTLE, **LATE}
    study = read_study(write_study(toy_folder, PARTING, **lines))
    made, whole = StudyPlan(study, toy_folder / f"out {harm}"), StudyPlan(study, toy_folder / "whole")
    run_study(whole, workers=1)
    other = next(run for run in made.runs if made.origin(run))
    origin = made.origin(other)
    assert origin is not None
    kept = kept_checkpoint(made.folder(origin), made.shared_steps(other))
    if harm == "refused":  # it cannot be gone on with, and stays so
        made.folder(origin).mkdir(parents=True)
        (made.folder(origin) / CHECKPOINT_FILE).write_bytes(b"none")
    else:
        shutil.copytree(whole.folder(origin), made.folder(origin))
        kept.unlink()
        if harm == "damaged":
            kept.write_bytes(b"none")
    records = {r.task: r for r in run_study(made, workers=1)}
    training = {task.run: records[task.key] for task in made.tasks if task.measure == "train"}
    assert bool(training[origin.run].failure) == (harm == "refused")
    assert not training[other.run].failure
    ours, theirs = results(made.out), results(whole.out)
    assert all(ours[key] == theirs[key] for key, row in ours.items() if row["run"] == other.run)
