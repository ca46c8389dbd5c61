"""Real shapes on this machine: what a turn costs with Qwen3-0.6B and 1.7B in llama.cpp. RANDOM weights: speed and memory only.

In: nothing (files of up to 1.9 GB are written to a temporary folder). Out: a JSON line per shape and precision, `value` =
seconds of a turn whose prefix is kept (60 new tokens read, 24 generated, after 1,200): with it prefill and decode tokens/s, the
same turn when a token in front has changed, RSS, and the share of the limit that memory sets to decoding (bandwidth measured in
the same run / bytes of weights). A few minutes on two cores that have nothing else to do: on busy ones llama.cpp's threads wait
for each other and the figures say nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from _common import arguments, report
from duomem.models._gguf_quants import FileType, fitting, gguf, quantise
from duomem.shapes import KNOWN, Shape

SHAPES = {"qwen3-0.6b": "Qwen/Qwen3-0.6B", "qwen3-1.7b": "Qwen/Qwen3-1.7B"}
KINDS: tuple[FileType, ...] = ("q8_0", "q4_0")
BEFORE, NEW, SAID = 1200, 60, 24
"""Tokens of a conversation before the turn, of its observation, of its answer."""
READ, TOLD = 512, 48
"""Tokens over which prefill and decoding are timed."""
CORES = 2


def _matrix(rows: int, columns: int, kind: FileType) -> tuple[np.ndarray, Any]:
    """Bytes of a random matrix: a few random rows over and over, since quantising a billion numbers would take the time."""
    few = min(rows, 64)
    values = np.random.default_rng(rows + columns).normal(0, columns**-0.5, size=(few, columns)).astype(np.float32)
    data, target = quantise(values, kind)
    return np.ascontiguousarray(np.tile(data, (-(-rows // few), 1))[:rows]), target


def write(path: Path, shape: Shape, kind: FileType) -> int:
    """A model file of that shape; returns the bytes of weights that a token's forward reads."""
    library = gguf()
    writer = library.GGUFWriter(str(path), "qwen3")
    writer.add_context_length(40960)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head)
    writer.add_value_length(shape.head)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([f"t{number}" for number in range(shape.vocabulary)])
    writer.add_token_types([int(library.TokenType.NORMAL)] * shape.vocabulary)
    writer.add_token_merges(["t 1"])
    writer.add_eos_token_id(shape.vocabulary - 1)
    ones, size = np.ones, 0

    def matrix(name: str, rows: int, columns: int) -> None:
        nonlocal size
        data, target = _matrix(rows, columns, fitting(kind, columns, output=name == "token_embd"))
        writer.add_tensor(f"{name}.weight", data, raw_dtype=target)
        size += data.nbytes

    matrix("token_embd", shape.vocabulary, shape.hidden)  # tied: it is the output layer, read for every token
    writer.add_tensor("output_norm.weight", ones(shape.hidden, np.float32))
    names = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
    names |= {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
    for layer in range(shape.layers):
        for name, (inputs, outputs) in shape.linears.items():
            matrix(f"blk.{layer}.{names[name]}", outputs, inputs)
        for name, width in (("attn_norm", shape.hidden), ("ffn_norm", shape.hidden)):
            writer.add_tensor(f"blk.{layer}.{name}.weight", ones(width, np.float32))
        for name in ("attn_q_norm", "attn_k_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", ones(shape.head, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return size


def bandwidth() -> float:
    """GB/s that `CORES` threads read together: dot products of arrays far larger than any cache, the best of five."""
    arrays = [np.ones(64 * 2**20, np.float32) for _ in range(CORES)]
    best = 0.0
    with threadpool_limits(1), ThreadPoolExecutor(CORES) as pool:
        for _ in range(5):
            started = time.perf_counter()
            list(pool.map(lambda array: float(array @ array), arrays))
            best = max(best, sum(array.nbytes for array in arrays) / (time.perf_counter() - started) / 1e9)
    return best


def _rss() -> float:
    """MB of this process in memory."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024 / 1e6


def measure(path: Path, vocabulary: int) -> dict[str, float]:
    """One model in llama.cpp, in this process."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.cache_ram_mib = 2048, 1, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = CORES
    params.warmup = params.ui = False
    params.verbosity = 0
    server = xllamacpp.Server(params)
    random = np.random.default_rng(0)

    def ask(ids: list[int], say: int) -> tuple[float, dict[str, Any]]:
        started = time.perf_counter()
        body = {"prompt": ids, "max_tokens": say, "temperature": 0, "cache_prompt": True, "ignore_eos": True}
        done = server.handle_completions(body)
        return time.perf_counter() - started, done["timings"]

    def some(count: int) -> list[int]:
        return [int(token) for token in random.integers(0, vocabulary - 1, count)]

    ask(some(32), 4)  # pages of the file are read
    prefill = ask(some(READ), 1)[1]
    decode = ask(some(16), TOLD)[1]
    talk = some(BEFORE)
    ask(talk, 1)
    talk += some(NEW)
    kept, timings = ask(talk, SAID)
    broken, _ = ask([talk[0] + 1, *talk[1:]], SAID)
    found = {
        "prefill": prefill["prompt_per_second"],
        "decode": decode["predicted_per_second"],
        "kept_s": kept,
        "broken_s": broken,
        "reused": float(timings["cache_n"]),
        "rss_mb": _rss(),
    }
    return found


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        path, vocabulary = sys.argv[2:4]
        print(json.dumps(measure(Path(path), int(vocabulary))))
        return

    def options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--shape", choices=sorted(SHAPES), action="append", help="one of them; more than once")
        parser.add_argument("--kind", choices=KINDS, action="append")

    given = arguments(__doc__ or "", options)
    for name in given.shape or SHAPES:
        shape = KNOWN[SHAPES[name]]
        for kind in given.kind or KINDS:
            with TemporaryDirectory(prefix="duomem-shapes-") as folder:
                path = Path(folder) / f"{name}-{kind}.gguf"
                size = write(path, shape, kind)
                reading = bandwidth()
                command = [sys.executable, __file__, "--one", str(path), str(shape.vocabulary)]
                said = subprocess.run(
                    command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
                )
                found = json.loads(said.stdout.splitlines()[-1])
            limit = reading * 1e9 / size
            if not given.json:
                print(
                    f"{name} {kind} (random weights): {size / 1e6:.0f} MB, prefill {found['prefill']:.0f} tok/s, decode "
                    f"{found['decode']:.1f} of at most {limit:.1f} tok/s at {reading:.1f} GB/s, a turn "
                    f"{found['kept_s']:.2f} s, {found['broken_s']:.2f} s with a broken prefix, RSS {found['rss_mb']:.0f} MB"
                )
            report(
                f"shape-{name}-{kind}",
                value=found["kept_s"],
                unit="s a turn",
                random_weights=True,
                weights_mb=round(size / 1e6, 1),
                prefill_tokens_s=round(found["prefill"], 1),
                decode_tokens_s=round(found["decode"], 2),
                bandwidth_gb_s=round(reading, 2),
                decode_limit_tokens_s=round(limit, 2),
                share_of_limit=round(found["decode"] / limit, 3),
                turn_broken_prefix_s=round(found["broken_s"], 3),
                reused_tokens=int(found["reused"]),
                rss_mb=round(found["rss_mb"], 1),
                cores=CORES,
            )


if __name__ == "__main__":
    main()
