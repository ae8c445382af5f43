"""vCPUs as the guest counts them: plugged and unplugged while it runs, by itself and with its agent's help."""

from __future__ import annotations

from pathlib import Path

import pytest

from corral.constants import DomainVcpuFlags
from corral.errors import ConfigUnsupported, InvalidArgument, OperationFailed, OperationUnsupported
from corral.hypervisor import events

from .inside import booted, emulates_x2apic, guest, sh
from .life import opened

pytestmark = [pytest.mark.guest, pytest.mark.timeout(300)]


async def test_from_one_to_four_to_two_as_the_guest_counts(directory: Path) -> None:
    async with guest(directory, most=8) as (domain, heard):
        assert await sh(domain, "nproc") == "1"
        assert await domain.set_vcpus(4) == 4
        assert await sh(domain, "nproc") == "4"
        assert domain.info().vcpus == 4
        assert domain.vcpus(DomainVcpuFlags.CONFIG) == (1, 8)
        assert "<vcpu id='3' enabled='yes' hotpluggable='yes' order='4'/>" in domain.xml()
        assert await domain.guest_vcpus() == {"vcpus": "0-3", "online": "0-3", "offlinable": "1-3"}

        assert await domain.set_vcpus(2, DomainVcpuFlags.LIVE | DomainVcpuFlags.CONFIG) == 2
        assert await sh(domain, "nproc") == "2"
        assert domain.vcpus(DomainVcpuFlags.CONFIG) == (2, 8)
        assert "<vcpu id='2' enabled='no' hotpluggable='yes'/>" in domain.xml()
        # libvirt tells nobody of a vCPU's leave as of a device's.
        assert not [event for event in heard if isinstance(event, events.DeviceRemoved)]

        with pytest.raises(OperationUnsupported, match="vcpu '0' can't be unplugged"):
            await domain.set_vcpu("0", False)
        with pytest.raises(InvalidArgument, match="greater than max allowable vcpus for the live domain: 9 > 8"):
            await domain.set_vcpus(9)
        identity = domain.xml()
    async with opened(directory) as (hypervisor, _):
        domain = hypervisor.lookup_by_name("grows")
        assert domain.xml() == identity
        await booted(domain)
        if not await emulates_x2apic(domain):
            with pytest.raises(OperationUnsupported, match="cannot plug a vCPU after one was unplugged"):
                await domain.set_vcpu("3", True)
            assert await sh(domain, "nproc") == "2"
            return
        await domain.set_vcpu("3", True)  # not the next one: the guest's own number for it is another
        assert await sh(domain, "nproc") == "3"
        await domain.set_vcpu("1", False)
        assert await sh(domain, "nproc") == "2"
        assert "<vcpu id='3' enabled='yes' hotpluggable='yes' order='2'/>" in domain.xml()


async def test_a_guest_that_takes_no_more_than_it_has(directory: Path) -> None:
    async with guest(directory, cmdline="nr_cpus=2") as (domain, _):
        assert await domain.set_vcpus(2) == 2
        with pytest.raises(OperationFailed, match="the guest does not take vCPU 2: it has 2 after the plug, and had 2"):
            await domain.set_vcpus(3)
        assert domain.info().vcpus == 2
        assert await sh(domain, "nproc") == "2"
        assert sorted(domain.require_run().require_machine().vcpu_threads) == [0, 1]


async def test_the_guests_own_use_of_its_vcpus(directory: Path) -> None:
    async with guest(directory, cpus=2, most=2) as (domain, _):
        with pytest.raises(ConfigUnsupported, match="failed to find appropriate hotpluggable vcpus"):
            await domain.set_vcpus(1)
        assert await domain.set_vcpus(1, DomainVcpuFlags.GUEST) == 1
        assert await sh(domain, "nproc") == "1"
        assert await domain.guest_vcpu_count() == 1
        assert await domain.guest_vcpu_count(maximum=True) == 2
        assert domain.info().vcpus == 2
        with pytest.raises(InvalidArgument, match="greater than the count of enabled vcpus"):
            await domain.set_vcpus(3, DomainVcpuFlags.GUEST)
        with pytest.raises(OperationUnsupported, match="vCPU '0' is not offlinable"):
            await domain.set_guest_vcpus("0", False)
        with pytest.raises(InvalidArgument, match="guest is missing vCPUs '5'"):
            await domain.set_guest_vcpus("1,5", True)
        await domain.set_guest_vcpus("1", True)
        assert await sh(domain, "nproc") == "2"


async def test_a_guest_that_refuses(directory: Path) -> None:
    async with guest(directory, cpus=1, most=2) as (domain, _):
        assert await domain.set_vcpus(2) == 2
        await sh(domain, "echo 0 >/sys/firmware/acpi/hotplug/processor/enabled")
        with pytest.raises(OperationFailed, match="the guest refuses to let go of vCPU 1"):
            await domain.set_vcpus(1)
        assert domain.info().vcpus == 2
        assert await sh(domain, "nproc") == "2"  # what the agent had taken down is up again
        await sh(domain, "echo 1 >/sys/firmware/acpi/hotplug/processor/enabled")
        assert await domain.set_vcpus(1) == 1


async def test_an_emulator_without_room_for_another_thread_is_not_asked(directory: Path) -> None:
    """QEMU under TCG would abort, and take the guest with it."""
    async with guest(directory, cpus=1, most=2) as (domain, _):
        assert await domain.set_vcpus(2) == 2
        assert await domain.set_vcpus(1) == 1
        with pytest.raises(OperationUnsupported, match=r"can make 2 vCPUs in one run|cannot plug a vCPU after one"):
            await domain.set_vcpus(2)
        assert await sh(domain, "nproc") == "1"


async def test_a_daemon_killed_between_plug_and_note(directory: Path) -> None:
    """QEMU has a vCPU more than the store says: the next daemon believes QEMU."""
    async with guest(directory, cpus=1, most=3) as (domain, _):
        machine = domain.require_run().require_machine()
        slots = await machine.monitor.execute("query-hotpluggable-cpus")
        free = next(slot for slot in slots if slot["props"]["socket-id"] == 1)
        await machine.monitor.execute("device_add", {"driver": free["type"], "id": "vcpu1", **free["props"]})
        assert domain.info().vcpus == 1
    async with opened(directory) as (hypervisor, _):
        domain = hypervisor.lookup_by_name("grows")
        assert domain.info().vcpus == 2
        await booted(domain)
        await domain.set_vcpus(1)
        assert await sh(domain, "nproc") == "1"
