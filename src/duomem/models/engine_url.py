"""engine_url: an engine that already runs: llama-server, vLLM or Ollama, by its URL, with the student's model loaded in it.

In: a Config. Out: a Model. Where the engine takes token ids (llama-server, vLLM) and the student's tokenizer is here, prompts
are the ids that training and evaluation made, after the engine's own tokenizer was compared; else messages go to its chat
template through `openai_api`. Not here: loading models and adapters: an engine serves what it was started with.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from duomem import weights
from duomem._chat_options import ChatOptions, check_style, tokenizer_of
from duomem.chat import PLAIN, Style, count_tokens, end_of_turn, read_answer
from duomem.errors import InfraError, MismatchError, MissingExtra, UsageError
from duomem.models import Model, cache_owner, openai_api
from duomem.models._local import Local
from duomem.types import Message, Reply, Sampling, Tool, Usage

OWNERS = {"llamacpp": "llama.cpp", "vllm": "vLLM", "library": "Ollama"}
"""Engines by the `owned_by` of their models."""
TAKES_IDS = ("llama.cpp", "vLLM")
_PROBE = "Your task: put 2 clean mugs in cabinet 10.\n> go to sinkbasin 1  (naïve café 汉字)"


class Config(ChatOptions):
    """Settings of a running engine."""

    url: str = "http://127.0.0.1:8080"
    """Where it listens, with or without /v1."""
    remote_model: str = ""
    """The model's name there; empty: the only one that it serves."""
    path: str = ""
    """The student's base (a folder, a hub name or "pocket"), for its tokenizer; empty: messages go to the engine's template."""
    revision: str | None = None
    """Revision of a hub name."""
    adapter: str | None = None
    """The adapter's folder, whose pins are checked against the tokenizer; the engine must have been started with it."""
    prompts: Literal["auto", "ids", "chat"] = "auto"
    """"ids": token ids, and refused where they cannot be; "chat": messages; "auto": ids where that is possible."""
    key_env: str = ""
    """Environment variable with the engine's key; empty: it wants none."""
    context: int | None = Field(default=None, ge=16)
    """Longest conversation in tokens, answer included; none: as the engine says, else 4096."""
    concurrency: int = Field(default=8, ge=1)
    """Requests in flight at once."""
    retries: int = Field(default=2, ge=0)
    """Attempts after the first; an engine on this machine answers or is down."""
    timeout_s: float = Field(default=300.0, gt=0)
    """Seconds for a whole reply."""


@dataclass(frozen=True, slots=True)
class Found:
    """What answers at a URL."""

    base: str
    """With /v1."""
    engine: str
    model: str
    context: int


class ByIds(Local):
    """A student whose prompts go to a running engine as token ids."""

    def __init__(
        self, client: Any, found: Found, tokenizer: Any, context: int, facts: dict[str, str], style: Style = PLAIN
    ) -> None:
        super().__init__(tokenizer, context, facts, style)
        self._client, self._found = client, found

    def reply(self, messages: Sequence[Message], tools: Sequence[Tool], sampling: Sampling) -> Reply:
        started = time.perf_counter()
        ids, offered = self.prompt(messages, tools, sampling)
        done = _ask(self._client, self._body(ids, sampling, bool(offered)), self._found.base)
        try:
            choice, usage = done["choices"][0], done.get("usage") or {}
            text, reason = str(choice["text"]), choice["finish_reason"]
        except (LookupError, TypeError) as error:
            raise InfraError(f"{self._found.engine} at {self._found.base} sent no completion: {str(done)[:200]}") from error
        whole = reason != "length"
        said = read_answer(self.tokenizer, text, messages, tools=offered, style=self.style, whole=whole)
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        counts = Usage(len(ids), int(cached), int(usage.get("completion_tokens") or 0))
        finish: Literal["stop", "length", "tool_calls"] = "tool_calls" if said.tool_calls else "stop" if whole else "length"
        return Reply(said, finish, counts, time.perf_counter() - started)

    def _body(self, ids: Sequence[int], sampling: Sampling, marks: bool) -> dict[str, Any]:
        """Temperature alone decides, as in the engines of this process; calls keep the special tokens that mark them."""
        body = {
            "model": self._found.model,
            "prompt": list(ids),
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "seed": sampling.seed,
            "stop": list(sampling.stop),
            "top_k": 0,
            "top_p": 1.0,
            "min_p": 0.0,
        }
        if self._found.engine == "llama.cpp":
            kept = [str(text) for text in self.tokenizer.all_special_tokens] if marks else []
            return body | {"cache_prompt": True, "repeat_penalty": 1.0, "preserved_tokens": kept}
        salt = {"cache_salt": cache_owner()} if cache_owner() else {}  # vLLM keeps the owners' caches apart by it
        body |= {"top_k": -1, "repetition_penalty": 1.0, "skip_special_tokens": not marks, "stop_token_ids": self._ends}
        return body | salt

    @property
    def _ends(self) -> list[int]:
        return list(end_of_turn(self.tokenizer))

    def close(self) -> None:
        self._client.close()


def counter(config: Config) -> Callable[[str], int] | None:
    """Counts tokens as the student will, where its tokenizer is here."""
    return partial(count_tokens, _tokenizer(config)) if config.path else None


