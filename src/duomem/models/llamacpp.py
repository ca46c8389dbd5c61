"""llamacpp: a local model and its LoRA adapter as GGUF in llama.cpp, in this process; `serve` offers it over HTTP as well.

In: a Config. Out: a Model whose `reply` may be called from many threads: llama.cpp batches them, and each conversation keeps
its slot, so only new tokens are read. Prompts are token ids from the one encoder, the same that training made. The adapter
stays on for the life of the engine, since switching it between requests reuses wrong caches. Not here: writing GGUF (`_gguf`).
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from duomem import weights
from duomem._chat_options import ChatOptions, check_style, tokenizer_of
from duomem.chat import PLAIN, Style, call_form, count_tokens, end_of_turn, read_answer
from duomem.errors import InfraError, MissingExtra, UsageError
from duomem.models import cache_owner
from duomem.models._gguf import WRITER, kept, write_adapter, write_base
from duomem.models._gguf_quants import FileType
from duomem.models._grammar import of_calls, trigger
from duomem.models._llama_slots import Engine, Slots, Taken
from duomem.models._local import Local
from duomem.types import Message, Reply, Sampling, Tool, Usage, digest

Finish = Literal["stop", "length", "tool_calls"]
GRAM = 2
"""Tokens that must agree before what followed them is guessed again, as in `hf`."""
_WORD = 1
"""llama.cpp's number of a grammar's trigger that is a text (COMMON_GRAMMAR_TRIGGER_TYPE_WORD)."""
CONSTRAINS = True
"""Answers can be held to a grammar (`Sampling.grammar`)."""
PLAIN_SAMPLING = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": 1.0}
"""Temperature alone, as transformers does it; the engine's defaults cut the distribution."""


class Config(ChatOptions):
    """Settings of a model in llama.cpp."""

    path: str = "pocket"
    """The base: "pocket" (the model that ships with the package), a folder, or a hub name that is in the hub's cache."""
    revision: str | None = None
    """Revision of a hub name."""
    adapter: str | None = None
    """Folder of a LoRA adapter that `duomem tune` wrote for this base; none: the base alone."""
    merge: bool = False
    """Fold the adapter into the weights of the file that is written: nothing is added to a forward."""
    gguf: str | None = None
    """A GGUF file of that base to use in place of one written from its safetensors, say one quantised elsewhere. `path` then
    needs to hold its tokenizer alone."""
    lora: str | None = None
    """A GGUF file of the adapter, in place of one written from `adapter`."""
    weights: FileType = "f32"
    """Precision of the weights in a GGUF file that is written here; f32 says the same tokens as `hf`. Those with _k want rows
    that 256 divides; others take the next larger kind."""
    folder: str | None = None
    """Where written GGUF files are kept, by the hash of what is in them; none: duomem/gguf in the user's cache folder."""
    threads: int = Field(default=2, ge=1)
    """Threads of a forward pass on the CPU."""
    max_batch: int = Field(default=8, ge=1)
    """Callers served at once, and conversations whose caches are kept: at least as many as run at once."""
    context: int | None = Field(default=None, ge=16)
    """Longest conversation in tokens, answer included; none: the model's own, at most 4096."""
    lookup: int = Field(default=0, ge=0)
    """Tokens guessed ahead from what the conversation said before, checked in one forward; the same answers. It pays where
    reading the weights is what a forward costs, so for models of hundreds of megabytes."""
    hold_tools: bool = False
    """Hold tool calls to the tools' schemas by a grammar, once an answer begins to call."""
    caches: str | None = None
    """Folder where `save_caches` writes the conversations' caches, for a later engine of the same files."""


@dataclass(frozen=True, slots=True)
class Served:
    """An engine that listens. `url` is the base URL for OpenAI clients (it ends in /v1), `model` the name it answers to."""

    url: str
    model: str


