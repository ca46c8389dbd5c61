"""A bank over the Model Context Protocol, asked by the official SDK's client: in this process, and as a command over stdio."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from duomem import curate, embed
from duomem.bank import Bank
from duomem.types import BankEdit, Memory, Provenance

mcp = pytest.importorskip("mcp", reason="needs the extra 'mcp'")
pytest.importorskip("detect_secrets", reason="needs the extra 'record'")

MUG = "put a mug in the cabinet\n1. mug: take from countertop\n2. mug: move to cabinet"


def memory(key: str, text: str, task: str = "train/1") -> Memory:
    return Memory(key, text, "script", Provenance(task, 0, "0" * 64, "expert", "rules:1"))


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    made = Bank.create(tmp_path / "bank.sqlite", embed.build("lexical"), "layout", splits=("train",))
    lamp = memory("look at a book under the lamp", "look at a book under the lamp\n1. book: take from bed", "train/2")
    made.apply([BankEdit("add", "test", memory("put a mug in the cabinet", MUG)), BankEdit("add", "test", lamp)])
    yield made
    made.close()


def asked(shelf: Any, work: Callable[[Any], Awaitable[Any]]) -> Any:
    """What the SDK's client gets from a server in this process."""
    from duomem.mcp_server import server

    async def main() -> Any:
        async with mcp.Client(server(shelf)) as client:
            return await work(client)

    return asyncio.run(main())


def told(result: Any) -> Any:
    """What a tool gave, as data."""
    assert not result.is_error, result.content
    found = result.structured_content
    return found["result"] if set(found) == {"result"} else found


def test_the_tools_of_an_agent(bank: Bank, tmp_path: Path) -> None:
    from duomem.mcp_server import Shelf

    shelf = Shelf(bank, tmp_path / "state")

    async def work(client: Any) -> None:
        names = [tool.name for tool in (await client.list_tools()).tools]
        assert names == ["search", "read", "add", "report_outcome"]
        hits = told(await client.call_tool("search", {"words": "put a cup in the cabinet", "k": 1}))
        assert [hit["text"] for hit in hits] == [MUG]
        first = hits[0]["id"]
        assert told(await client.call_tool("report_outcome", {"memories": [first], "won": True})) == {
            "counted": 1,
            "verified": [],
        }
        read = told(await client.call_tool("read", {"id": first[:12]}))
        assert (read["status"], read["shown"], read["won"], read["source"]["written_by"]) == ("live", 1, 1, "rules:1")
        wrong = await client.call_tool("read", {"id": "ffff"})
        assert wrong.is_error
        assert "No memory 'ffff'" in wrong.content[0].text

    asked(shelf, work)
    shelf.close()


@pytest.mark.parametrize("verifies", [False, True])
def test_what_is_added_is_shown_only_when_it_is_verified(bank: Bank, tmp_path: Path, verifies: bool) -> None:
    from duomem.mcp_server import Shelf

    before = bank.version
    shelf = Shelf(bank, tmp_path / "state", verifies=verifies)
    key = "AKIA" + "IOSFODNN7EXAMPLQ"

    async def work(client: Any) -> str:
        made = told(await client.call_tool("add", {"goal": "water the fern", "steps": f"1. can: take\n2. say {key}"}))
        assert made["status"] == "quarantined"
        asked_for = {"words": "water the fern", "k": 20}
        assert made["id"] not in {hit["id"] for hit in told(await client.call_tool("search", asked_for))}
        again = await client.call_tool("add", {"goal": "water the fern", "steps": f"1. can: take\n2. say {key}"})
        assert again.is_error
        await client.call_tool("report_outcome", {"memories": [made["id"]], "won": False})
        assert made["id"] not in {hit["id"] for hit in told(await client.call_tool("search", asked_for))}
        won = told(await client.call_tool("report_outcome", {"memories": [made["id"]], "won": True}))
        assert won["verified"] == ([made["id"]] if verifies else [])
        found = {hit["id"]: hit["text"] for hit in told(await client.call_tool("search", asked_for))}
        assert (made["id"] in found) is verifies
        assert key not in json.dumps(told(await client.call_tool("read", {"id": made["id"]})))
        return str(made["id"])

    added = asked(shelf, work)
    shelf.close()
    assert bank.version == before, "the bank itself is only read"
    with Bank.open(tmp_path / "state" / "overlay.sqlite", embed.build("lexical")) as overlay:
        assert curate.find(overlay, added).status == ("live" if verifies else "quarantined")
    reopened = Shelf(bank, tmp_path / "state")
    assert reopened.read(added)["won"] == 1
    reopened.close()


def test_the_command_over_standard_input_and_output(tmp_path: Path) -> None:
    """A run's bank by `duomem mcp`, as an agent starts it; no word but the protocol's on its output."""
    import serve_world

    made = serve_world.make_run(tmp_path / "run", tasks=4)
    start = "from duomem.cli import main; main()"
    arguments = ["-c", start, "mcp", str(made.root), "--state", str(tmp_path / "state")]
    command = mcp.StdioServerParameters(command=sys.executable, args=arguments)

    async def main() -> Any:
        async with mcp.stdio_client(command) as (read, write), mcp.ClientSession(read, write) as session:
            await session.initialize()
            return await session.call_tool("search", {"words": "put a mug in cabinet", "k": 2})

    hits = told(asyncio.run(main()))
    assert len(hits) == 2
    assert all("\n1. " in hit["text"] for hit in hits)
