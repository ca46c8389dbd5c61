"""What the contract of `duomem.envs` asks of any environment, checked on one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from duomem.envs import Env
from duomem.errors import UsageError
from duomem.types import ToolCall


def holds(make: Callable[[], Env], name: str, nonsense: ToolCall, *, other: str = "dev", secret: str = "") -> None:
    """Tasks are stable, split and hashed; an episode is single use; two plays of a task do not touch each other. `secret` is a
    path of this machine that no record may name."""
    env = make()
    tasks = env.tasks("train")
    assert [task.id for task in tasks] == sorted({task.id for task in tasks})
    assert {(task.split, task.env) for task in tasks} == {("train", name)}
    assert len({task.data_hash for task in tasks}) == len(tasks)
    assert not {task.id for task in tasks} & {task.id for task in env.tasks(other)}
    assert make().tasks("train") == tasks
    with pytest.raises(UsageError, match=r"no .*split"):
        env.tasks("nonsense")
    assert all(isinstance(value, str) and (not secret or secret not in value) for value in env.provenance().values())
    assert env.labels(tasks[0]).kind
    first, second = env.open(tasks[0]), env.open(tasks[0])
    seen = first.observe()
    assert seen == second.observe()
    assert seen.goal
    assert not seen.won
    assert first.tools()
    with pytest.raises(RuntimeError):
        first.observe()
    after = first.step(nonsense)
    assert (after.valid, after.won, after.done) == (False, False, False)
    first.close()
    first.close()
    with pytest.raises(RuntimeError):
        first.step(nonsense)
    assert second.step(nonsense) == after, "two plays of one task do not touch each other"
    second.close()
