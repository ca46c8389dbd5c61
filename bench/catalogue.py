"""P2: opening the task catalogue of a data root again, against the stock AlfredTWEnv constructor.

In: a data root with training games. Out: one JSON line: `ratio` = stock seconds / ours, `equal` = the same games found. Every
opening of ours is a new environment object on a warm index; the stock constructor finds its files in the page cache as well.
"""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from tempfile import TemporaryDirectory

from _common import arguments, data_root, median_of, report
from duomem.envs.alfworld import Config, build


def stock_games(folder: Path) -> list[str]:
    """The game files that the stock constructor collects from a split folder."""
    from alfworld.agents.environment.alfred_tw_env import AlfredTWEnv

    config = {
        "env": {"goal_desc_human_anns_prob": 0.0, "task_types": [1, 2, 3, 4, 5, 6]},
        "dataset": {"data_path": str(folder), "num_train_games": -1},
    }
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return list(AlfredTWEnv(config, train_eval="train").game_files)


def measure(root: Path, split: str, rounds: int) -> tuple[float, float, bool, int]:
    """Stock seconds, our seconds, whether both found the same games, how many."""
    base = root / "json_2.1.1" if (root / "json_2.1.1").is_dir() else root
    config = Config(data_root=str(root))
    ours = [task.id for task in build(config).tasks(split)]
    stock = [f"{split}/{Path(file).parent.relative_to(base / split)}" for file in stock_games(base / split)]
    slow, fast = median_of(rounds, lambda: stock_games(base / split), lambda: build(config).tasks(split))
    return slow, fast, ours == sorted(stock), len(ours)


def main() -> None:
    options = arguments(__doc__ or "")
    with TemporaryDirectory(prefix="duomem-cache-") as cache, data_root("train", 400) as (root, source):
        os.environ["DUOMEM_CACHE"] = cache
        slow, fast, equal, games = measure(root, "train", rounds=9)
    if not options.json:
        print(f"{games} games ({source}): stock {slow * 1e3:.0f} ms, again {fast * 1e3:.1f} ms")
    report("P2", ratio=slow / fast, equal=equal, games=games, source=source, stock_ms=slow * 1e3, ours_ms=fast * 1e3)


if __name__ == "__main__":
    main()