def build(config: Config) -> Model:
    """Ask the engine what it serves, and speak to it. Raises `MissingExtra`; `InfraError` where nothing answers; `UsageError`
    for a model that it does not serve; `MismatchError` where its tokenizer is another one than the student's."""
    try:
        import openai
    except ImportError as error:
        raise MissingExtra("openai", "api") from error
    key = os.environ.get(config.key_env, "").strip() if config.key_env else ""
    if config.key_env and not key:
        raise UsageError(f"models/engine_url: the environment variable {config.key_env} holds no key for {config.url}.")
    base = f"{config.url.rstrip('/').removesuffix('/v1')}/v1"
    client = openai.OpenAI(base_url=base, api_key=key or "none", timeout=config.timeout_s, max_retries=config.retries)
    found = _look(client, base, config)
    if config.prompts == "chat" or not config.path or found.engine not in TAKES_IDS:
        if config.prompts == "ids":
            client.close()
            raise UsageError(
                f"{found.engine} at {base} takes no token ids, or no tokenizer is given (path). Set prompts = 'chat'."
            )
        client.close()
        return _chat(config, found)
    tokenizer = _tokenizer(config)
    _compare(client, found, tokenizer)
    facts = _facts(config, found) | {"tokenizer_sha256": weights.tokenizer_hash(tokenizer)}
    return ByIds(client, found, tokenizer, min(config.context or found.context, found.context), facts, config.style)


def _chat(config: Config, found: Found) -> Model:
    """Through the chat API; a local engine is asked a few times and not for ten minutes."""
    return openai_api.build(
        openai_api.Config(
            base_url=found.base,
            remote_model=found.model,
            reply_model=".*",  # engines answer under aliases
            key_env=config.key_env,
            concurrency=config.concurrency,
            retries=config.retries,
            timeout_s=config.timeout_s,
            stall_s=config.timeout_s,
            patience_s=config.timeout_s,
        )
    )


def _look(client: Any, base: str, config: Config) -> Found:
    """What the engine serves."""
    listed = _call(lambda: client.get("/models", cast_to=object), base)
    rows = [row for row in (listed.get("data") if isinstance(listed, dict) else None) or [] if isinstance(row, dict)]
    named = {str(row.get("id")): row for row in rows}
    if config.remote_model:
        chosen = next((name for name in named if name in (config.remote_model, f"{config.remote_model}:latest")), None)
    else:
        chosen = next(iter(named)) if len(named) == 1 else None
    if chosen is None:
        raise UsageError(
            f"{base} serves {', '.join(named) or 'no model'}. Say which: remote_model = NAME (--engine-model NAME)"
        )
    row = named[chosen]
    engine = OWNERS.get(str(row.get("owned_by")), str(row.get("owned_by") or "an engine"))
    longest = row.get("max_model_len") or (row.get("meta") or {}).get("n_ctx") or 4096
    return Found(base, engine, chosen, int(longest))


def _compare(client: Any, found: Found, tokenizer: Any) -> None:
    """Raises `MismatchError` where a text's ids are others there. An engine that hides its tokenizer is taken at its word."""
    body = {"content": _PROBE, "model": found.model, "prompt": _PROBE, "add_special": False, "add_special_tokens": False}
    root = found.base.removesuffix("/v1")
    try:
        said = _call(lambda: client.post(f"{root}/tokenize", body=body, cast_to=object), root)
    except (InfraError, UsageError):
        return
    theirs = said.get("tokens") if isinstance(said, dict) else None
    if isinstance(theirs, list) and theirs != (ours := tokenizer.encode(_PROBE, add_special_tokens=False)):
        raise MismatchError(
            f"{found.engine} at {root} serves {found.model}, whose tokenizer is not the student's: {theirs[:8]} for "
            f"{ours[:8]}. Start it with the student's base, or name the base that it serves."
        )


def _ask(client: Any, body: dict[str, Any], base: str) -> dict[str, Any]:
    done = _call(lambda: client.post("/completions", body=body, cast_to=object), base)
    return done if isinstance(done, dict) else {}


def _call(send: Callable[[], Any], base: str) -> Any:
    import openai

    try:
        return send()
    except openai.APIStatusError as error:
        words = f"{base} refuses: HTTP {error.status_code}: {' '.join(str(error.message).split())[:300]}"
        raise (InfraError if error.status_code >= 500 or error.status_code == 429 else UsageError)(words) from None
    except openai.APIConnectionError as error:
        raise InfraError(f"Nothing answers at {base}: {error.__cause__ or error}. Is the engine running?") from None


def _tokenizer(config: Config) -> Any:
    tokenizer = tokenizer_of(config.path, config, revision=config.revision, light=True)
    if config.adapter:
        manifest = weights.read_manifest(config.adapter)
        if manifest.get("tokenizer_sha256") != weights.tokenizer_hash(tokenizer):
            raise MismatchError(f"Adapter {config.adapter} was trained with another tokenizer than that of {config.path}.")
        check_style(manifest, config, config.adapter)
    return tokenizer


def _facts(config: Config, found: Found) -> dict[str, str]:
    adapter = config.adapter and Path(config.adapter)
    return {
        "model": found.model,
        "revision": config.revision or "",
        "engine": found.engine,
        "endpoint": found.base,
        "adapter_sha256": weights.adapter_hash(adapter) if adapter else "",
    }
