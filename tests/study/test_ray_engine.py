"""Ray: the same records as one process, also when a machine is lost on the way."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.study.toy import write_study

from thalweg.core.errors import ThalwegError
from thalweg.study.plan import StudyPlan
from thalweg.study.ray_engine import RayEngine
from thalweg.study.study import Study, run_study
from thalweg.study.study_file import read_study

ray = pytest.importorskip("ray")
# Ray's own modules warn of what they are about to change.
pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::ResourceWarning", "ignore::DeprecationWarning"
)


def values(out: Path) -> dict[str, Any]:
    rows = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    return {row["task"]: (row["value"], row["num_threads"]) for row in rows}


@pytest.fixture
def plan(toy_folder: Path) -> StudyPlan:
    little = {"seeds": "seeds = 2", "moments": 'moments = ["end"]', "modes": 'modes = ["running"]'}
    return StudyPlan(read_study(write_study(toy_folder, **little)), toy_folder / "out")


@pytest.fixture
def no_ray() -> Iterator[None]:
    yield
    ray.shutdown()


def test_a_local_cluster_is_started_where_none_runs(plan: StudyPlan, toy_folder: Path, no_ray: None) -> None:
    run_study(plan, engine=RayEngine(plan, threads=1), workers=len(os.sched_getaffinity(0)))
    assert not ray.is_initialized(), "what was started is stopped"
    assert Study.open(plan.out).status()["done"] == len(plan.tasks)
    here = StudyPlan(plan.spec, toy_folder / "here")
    run_study(here, workers=len(os.sched_getaffinity(0)))
    assert values(plan.out) == values(here.out)


def test_a_cluster_that_cannot_be_reached(plan: StudyPlan, no_ray: None) -> None:
    with pytest.raises(ThalwegError, match=r"the Ray cluster at 'auto' cannot be reached .*`ray status`"):
        RayEngine(plan, address="auto").__enter__()


def test_a_task_that_fits_nowhere_is_refused(plan: StudyPlan, no_ray: None) -> None:
    with pytest.raises(
        ThalwegError, match=r"no machine of the Ray cluster has room for a task of 500 processors"
    ):
        RayEngine(plan, threads=500).__enter__()


@pytest.mark.parametrize(
    ("threads", "gpus", "room"),
    [(1, 0.0, 6), (2, 0.0, 2), (3, 0.0, 2), (4, 0.0, None), (1, 1.0, 1), (1, 0.1, 3), (1, 2.0, None)],
)
def test_a_task_needs_room_on_one_machine(
    monkeypatch: pytest.MonkeyPatch, threads: int, gpus: float, room: int | None
) -> None:
    """Two of three processors, one with an accelerator; a third is lost."""
    machines = [
        {"Alive": True, "Resources": {"CPU": 3.0, "GPU": 1.0}},
        {"Alive": True, "Resources": {"CPU": 3.0}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
    ]
    monkeypatch.setattr(ray, "nodes", lambda: machines)
    source: Any = None
    engine = RayEngine(source, threads=threads, gpus=gpus)
    if room is None:
        with pytest.raises(ThalwegError, match=r"no machine .* its machines have 3 and 1; 3 and 0"):
            engine._room()
    else:
        assert engine._room() == room


@pytest.mark.slow
def test_a_machine_lost_on_the_way_costs_nothing_but_time(
    plan: StudyPlan, toy_folder: Path, no_ray: None
) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    cluster.add_node(num_cpus=0)  # the head, which survives
    lost = cluster.add_node(num_cpus=1)
    cluster.add_node(num_cpus=1)
    path = os.pathsep.join(sys.path)
    ray.init(address=cluster.address, runtime_env={"env_vars": {"PYTHONPATH": path}}, log_to_driver=False)

    class Watch:
        """Takes one machine away once some tasks are done."""

        done = 0

        def start(self, *_: object) -> None: ...

        def advance(self, *_: object) -> None: ...

        def finish(self, *_: object) -> None:
            self.done += 1
            if self.done == 6:
                cluster.remove_node(lost, allow_graceful=False)

    try:
        watch = Watch()
        run_study(plan, engine=RayEngine(plan, threads=1), watcher=watch, workers=2)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert Study.open(plan.out).status()["done"] == len(plan.tasks)
    here = StudyPlan(plan.spec, toy_folder / "here")
    run_study(here, workers=2)
    assert values(plan.out) == values(here.out)
