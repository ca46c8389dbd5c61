"""Configs: overrides, errors that name the nearest key and its place, the canonical and the commented form."""

from __future__ import annotations

from pathlib import Path

import pytest

from duomem import config
from duomem.config import TABLES, load, override, settings_of
from duomem.configfile import canonical, commented, toml_value, undocumented
from duomem.errors import ConfigError, UsageError
from duomem.registry import KINDS, component, names

BASE = {
    "run": {"name": "x"},
    "env": {"name": "alfworld"},
    "student": {"model": "scripted", "replies": ["a > look", 'say "x"\n']},
    "memory": {"embedder": "lexical", "floor": 0.25},
    "games": {"train": {"n": 3}},
}


def test_defaults_are_a_whole_config() -> None:
    settings = load()
    assert settings.memory is None
    assert settings.tuning is None
    assert settings.evaluate.arms[0] == "none"


def test_overrides_win_and_parse_as_toml() -> None:
    tables = override(BASE, ["memory.k=1", "run.name=two words", "evaluate.arms=['none', 'memory']", "memory.floor="])
    settings = settings_of(tables, "here")
    assert settings.memory is not None
    assert (settings.memory.k, settings.memory.floor, settings.run.name) == (1, -1.0, "two words")
    assert settings.evaluate.arms == ("none", "memory")
    assert "k" not in BASE["memory"], "the original stays as it was"


def test_an_empty_override_removes_a_table() -> None:
    assert settings_of(override(BASE, ["memory="]), "here").memory is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("memory.flor=0.1", ["here", "memory.flor", "memory.floor"]),
        ("memroy.k=1", ["here", "memroy", "memory"]),
        ("student.repiles=['x']", ["student.repiles", "student.replies"]),
        ("memory.k=-1", ["memory.k", "-1"]),
        ("memory.k=many", ["memory.k", "many"]),
        ("student.stall_s=-2", ["student.stall_s", "-2"]),
        ("evaluate.arms=['nome']", ["evaluate.arms", "nome"]),
        ("games.train.m=3", ["games.train.m"]),
        ("memory.name=procedur", ["procedur", "'procedure'"]),
        ("run=3", ["[run]"]),
    ],
)
def test_errors_name_the_key_the_place_and_the_nearest(change: str, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        settings_of(override(BASE, [change]), "here")
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("text", ["memory", "=3", "memory.=3", "run.name.more=3"])
def test_a_malformed_override_says_how_to_write_it(text: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        override(BASE, [text])


def test_files_that_are_missing_or_broken_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="duomem init"):
        load(tmp_path / "no.toml")
    bad = tmp_path / "bad.toml"
    bad.write_text("[run\nname = 3")
    with pytest.raises(ConfigError, match=r"bad\.toml.*line 1"):
        load(bad)


@pytest.mark.parametrize("write", [canonical, commented])
def test_both_written_forms_load_as_the_same_settings(write: object, tmp_path: Path) -> None:
    settings = settings_of(BASE, "here")
    file = tmp_path / "config.toml"
    file.write_text(write(settings))  # type: ignore[operator]
    again = load(file)
    assert again.resolved() == settings.resolved()
    assert again.hash == settings.hash


def test_the_hash_moves_with_every_value_and_with_nothing_else() -> None:
    settings = settings_of(BASE, "here")
    assert settings.hash == settings_of(dict(reversed(BASE.items())), "there").hash
    assert settings.hash != settings_of(override(BASE, ["memory.k=3"]), "here").hash
    assert settings.hash != settings_of(override(BASE, ["student.stall_s=2.0"]), "here").hash
    assert settings.hash in canonical(settings).splitlines()[0]


def test_components_speak_in_the_students_layout_unless_told_otherwise() -> None:
    assert settings_of(override(BASE, ["student.layout=default"]), "here").options("teacher")["layout"] == "default"
    told = settings_of(override(BASE, ["student.layout=default", "teacher.layout=pocket"]), "here")
    assert told.options("teacher")["layout"] == "pocket"


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "true"), ([1, 'a\n"b"'], '[1, "a\\n\\"b\\""]'), ({"a b": 0.5}, '{ "a b" = 0.5 }'), ({}, "{}")],
)
def test_toml_values(value: object, text: str) -> None:
    assert toml_value(value) == text


def test_every_table_and_key_says_what_it_means() -> None:
    silent = {name: undocumented(table) for name, table in TABLES.items()}
    silent |= {f"{kind}/{name}": undocumented(component(kind, name).Config) for kind in KINDS for name in names(kind)}
    assert {name: fields for name, fields in silent.items() if fields} == {}
    assert all(table.__doc__ for table in TABLES.values())


def test_a_config_of_the_repository_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(config.shipped("demo")).run.name == "demo"
    with pytest.raises(ConfigError, match=r"nothing\.toml"):
        config.shipped("nothing")
