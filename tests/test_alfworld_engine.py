"""The fast engine says, offers and holds true what the stock one does, and leaves the stock one alone."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest

from alfworld_roots import games_in, kind_of, stock, stock_facts, unpack

pytest.importorskip("textworld", reason="the alfworld extra is not installed")
pytest.importorskip("alfworld", reason="the alfworld extra is not installed")

from duomem.envs._alfworld_engine import Engine, GameText, Session
from duomem.envs._alfworld_index import KINDS, read_game_file
from duomem.errors import DataError
from duomem.games.write import write_games
from duomem.types import digest


@pytest.fixture(scope="module", params=["official", "generated"])
def games(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The smallest game of each task type."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "generated":
        write_games(folder, "dev", 6, seed=3)
    elif unpack("valid_seen", folder) is None:
        pytest.skip("the archive of official games is not here")
    found = sorted(games_in(folder), key=lambda game: -game.stat().st_size)
    return {kind_of(game): game for game in found}


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine()


def start(engine: Engine, game: Path) -> Session:
    data, sha = read_game_file(game)
    return engine.open(sha, str(game), lambda: GameText(data["pddl_domain"], data["pddl_problem"], data["grammar"]))


def stock_says(state: Any, feedback: str) -> str:
    return digest([feedback, state.admissible_commands, stock_facts(state), bool(state["won"])])


def ours_says(session: Session, feedback: str) -> str:
    return digest([feedback, session.admissible(), [[name, args] for name, args in session.facts()], session.won])


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_and_a_random_walk_equal_the_stock_environment_step_by_step(
    engine: Engine, games: dict[str, Path], kind: str
) -> None:
    env = stock(games[kind], extras=("walkthrough",))
    state = env.reset()
    plan = list(state["extra.walkthrough"])
    session = start(engine, games[kind])
    assert ours_says(session, session.world.intro) == stock_says(state, state.feedback)
    for command in plan:
        state, _, _ = env.step(command)
        assert ours_says(session, session.step(command)) == stock_says(state, state.feedback), command
    assert session.won
    assert state["won"]
    rng = random.Random(kind)
    for _ in range(8):  # goes on in the won game, which the stock environment allows
        command = rng.choice([*state.admissible_commands, "go to nowhere 1", "", "move mug 1 to"])
        state, _, _ = env.step(command)
        assert ours_says(session, session.step(command)) == stock_says(state, state.feedback), command
    session.close()


def test_a_second_session_of_a_game_starts_from_the_first_state(engine: Engine, games: dict[str, Path]) -> None:
    first, second = start(engine, games[KINDS[0]]), start(engine, games[KINDS[0]])
    before = ours_says(second, "")
    for _ in range(5):
        first.step(random.Random(1).choice(first.admissible()))
    assert ours_says(second, "") == before
    first.close()
    third = start(engine, games[KINDS[0]])
    assert ours_says(third, "") == before
    for session in (second, third):
        session.close()


def snapshot() -> dict[str, object]:
    """What another user of the same process would notice."""
    import fast_downward
    import textworld.envs.pddl.logic as logic
    import textworld.envs.pddl.pddl as pddl
    import textworld.envs.pddl.textgen as textgen
    import textworld.logic
    from alfworld.agents.environment import alfred_tw_env
    from alfworld.agents.utils import misc

    modules = [fast_downward, fast_downward.interface, logic, pddl, textgen, textworld.logic, alfred_tw_env, misc]
    seen: dict[str, object] = {"argv": list(sys.argv), "stdout": sys.stdout}
    for module in modules:
        for name, value in vars(module).items():
            seen[f"{module.__name__}.{name}"] = value
            if isinstance(value, type) and value.__module__ == module.__name__:
                seen |= {f"{module.__name__}.{name}.{key}": inner for key, inner in vars(value).items() if key != "__dict__"}
    options = sys.modules.get("fast_downward.translate.options")
    return seen | {f"options.{key}": value for key, value in (vars(options).items() if options else ())}


def test_the_stock_classes_and_the_process_are_left_as_they_were(games: dict[str, Path]) -> None:
    before = snapshot()
    session = start(Engine(), games[KINDS[1]])
    session.step(session.admissible()[0])
    session.close()
    after = snapshot()
    assert [key for key in before if before[key] is not after[key] and before[key] != after[key]] == []
    assert set(after) == set(before)


def test_nothing_is_printed(games: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    start(Engine(), games[KINDS[0]]).close()
    assert capfd.readouterr() == ("", "")


def test_libraries_are_lent_again_also_by_a_session_that_nobody_closed(games: dict[str, Path]) -> None:
    engine = Engine()
    for _ in range(3):
        session = start(engine, games[KINDS[0]])
        session.close()
        session.close()
    assert len(engine._libraries) == 1
    start(engine, games[KINDS[0]])
    assert len(engine._libraries) == 1


def test_the_engine_keeps_only_so_many_games(games: dict[str, Path]) -> None:
    engine = Engine(keep=2)
    for kind in KINDS[:3]:
        start(engine, games[kind]).close()
    assert len(engine._worlds) == 2


@pytest.mark.parametrize(
    ("part", "old", "new", "said"),
    [
        ("grammar", "You close the {r.name}.", "You close {open('/etc/hostname').read()}.", "is not run"),
        ("grammar", "You close the {r.name}.", "You close {r.name.upper}.", "is not run"),
        ("grammar", "action GotoLocation {", "action GotoLocation ", "does not parse"),
        ("grammar", "#list_appliances#", "#no_such_rule#", "no rule of the grammar"),
        ("pddl_domain", "(:action GotoLocation", "(:action", "does not translate"),
        ("pddl_problem", "(:init", "(:unit", "does not translate"),
        ("pddl_problem", "(:goal", "(:goal (and (holds agent1 nobody)) (:goal", "does not translate"),
    ],
)
def test_a_broken_game_is_named_and_its_text_is_never_run(
    engine: Engine, games: dict[str, Path], part: str, old: str, new: str, said: str
) -> None:
    data, _ = read_game_file(games[KINDS[0]])
    assert old in data[part]
    data[part] = data[part].replace(old, new, 1)
    with pytest.raises(DataError, match=said) as caught:
        engine.open(new, "some/game.tw-pddl", lambda: GameText(data["pddl_domain"], data["pddl_problem"], data["grammar"]))
    assert "some/game.tw-pddl" in str(caught.value)