class LlamaCpp(Local):
    """A loaded model. `reply` blocks; see `duomem.models.Model`."""

    def __init__(
        self,
        server: Any,
        tokenizer: Any,
        context: int,
        slots: int,
        facts: dict[str, str],
        style: Style = PLAIN,
        caches: tuple[Path, str] | None = None,
        hold_tools: bool = False,
    ) -> None:
        """`caches`: the folder where they are kept, and the key of the engine's own HTTP server."""
        super().__init__(tokenizer, context, facts, style)
        self._server: Any = server
        self._slots = Slots(slots)
        self._caches = caches
        self._hold_tools = hold_tools
        self.forwards = 0
        """Forwards that answers took so far, those that read a prompt apart: tokens less guessed ones that were right."""
        self._counting = threading.Lock()

    def reply(self, messages: Sequence[Message], tools: Sequence[Tool], sampling: Sampling) -> Reply:
        started = time.perf_counter()
        ids, offered = self.prompt(messages, tools, sampling)
        with self._slots.taken(ids, cache_owner()) as taken:
            done = self._ask(ids, sampling, taken, offered)
        timings = done.get("timings") or {}
        with self._counting:
            self.forwards += int(timings.get("predicted_n", 0)) - int(timings.get("draft_n_accepted", 0))
        choice, usage = done["choices"][0], done["usage"]
        whole = choice["finish_reason"] != "length"
        said = read_answer(self.tokenizer, choice["text"], messages, tools=offered, style=self.style, whole=whole)
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        counts = Usage(len(ids), cached, usage["completion_tokens"])
        finish: Finish = "tool_calls" if said.tool_calls else "stop" if whole else "length"
        weighed = (choice.get("logprobs") or {}).get("content")
        logprob = sum(float(token["logprob"]) for token in weighed) if weighed else None
        return Reply(said, finish, counts, time.perf_counter() - started, logprob)

    @cached_property
    def _marks(self) -> tuple[str, ...]:
        """Special tokens that may stand in an answer: some templates mark calls with them."""
        ends = set(end_of_turn(self.tokenizer))
        specials = zip(self.tokenizer.all_special_ids, self.tokenizer.all_special_tokens, strict=True)
        return tuple(str(text) for token, text in specials if token not in ends)

    def _ask(self, ids: Sequence[int], sampling: Sampling, taken: Taken, offered: Sequence[Tool]) -> dict[str, Any]:
        server = self._server
        if server is None:
            raise InfraError("models/llamacpp: the engine has been closed.")
        request = {
            "prompt": list(ids),
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "seed": sampling.seed,
            "stop": list(sampling.stop),
            "id_slot": taken.slot,
            "cache_prompt": not taken.fresh,
            "preserved_tokens": list(self._marks) if offered else [],
            **self._grammar(sampling, offered),
            **({"logprobs": 1} if sampling.logprob else {}),
            **PLAIN_SAMPLING,
        }
        done: dict[str, Any] = server.handle_completions(request)
        if "error" in done:
            raise InfraError(f"models/llamacpp: llama.cpp says: {done['error'].get('message', done['error'])}")
        return done

    def _grammar(self, sampling: Sampling, offered: Sequence[Tool]) -> dict[str, Any]:
        """What a request says of the grammar that its answer is held to."""
        if sampling.grammar:
            return {"grammar": sampling.grammar}
        if not (offered and self._hold_tools):
            return {}
        form = call_form(self.tokenizer, self.style)
        begin = {"type": _WORD, "value": trigger(form)}
        return {"grammar": of_calls(form, offered), "grammar_lazy": True, "grammar_triggers": [begin]}

    def save_caches(self) -> int:
        """Write the caches of the conversations to the config's folder; how many. 0 without a folder."""
        return self._slots.save(self._caches[0], self._http(self._caches[1])) if self._caches and self._server else 0

    def restore_caches(self) -> int:
        """Read them again, before anything is asked; how many."""
        return self._slots.restore(self._caches[0], self._http(self._caches[1])) if self._caches and self._server else 0

    def _http(self, key: str) -> Engine:
        return Engine(self._server.listening_address, key)

    def close(self) -> None:
        self._server = None  # its destructor stops the engine


def counter(config: Config) -> Callable[[str], int]:
    """Counts tokens as the built model does, by its tokenizer alone: no weights are loaded."""
    return partial(count_tokens, _tokenizer(config))


def build(config: Config) -> LlamaCpp:
    """Load the model. Raises `MissingExtra`, `UsageError` for no such model, `MismatchError` for a wrong adapter, `DataError`
    for a base or adapter that cannot be written as GGUF."""
    tokenizer = _tokenizer(config)
    key = secrets.token_hex(32)  # the engine always listens; this one is not to be asked over HTTP by others
    server, context, facts = _start(config, tokenizer, api_key=key)
    caches = (Path(config.caches), key) if config.caches else None
    return LlamaCpp(server, tokenizer, context, config.max_batch, facts, config.style, caches, config.hold_tools)


@contextmanager
def serve(config: Config | None = None, *, port: int = 0, api_key: str = "") -> Iterator[Served]:
    """The same engine as an OpenAI-compatible HTTP server on loopback (`port` 0: a free one), until the block ends.

    It answers /v1/chat/completions, /v1/completions, /v1/models and /health, with streaming. With `api_key` it asks for it.
    """
    config = config or Config()
    tokenizer = _tokenizer(config)
    server, _, facts = _start(config, tokenizer, port=port, api_key=api_key)
    yield Served(f"{server.listening_address}/v1", facts["model"])
    del server


def _start(config: Config, tokenizer: Any, *, api_key: str, port: int = 0) -> tuple[Any, int, dict[str, str]]:
    """A running engine, its longest conversation in tokens, and what is in it. It listens; with a key it asks for it."""
    try:
        import xllamacpp
    except ImportError as error:
        raise MissingExtra("xllamacpp", "llamacpp") from error
    facts = _facts(config, tokenizer, xllamacpp.__version__)
    files = _files(config, tokenizer, facts)
    context = min(config.context or 4096, _longest(config))
    params = _params(xllamacpp, config, context, files)
    params.model_alias = {facts["model"]}
    if config.chat_template:
        params.chat_template = tokenizer.chat_template
    params.port = port
    params.api_keys = [api_key] if api_key else []
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        raise UsageError(f"models/llamacpp: llama.cpp cannot load {files[0]}: {error}") from error
    # An engine that is closed before its loop has begun waits for ever: one token shows that it runs.
    server.handle_completions({"prompt": [0], "max_tokens": 1})
    return server, context, facts


