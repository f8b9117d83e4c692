"""Whether Prefect's server keeps the states of thousands of task runs at once, by its database.

    python benchmarks/task_runs.py [--num 2000] [--database postgresql+asyncpg://...]

Starts a server as `ssld up` does, in a folder of its own, and one flow that submits all tasks at
once. States reach it as events, in their own time: one is lost if the server does not have the task
run as completed, and has got no other for SECONDS.
"""

import argparse
import os
import socket
import sys
import tempfile
import time

from flows import services

SECONDS = 120


def run_all(num: int) -> None:
    """Run the flow and print how many of its task runs the server has as completed."""
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
    from prefect.runtime import flow_run
    from prefect.task_runners import ThreadPoolTaskRunner

    @task(cache_policy=NO_CACHE, persist_result=False)
    def one(number: int) -> int:
        return number

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=64), persist_result=False)  # pyright: ignore
    def many() -> tuple[str, int]:
        futures = one.map(range(num))
        return flow_run.id, len({future.result() for future in futures})

    begun = time.monotonic()
    run_id, finished = many()
    seconds = time.monotonic() - begun
    of_run = FlowRunFilter.model_validate({"id": {"any_": [run_id]}})
    completed = TaskRunFilter.model_validate({"state": {"type": {"any_": ["COMPLETED"]}}})
    kept, end = 0, time.monotonic() + SECONDS
    with get_client(sync_client=True) as client:
        while kept < num and time.monotonic() < end:
            time.sleep(1)
            body = {
                "flow_runs": of_run.model_dump(mode="json"),
                "task_runs": completed.model_dump(mode="json"),
            }
            answer = client._client.post("/task_runs/count", json=body)
            before, kept = kept, answer.raise_for_status().json()
            if kept > before:
                end = time.monotonic() + SECONDS
    lag = time.monotonic() - begun - seconds
    print(f"{finished:,} tasks in {seconds:.0f} s, {1000 * seconds / num:.0f} ms each")
    print(f"{lag:.0f} s later the server has {kept:,} as completed: {num - kept:,} are lost")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--num", type=int, default=2000)
    parser.add_argument("--database")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, socket.socket() as free:
        os.environ |= {"SSLD_HOME": home, "PREFECT_HOME": home, "PREFECT_LOGGING_LEVEL": "ERROR"}
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        services.prepare()
        api = f"http://127.0.0.1:{port}/api"
        try:
            services.start_server(port, "127.0.0.1", options.database, print)
            os.environ["PREFECT_API_URL"] = api
            run_all(options.num)
            locked = services.server(port).log.read_text().count("database is locked")
            print(f"the server's log says {locked} times that the database is locked")
        finally:
            services.server(port).stop(30)


if __name__ == "__main__":
    sys.exit(main())
