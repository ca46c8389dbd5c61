"""The command line: `duomem VERB`. Each verb is a function of the pipeline and a folder in the run directory.

In: arguments. Out: a result on stdout (one JSON object with --json), progress and errors on stderr, an exit code. Heavy
libraries are imported by the verbs that need them, so that `duomem --help` is quick.
"""

from __future__ import annotations

import io
import os
import sys
import warnings

import typer

from duomem.cli import (
    bundle,
    cascade,
    compare,
    engine,
    episodes,
    logs,
    mcp,
    memories,
    merge,
    price,
    record,
    serve,
    show,
    sweep,
    tools,
    ui,
    verbs,
)
from duomem.cli.console import INTERRUPTED, failed, interrupted
from duomem.cli.options import whole_examples
from duomem.errors import DuomemError, InfraError

HELP = """Make a small local model do a large agent's job.

One recorded log of a teacher becomes procedural memories and a LoRA adapter; the student is measured with and without each.

Start with: duomem demo

Exit codes: 0 done; 1 error; 2 wrong option, config key, component or path; 3 data that cannot be used; 4 a model, disk or
process failed; 5 ended with work left (run it again); 130 interrupted (run it again).
"""

LIBRARIES = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""Libraries' own bars and warnings would tear the progress bars apart, and waiting threads that spin slow down busy cores.
Read by the libraries when they load, so set before. A user's own settings win."""

app = typer.Typer(help=HELP, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
verbs.add_to(app)
sweep.add_to(app)
tools.add_to(app)
episodes.add_to(app)
show.add_to(app)
compare.add_to(app)
engine.add_to(app)
price.add_to(app)
logs.add_to(app)
record.add_to(app)
memories.add_to(app)
bundle.add_to(app)
serve.add_to(app)
merge.add_to(app)
cascade.add_to(app)
mcp.add_to(app)
ui.add_to(app)
whole_examples(app)


def main() -> None:
    """Entry point of the `duomem` command."""
    argv = sys.argv[1:]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal of another encoding shows what it lacks by number
    for name, value in LIBRARIES.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # meant for its developers
    try:
        app(argv, prog_name="duomem")
    except DuomemError as error:
        sys.exit(failed(error))
    except BrokenPipeError:  # `duomem ... | head`: nobody reads on, which is no error of the run's
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # a full disk, a lost mount, missing rights: the user's to solve, like our own errors
        words = f"{error.filename or 'A file of the run'}: {error.strerror or error}. Then run the command again."
        sys.exit(failed(InfraError(words)))
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            interrupted(argv)
        raise
