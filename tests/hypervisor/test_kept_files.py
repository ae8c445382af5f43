"""What a daemon does of which QEMU tells nothing yet: sets of descriptors to close, the reason of a stop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.hypervisor.life import document, opened
from tests.waiting import until

from corral.constants import DomainState
from corral.errors import OperationTimeout
from corral.hypervisor import reactions
from corral.hypervisor.domain import Domain
from corral.hypervisor.hotplug import kept_files

pytestmark = pytest.mark.qemu


@pytest.fixture
async def domain(directory: Path) -> AsyncIterator[Domain]:
    async with opened(directory) as (hypervisor, _):
        found = await hypervisor.define(document("a"))
        await found.create()
        yield found
        await found.destroy()


async def test_a_set_that_could_not_be_closed_is_tried_again(domain: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    run = domain.require_run()
    machine = run.require_machine()
    with Path("/dev/null").open("rb") as file:  # noqa: ASYNC230
        for number in (70, 71):
            await machine.monitor.execute("add-fd", {"fdset-id": number}, descriptor=file.fileno())
    run.kept_files = {70, 71}

    async def silent(*_: object) -> None:
        raise OperationTimeout("QEMU does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(kept_files, "remove", silent)
        await kept_files.close(run)
    assert run.kept_files == {70, 71}
    await domain.suspend()
    await domain.resume()
    await until(lambda: not run.kept_files)
    assert not {70, 71} & {each["fdset-id"] for each in await machine.monitor.execute("query-fdsets")}


async def test_a_machine_that_stopped_is_soon_told_as_paused(domain: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no word from QEMU about the reason."""
    monkeypatch.setattr(reactions, "STATUS_TIMEOUT", 0)
    await domain.monitor_command("stop", 1)
    await until(lambda: domain.state()[0] == DomainState.PAUSED)
