"""A served student's first reply, as a client gets it: the end of `duomem demo`.

In: a bundle or a run folder, the words of a task. Out: what OpenAI's client received, and which memories were placed for it.
The server runs for that one request, on a free port of this machine.
"""

from __future__ import annotations

from pathlib import Path

from duomem.errors import MissingExtra
from duomem.prompts import opening
from duomem.serve.app import Setup
from duomem.serve.run import running
from duomem.serve.stand import Stand
from duomem.serve.student import Choice
from duomem.talk import Done


def first_reply(path: Path, goal: str, scene: str, choice: Choice | None = None) -> Done:
    """Serve, ask once, stop. Raises `MissingExtra` without OpenAI's client, and what serving raises."""
    try:
        import openai
    except ImportError as error:
        raise MissingExtra("openai", "api") from error
    with Stand(path, choice or Choice(), Setup()) as stand, running(stand.application) as url:
        messages = opening(stand.student.injector.layout, goal, scene, ())
        asked = [{"role": each.role, "content": each.text} for each in messages]
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
        raw = client.chat.completions.with_raw_response.create(model="any", messages=asked)  # type: ignore[arg-type]
        said = raw.parse().choices[0].message.content or ""
        placed = raw.headers["x-duomem-memories"]
        data = {"path": str(path), "task": goal, "reply": said, "memories": [each for each in placed.split(",") if each]}
        words = (
            f"Served {stand.student.name}; OpenAI's client asked: {goal}\nIt got: {said}\nMemories placed: {placed or 'none'}"
        )
        return Done(data, words)