def _params(xllamacpp: Any, config: Config, context: int, files: list[Path]) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = str(files[0])
    params.n_parallel = config.max_batch
    params.n_ctx = context * config.max_batch  # shared out among the slots
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = config.threads
    params.cache_ram_mib = 0  # that cache does not know about adapters
    params.swa_full = True  # a window's cache alone (Gemma) cannot be cut back to a shared prefix
    if config.caches:
        Path(config.caches).mkdir(parents=True, exist_ok=True, mode=0o700)
        params.slot_save_path = f"{config.caches}{os.sep}"
    if config.lookup:
        params.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE]
        params.speculative.ngram_simple.size_n, params.speculative.ngram_simple.size_m = GRAM, config.lookup
    params.warmup = False
    params.ui = False
    params.cors_origins = "http://localhost"
    params.verbosity = 0
    if config.weights == "f32":
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        # Flash attention rounds: a token 0.007 behind in the logits won with it.
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(file), 1.0) for file in files[1:]]
    return params


def _tokenizer(config: Config) -> Any:
    """The base's tokenizer, without transformers: a device has none. Where an adapter was trained with other ids than that
    reads from the files, transformers' own."""
    tokenizer = tokenizer_of(config.path, config, revision=config.revision, light=True)
    if config.adapter:
        trained = weights.read_manifest(config.adapter).get("tokenizer_sha256")
        if trained != weights.tokenizer_hash(tokenizer) and find_spec("transformers"):
            return tokenizer_of(config.path, config, revision=config.revision)
    return tokenizer


def _files(config: Config, tokenizer: Any, facts: dict[str, str]) -> list[Path]:
    """The GGUF files to load: the base, and the adapter where there is one. Written unless they are kept already."""
    base, end = weights.folder_of(config.path, config.revision), end_of_turn(tokenizer)[0]
    folder = Path(config.folder).expanduser() if config.folder else cache_folder()
    if config.merge and (config.gguf or config.lora or not config.adapter):
        raise UsageError("models/llamacpp: merge = true needs an adapter's folder and no GGUF files of its own.")
    if config.adapter and not (config.gguf and config.lora):  # of files that both are there already, only the tokenizer counts
        manifest = weights.check_adapter(config.adapter, config.path, tokenizer, config.revision)
        check_style(manifest, config, config.adapter)
    key = digest([WRITER, facts["base_sha256"], facts["tokenizer_sha256"]])[:16]
    lora = Path(config.adapter) if config.adapter else None
    name = f"{key}-{facts['adapter_sha256'][:16]}"
    if config.merge:
        write = partial(write_base, base, kind=config.weights, end=end, adapter=lora)
        return [kept(folder, f"{name}-{config.weights}.gguf", write)]
    if config.gguf:
        files = [_there(config.gguf)]
    else:
        files = [kept(folder, f"{key}-{config.weights}.gguf", partial(write_base, base, kind=config.weights, end=end))]
    if config.lora:
        files.append(_there(config.lora))
    elif lora:
        files.append(kept(folder, f"{name}-lora.gguf", partial(write_adapter, base, lora)))
    return files


def _there(name: str) -> Path:
    file = Path(name).expanduser()
    if not file.is_file():
        raise UsageError(f"models/llamacpp: there is no GGUF file {file}.")
    return file


def _facts(config: Config, tokenizer: Any, version: str) -> dict[str, str]:
    made = {
        "model": weights.stable_name(config.path),
        "revision": config.revision or "",
        "base_sha256": weights.file_hash(_there(config.gguf))
        if config.gguf
        else weights.base_hash(config.path, config.revision),
        "tokenizer_sha256": weights.tokenizer_hash(tokenizer),
        "adapter_sha256": "",
        "weights": Path(config.gguf).name if config.gguf else config.weights,
        "engine": "llama.cpp",
        "xllamacpp": str(version),
    }
    if config.lora:
        made["adapter_sha256"] = weights.file_hash(_there(config.lora))
    elif config.adapter:
        made["adapter_sha256"] = weights.adapter_hash(config.adapter)
    return made


def _longest(config: Config) -> int:
    """The longest conversation that the model was made for, in tokens."""
    file = weights.folder_of(config.path, config.revision) / "config.json"
    if not file.is_file():
        return 4096
    return int(json.loads(file.read_text(encoding="utf-8")).get("max_position_embeddings", 4096))


def cache_folder() -> Path:
    """Where written GGUF files are kept by default: $XDG_CACHE_HOME, else ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "duomem" / "gguf"
