"""L1-L4: a server under load: a rated minute, overload, slow clients, an engine that is killed.

In: nothing; a small engine in its own process behind the server. Out: JSON lines. L1: errors at 50 requests/s for a minute
(`--seconds`), with p50 and p99. L2: of three times what it takes at once, the share that was answered or sent away with 429 and
Retry-After. L3: errors of quick clients while fifty slow ones hold their connections, and requests still inside afterwards. L4:
requests lost while the engine is killed up to four times, and whether the server answers afterwards without a restart.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import time
from contextlib import suppress
from typing import Any

import httpx

from _common import arguments, report
from duomem.prompts import load_layout
from duomem.serve.app import Setup, application
from duomem.serve.desk import Desk
from duomem.serve.inject import Injector
from duomem.serve.limits import Limits
from duomem.serve.process import ProcessEngine
from duomem.serve.run import running
from duomem.serve.service import Alone, Service
from duomem.serve.student import ModelSpec, Student
from duomem.types import Sampling

RATE = 50
BODY = {"model": "any", "messages": [{"role": "user", "content": "put a mug on the desk"}]}
PATH = "/v1/chat/completions"


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the rated load lasts")


def _student(spec: ModelSpec) -> Student:
    return Student("bench", "bench", Injector(load_layout("pocket")), spec, Sampling())


async def _ask(client: httpx.AsyncClient, url: str) -> tuple[int, float, httpx.Headers]:
    begun = time.perf_counter()
    try:
        answer = await client.post(f"{url}{PATH}", json=BODY)
    except httpx.HTTPError:
        return 0, time.perf_counter() - begun, httpx.Headers()
    return answer.status_code, time.perf_counter() - begun, answer.headers


async def _rated(url: str, seconds: float) -> None:
    async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=200)) as client:
        asked = []
        begun = time.perf_counter()
        for number in range(int(RATE * seconds)):
            await asyncio.sleep(max(0.0, begun + number / RATE - time.perf_counter()))
            asked.append(asyncio.create_task(_ask(client, url)))
        done = await asyncio.gather(*asked)
    took = sorted(each[1] for each in done)
    errors = sum(status != 200 for status, _, _ in done)
    p50, p99 = took[len(took) // 2], took[int(0.99 * len(took))]
    report("L1", value=errors, requests=len(done), rate=RATE, p50_ms=round(1000 * p50, 1), p99_ms=round(1000 * p99, 1))


async def _overload(url: str, limits: Limits) -> None:
    room = limits.running + limits.waiting
    async with httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=4 * room)) as client:
        done = await asyncio.gather(*(_ask(client, url) for _ in range(3 * room)))
    answered = sum(status == 200 for status, _, _ in done)
    away = sum(status == 429 and int(headers["retry-after"]) >= 1 for status, _, headers in done)
    report("L2", value=(answered + away) / len(done), requests=len(done), answered=answered, refused=away)


async def _slow(url: str) -> None:
    host, _, port = url.removeprefix("http://").partition(":")
    links: list[Any] = []
    for _ in range(50):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5000\r\n\r\n{{".encode())
        links.append((reader, writer))
    async with httpx.AsyncClient(timeout=60) as client:
        done = await asyncio.gather(*(_ask(client, url) for _ in range(20)))
        inside = (await client.get(f"{url}/metrics")).text.partition("\nduomem_requests_inside ")[2].split("\n")[0]
    for _, writer in links:
        writer.close()
    report("L3", value=sum(status != 200 for status, _, _ in done), slow=len(links), requests=len(done), inside=float(inside))


async def _killed(url: str, engine: ProcessEngine) -> None:
    kills = 0
    async with httpx.AsyncClient(timeout=300) as client:
        asked = []
        for number in range(40):
            asked.append(asyncio.create_task(_ask(client, url)))
            if number % 10 == 5:
                with suppress(ProcessLookupError):  # the one before it is not up again
                    os.kill(engine.pid, signal.SIGKILL)
                    kills += 1
            await asyncio.sleep(0.2)
        done = await asyncio.gather(*asked)
        status, _, _ = await _ask(client, url)
    lost = sum(status != 200 for status, _, _ in done)
    report("L4", value=lost, requests=len(done), kills=kills, answers_afterwards=status == 200)


def main() -> None:
    given = arguments(__doc__ or "", _options)
    limits = Limits(running=8, waiting=32)
    for spec in (
        ModelSpec("scripted", {"replies": ["mug > look"]}),
        ModelSpec("scripted", {"replies": ["mug > look"], "stall_at": list(range(2000)), "stall_s": 0.3}),
    ):
        engine = ProcessEngine(spec)
        desk = Desk(Service(_student(spec), Alone(engine), close=engine.close))
        with running(application(desk, Setup(limits))) as url:
            if "stall_at" not in spec.options:
                asyncio.run(_rated(url, given.seconds))
                asyncio.run(_slow(url))
            else:
                asyncio.run(_overload(url, limits))
                asyncio.run(_killed(url, engine))
        desk.close()


if __name__ == "__main__":
    main()
