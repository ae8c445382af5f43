"""Memory as the guest counts it: taken and given by its balloon, reported with a period."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from corral.constants import DomainMemoryModFlags, DomainStatsTypes
from corral.errors import InvalidArgument, OperationFailed, OperationInvalid
from corral.hypervisor.memory import ballooning

from .inside import guest, settled, sh

pytestmark = [pytest.mark.guest, pytest.mark.timeout(300)]

MIB = 1024


async def test_the_balloon_takes_and_gives(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with guest(directory) as (domain, _):

        async def total() -> int:
            return int((await sh(domain, "grep MemTotal /proc/meminfo")).split()[1])

        before = await total()
        assert await domain.set_memory(200 * MIB) == 200 * MIB
        await settled(total, lambda now: abs(before - now - 56 * MIB) < MIB)
        assert domain.info().memory == 200 * MIB
        assert "<currentMemory unit='KiB'>204800</currentMemory>" in domain.xml()
        with pytest.raises(InvalidArgument, match="cannot set memory higher than max memory"):
            await domain.set_memory(257 * MIB)
        with pytest.raises(OperationInvalid, match="cannot resize the maximum memory on an active domain"):
            await domain.set_memory(300 * MIB, DomainMemoryModFlags.MAXIMUM)
        await domain.set_memory(300 * MIB, DomainMemoryModFlags.MAXIMUM | DomainMemoryModFlags.CONFIG)
        assert domain.config is not None
        assert "<memory unit='KiB'>307200</memory>" in domain.config.secure_xml

        await domain.set_memory_stats_period(1)
        assert "<stats period='1'/>" in domain.xml()

        async def told() -> dict[str, object]:
            return {name: value for name, _, value in await domain.stats(DomainStatsTypes.BALLOON)}

        stats: dict[str, Any] = await settled(told, lambda stats: "balloon.unused" in stats)
        assert stats["balloon.current"] == 200 * MIB
        assert 0 < stats["balloon.unused"] < stats["balloon.available"]

        assert await domain.set_memory(256 * MIB) == 256 * MIB
        await settled(total, lambda now: now == before)
        monkeypatch.setattr(ballooning, "PATIENCE", 1.0)
        await sh(domain, "rmmod virtio_balloon")
        with pytest.raises(OperationFailed, match="the guest's balloon stays at 262144 KiB"):
            await domain.set_memory(200 * MIB)
