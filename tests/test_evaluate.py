"""Arms are played on the same games, each once, and nothing that only evaluation may know is shown to anyone."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from duomem import evaluate, placebo
from duomem.agent import Player
from duomem.errors import DataError, Incomplete, UsageError
from duomem.journal import Journal
from duomem.rollout import Progress, Rollout
from duomem.scores import ARMS, Results
from duomem.types import Budget, EpisodeView, StopReason, Task
from evaluation_world import WORDS, Doors, Nearest, Student, player, shelf, threads

NAMES = ["none", "format_only", "memory", "adapter", "both", "decoy", "teacher"]


def run(
    play: evaluate.Play | None = None,
    *,
    names: Sequence[str] = NAMES,
    seeds: Sequence[int] = (0,),
    env: Doors | None = None,
    student: Student | None = None,
    tasks: Sequence[Task] | None = None,
) -> Results:
    env = env or Doors(24)
    source = Doors(18, "train")
    base = player(env, source, student)
    teacher = replace(base, strategy=None, bank=None, model=Student(adapter=True))
    parts = evaluate.Parts(base, replace(base, model=Student(adapter=True)), teacher)
    labels = evaluate.known_labels((env, env.tasks()), (source, source.tasks()))
    players = {name: lambda seed, name=name: evaluate.seat(ARMS[name], parts, labels) for name in names}
    return evaluate.score_arms(env, tasks or env.tasks(), players, seeds, play=play or threads(), labels=labels, split="unseen")


def rate(results: Results, arm: str) -> float:
    scores = results.of(arm)
    return sum(score.won for score in scores) / len(scores)


def test_arms_do_what_their_names_say() -> None:
    results = run()
    assert results.complete
    assert {arm: rate(results, arm) for arm in NAMES} == {
        "none": 0.0,
        "format_only": 0.0,
        "memory": 1.0,
        "adapter": pytest.approx(2 / 3),
        "both": 1.0,
        "decoy": 0.0,
        "teacher": pytest.approx(2 / 3),
    }
    assert {score.stop for score in results.of("none")} == {StopReason.STEP_CAP}
    assert {score.steps for score in results.of("none")} == {4}
    assert all(score.invalid == 4 for score in results.of("none"))
    assert all(score.memories == 0 and score.similarity is None for score in results.of("adapter"))


def test_each_game_exactly_once_in_every_arm() -> None:
    env = Doors(10)
    results = run(env=env, tasks=list(reversed(env.tasks())))
    assert Counter(env.opened) == dict.fromkeys([task.id for task in env.tasks()], len(NAMES))
    assert list(results.tasks) == sorted(results.tasks)
    assert len(results.scores) == 10 * len(NAMES)
    with pytest.raises(DataError, match="more than once"):
        run(env=env, tasks=[*env.tasks(), env.tasks()[3]])


def test_scores_do_not_depend_on_concurrency_or_order() -> None:
    one = run(threads(1))
    many = run(threads(8), env=Doors(24, jitter=0.004))
    assert one.to_json() == many.to_json()

    def backwards(player: Player, tasks: Sequence[Task], phase: str) -> Rollout:
        return threads()(player, list(reversed(tasks)), phase)

    assert run(backwards).to_json() == one.to_json()


def test_decoys_are_a_placebo() -> None:
    env, source = Doors(24), Doors(60, "train")
    bank, labels = shelf(source), evaluate.known_labels((env, env.tasks()), (source, source.tasks()))
    decoys, real = placebo.Decoys(Nearest(), labels), Nearest()
    totals = [0, 0]
    for task in env.tasks():
        goal = env.open(task).observe().goal
        view = EpisodeView(goal, "scene", exclude_tasks=frozenset({task.id}))
        for k in (0, 1, 3):
            shown, meant = decoys.recall(view, bank, Budget(k=k)), real.recall(view, bank, Budget(k=k))
            assert len(shown.hits) == len(meant.hits) == k
            assert len(set(shown.ids)) == k
            assert list(shown.ids) == sorted(shown.ids)
            assert {labels[memory.provenance.task_id].kind for memory in shown.memories}.isdisjoint({labels[task.id].kind})
            lengths = [sum(len(memory.text) for memory in recall.memories) for recall in (shown, meant)]
            assert abs(lengths[0] - lengths[1]) <= 12
            totals = [total + length for total, length in zip(totals, lengths, strict=True)]
        assert decoys.recall(view, bank, Budget(k=3)) == decoys.recall(view, bank, Budget(k=3))
    assert totals[0] == pytest.approx(totals[1], rel=0.02)


def test_decoys_vary_between_games_and_need_other_types() -> None:
    env, source = Doors(24), Doors(60, "train")
    bank, labels = shelf(source), evaluate.known_labels((env, env.tasks()), (source, source.tasks()))
    decoys = placebo.Decoys(Nearest(), labels)
    picks = {
        decoys.recall(EpisodeView("open the red door", f"scene {n}", exclude_tasks=frozenset({"unseen/secretpath-000"})), bank,
                      Budget(k=2)).ids
        for n in range(20)
    }  # fmt: skip
    assert len(picks) > 5
    view = EpisodeView("open the red door", "", exclude_tasks=frozenset({"unseen/secretpath-000"}))
    with pytest.raises(DataError, match="other task types"):
        decoys.recall(view, shelf(Doors(1, "train")), Budget(k=1))
    with pytest.raises(DataError, match="labels of the game"):
        decoys.recall(EpisodeView("open the red door", ""), bank, Budget(k=1))
    unknown = placebo.Decoys(Nearest(), evaluate.known_labels((env, env.tasks())))
    with pytest.raises(DataError, match="other task types"):
        unknown.recall(view, bank, Budget(k=1))


def test_no_same_room_leaves_out_memories_of_the_room() -> None:
    env, source = Doors(24), Doors(60, "train")
    bank, labels = shelf(source), evaluate.known_labels((env, env.tasks()), (source, source.tasks()))
    elsewhere = placebo.OtherRooms(Nearest(), labels)
    for task in env.tasks():
        view = EpisodeView(env.open(task).observe().goal, "", exclude_tasks=frozenset({task.id}))
        rooms = {labels[memory.provenance.task_id].room for memory in elsewhere.recall(view, bank, Budget(k=4)).memories}
        assert rooms
        assert labels[task.id].room not in rooms
    assert rate(run(names=["memory", "no_same_room"]), "no_same_room") == 1.0


def test_labels_and_paths_are_in_no_prompt() -> None:
    seen: list[str] = []

    def watch(player: Player, tasks: Sequence[Task], phase: str) -> Rollout:
        played = threads()(player, tasks, phase)
        for trajectory in played.trajectories:
            seen.extend(message.text for message in trajectory.prompt)
            seen.extend(turn.reply.message.text + turn.observation + turn.recalled for turn in trajectory.turns)
        return played

    run(watch, names=[*NAMES, "no_same_room", "both_decoy"])
    text = "\n".join(seen)
    assert "Your task: open the red door" in text
    assert WORDS["secretkind_b"] in text
    assert "secret" not in text


def test_an_error_is_never_a_zero() -> None:
    results = run(student=Student(broken=lambda text: "blue" in text and "Procedures" in text), names=["none", "memory"])
    broken = [score for score in results.of("memory") if score.stop is StopReason.ERROR]
    assert len(broken) == 8
    assert not results.complete
    assert results.matrix("memory")[0].tolist().count(0.0) == 0
    with pytest.raises(Incomplete, match=r"socket is gone.*duomem evaluate runs/x") as raised:
        evaluate.require_complete(results, "duomem evaluate runs/x")
    assert raised.value.exit_code == 5
    evaluate.require_complete(run(names=["none"]), "")


def test_a_game_that_was_not_played_or_twice_is_noticed() -> None:
    def forgets(player: Player, tasks: Sequence[Task], phase: str) -> Rollout:
        return threads()(player, tasks[1:], phase)

    def repeats(player: Player, tasks: Sequence[Task], phase: str) -> Rollout:
        played = threads()(player, tasks, phase)
        return replace(played, trajectories=(*played.trajectories, played.trajectories[0]))

    assert any("not played" in problem for problem in run(forgets, names=["none"]).problems())
    assert any("2 times" in problem for problem in run(repeats, names=["none"]).problems())


def test_a_stop_ends_the_evaluation_and_the_journal_resumes_it(tmp_path: Path) -> None:
    cancel = threading.Event()

    def reach(phase: str, progress: Progress) -> None:
        if "/memory/" in phase and progress.done >= 5:
            cancel.set()

    names = ["none", "memory", "both"]
    with Journal.open(tmp_path / "journal.sqlite") as journal:
        cut = run(evaluate.plays(journal, concurrency=2, progress=reach, cancel=cancel), names=names)
        assert not cut.complete
        assert len(cut.of("none")) == 24
        assert 5 <= len(cut.of("memory")) < 24
        assert cut.of("both") == []
        env = Doors(24)
        resumed = run(evaluate.plays(journal, concurrency=2), names=names, env=env)
        assert resumed.complete
        assert len(env.opened) == 24 * 3 - len(cut.scores)
        again = Doors(24)
        assert run(evaluate.plays(journal), names=names, env=again).to_json() == resumed.to_json()
        assert again.opened == []


def test_an_episode_of_a_game_that_changed_is_refused(tmp_path: Path) -> None:
    env = Doors(4)
    changed = [replace(task, data_hash="new") for task in env.tasks()]
    with Journal.open(tmp_path / "journal.sqlite") as journal:
        run(evaluate.plays(journal), names=["none"], env=env)
        with pytest.raises(DataError, match="another game with the same id"):
            run(evaluate.plays(journal), names=["none"], env=env, tasks=changed)


def test_seeds_repeat_only_what_they_change() -> None:
    phases: list[str] = []

    def watch(player: Player, tasks: Sequence[Task], phase: str) -> Rollout:
        phases.append(phase)
        return threads()(player, tasks, phase)

    results = run(watch, seeds=[3, 5], names=["none", "memory", "teacher"])
    assert phases == [
        "evaluate/unseen/none/seed3",
        "evaluate/unseen/memory/seed3",
        "evaluate/unseen/memory/seed5",
        "evaluate/unseen/teacher/seed3",
    ]
    assert results.complete
    assert results.differences("memory", "none").shape == (2, 24)
    with pytest.raises(UsageError, match="different seeds"):
        run(seeds=[1, 1])


def test_sampling_players_repeat_every_arm() -> None:
    env, source = Doors(3), Doors(6, "train")
    base = player(env, source)
    hot = replace(base, strategy=None, bank=None, sampling=replace(base.sampling, temperature=0.7))
    labels = evaluate.known_labels((env, env.tasks()))
    results = evaluate.score_arms(
        env, env.tasks(), {"none": lambda seed: hot}, [0, 1], play=threads(), labels=labels, split="unseen"
    )
    assert results.matrix("none").shape == (2, 3)
    assert results.complete


def test_sample_is_seeded_sorted_and_recorded() -> None:
    tasks = Doors(50).tasks()
    drawn, seed = evaluate.sample(tasks, 10, 7)
    again, _ = evaluate.sample(list(reversed(tasks)), 10, 7)
    assert drawn == again == sorted(drawn, key=lambda task: task.id)
    assert seed == 7
    assert evaluate.sample(tasks, 10, 8)[0] != drawn
    assert evaluate.sample(tasks, 0, 7) == (tasks, None)
    assert evaluate.sample(tasks, 60, 7) == (tasks, None)


def test_retrieval_is_measured_against_the_labels() -> None:
    results = run(names=["memory", "decoy"])
    assert {score.same_kind for score in results.of("memory")} == {True}
    assert {score.same_kind for score in results.of("decoy")} == {False}
    assert {score.same_object for score in results.of("memory")} == {True, False}
    assert all(score.similarity == 1.0 and score.memories == 2 for score in results.of("memory"))
    shown = sum(score.memory_bytes for score in results.of("memory"))
    assert shown == pytest.approx(sum(score.memory_bytes for score in results.of("decoy")), rel=0.2)


def test_arms_that_lack_a_part_are_refused() -> None:
    base = player(Doors(1), Doors(1, "train"))
    bare = evaluate.Parts(replace(base, strategy=None, bank=None))
    assert [name for name, arm in ARMS.items() if evaluate.playable(arm, bare)] == ["none", "format_only"]
    assert not evaluate.playable(ARMS["memory"], evaluate.Parts(replace(base, budget=Budget(k=0))))
    with pytest.raises(UsageError, match="'both' cannot be played"):
        evaluate.seat(ARMS["both"], bare, {})


def test_plan_says_what_can_be_detected() -> None:
    env = Doors(274)
    assert "274 games in 4 rooms, 3 seeds" in evaluate.plan(env, env.tasks(), [0, 1, 2])
    assert "7.6 points" in evaluate.plan(env, env.tasks(), [0, 1, 2])


def test_games_to_read_are_those_where_arms_differ() -> None:
    results = run()
    shown = {entry.trajectory.task.id for entry in results.shown}
    assert len(shown) == 3
    assert [entry.arm for entry in results.shown[: len(NAMES)]] == NAMES


def test_results_round_trip_and_refuse_what_they_are_not() -> None:
    results = run(names=["none", "both"], seeds=[0, 1])
    assert Results.from_json(results.to_json()) == results
    assert Results.from_json(results.to_json()).to_json() == results.to_json()
    with pytest.raises(DataError, match="not JSON"):
        Results.from_json("{")
    with pytest.raises(DataError, match="schema 99"):
        Results.from_json('{"schema": 99}')
    with pytest.raises(DataError, match="damaged"):
        Results.from_json('{"schema": 1, "split": "x"}')
