"""`ssld`: the pipeline's command line."""

from ppcls_core.cli.lazy import lazy_app
from ppcls_core.runtime.terminal import run_app

COMMANDS = {
    "init": "flows.start:init",
    "run": "flows.commands:run",
    "status": "flows.commands:status",
    "plan": "flows.planning:plan",
    "trace": "flows.tracing:trace",
    "compare": "flows.compare:compare",
    "up": "flows.commands:up",
    "down": "flows.commands:down",
    "worker": "flows.commands:worker",
}

HELP = "The pipeline: run a recipe, say what is done, start and stop the services."

app = lazy_app(HELP, COMMANDS)


def main() -> None:
    """Entry point of `ssld`."""
    run_app(app)


if __name__ == "__main__":
    main()
