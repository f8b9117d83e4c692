"""Requests of `ssld up` and `ssld down` to Prefect's server: profile, pool, automation, runs.

Imports Prefect at the top, which takes seconds and reads the environment: import this module late.
"""

import socket
import time
from collections.abc import Sequence
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound, PrefectException, PrefectHTTPStatusError
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    PREFECT_PROFILES_PATH,
    load_profiles,
    save_profiles,
)
from prefect.states import Cancelling, Crashed

from data_catalog.base.config import UserError

API_ERRORS = (httpx.HTTPError, PrefectException)
ACTIVE = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
AUTOMATION = "ssld: crash runs whose heartbeat is missed"
MISSED_HEARTBEAT = timedelta(seconds=150)  # five beats: a machine may stop for a minute


def use_profile(name: str, api: str, previous: Path) -> None:
    """Make every `prefect` command of this user talk to `api`, from any folder.

    The file `previous` keeps the name of the profile that was active.
    """
    profiles = load_profiles()
    active = profiles.active_name
    password = PREFECT_API_AUTH_STRING.value()
    secret = {PREFECT_API_AUTH_STRING: password} if password else {}
    profiles.update_profile(name, {PREFECT_API_URL: api, **secret})
    if active != name:
        previous.write_text(active or "")
    profiles.set_active(name)
    save_profiles(profiles)
    PREFECT_PROFILES_PATH.value().chmod(0o600)  # it may hold the password


def check_password() -> None:
    """Raise UserError if the server that runs asks for another password than is known here."""
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pools()
        except PrefectHTTPStatusError as error:
            if error.response.status_code != HTTPStatus.UNAUTHORIZED:
                raise
            raise UserError(
                "the server refuses the password; give the one that it was started with, or "
                "`ssld down` first"
            ) from None


def leave_profile(name: str, previous: Path) -> None:
    """Go back to the profile that was active before `use_profile`."""
    profiles = load_profiles()
    if profiles.active_name == name:
        before = previous.read_text() if previous.exists() else ""
        profiles.set_active(before if before in profiles.names else "ephemeral")
        profiles.remove_profile(name)
        save_profiles(profiles)


def ensure_pool(name: str, num_runs: int) -> None:
    """A process work pool that runs so many jobs at a time."""
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(name)
        except ObjectNotFound:
            client.create_work_pool(WorkPoolCreate(name=name, type="process"))
        client.update_work_pool(name, WorkPoolUpdate(concurrency_limit=num_runs))


def ensure_automation() -> None:
    """Mark a run Crashed when its heartbeat stops: worker and engine can die together."""
    trigger = EventTrigger(
        after={"prefect.flow-run.heartbeat"},
        expect={
            "prefect.flow-run.heartbeat",
            *(f"prefect.flow-run.{s}" for s in ("Completed", "Failed", "Cancelled", "Crashed")),
        },
        match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=MISSED_HEARTBEAT,
    )
    action = ChangeFlowRunState(
        name=None,
        force=False,
        state=StateType.CRASHED,
        message=f"no heartbeat for {MISSED_HEARTBEAT.seconds} s",
    )
    with get_client(sync_client=True) as client:
        if not client.read_automations_by_name(AUTOMATION):
            automation = AutomationCore(name=AUTOMATION, trigger=trigger, actions=[action])
            client.create_automation(automation)


def crash_orphans(pool: str) -> list[str]:
    """Mark as Crashed the active runs of `pool` whose process is gone; their names.

    For a time without a worker, when nothing else will ever finish them: they would hold the pool's
    one slot until the automation finds them.
    """
    with get_client(sync_client=True) as client:
        gone = [run for run in _active(client, [pool]) if not _is_alive(run)]
        for run in gone:
            client.set_flow_run_state(run.id, Crashed(message="its process is gone"), force=True)
    return [run.name for run in gone]


def cancel_running(pools: Sequence[str], seconds: float) -> list[str]:
    """Cancel the active runs of `pools`, wait up to `seconds`; their names. Raises API_ERRORS."""
    with get_client(sync_client=True) as client:
        runs = _active(client, pools)
        for run in runs:
            client.set_flow_run_state(run.id, Cancelling(), force=True)  # the worker sends SIGTERM
        end = time.monotonic() + seconds
        while _active(client, pools) and time.monotonic() < end:
            time.sleep(0.5)
    return [run.name for run in runs]


def _active(client: SyncPrefectClient, pools: Sequence[str]) -> list[FlowRun]:
    return client.read_flow_runs(
        flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": ACTIVE}}}),
        work_pool_filter=WorkPoolFilter.model_validate({"name": {"any_": list(pools)}}),
    )


def _is_alive(run: FlowRun) -> bool:
    """Whether the process of `run` is there, on this machine or perhaps on another."""
    host, _, pid = (run.infrastructure_pid or "").rpartition(":")
    if not pid:
        return False
    if host not in ("", socket.gethostname()):
        return True  # cannot be known from here; the automation finds it
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()  # ids are given again
    except OSError:
        return False
    return str(run.id).encode() in environment or run.id.hex.encode() in environment
