"""Memory and vCPUs as options: what the guest's memory is made of, address bits, nodes, how many vCPUs at start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from corral.model.domain import Domain
from corral.qemu.binary import Binary
from corral.qemu.defaults import Host, complete
from corral.qemu.plan import Plan, Runtime, plan


def planned(head: str, binary: Binary, host: Host, *, memory: str = "256 MiB", reserve: bool = True) -> Plan:
    number, unit = memory.split()
    document = Domain.from_xml(
        f"""<domain type='qemu'><name>m</name><memory unit='{unit}'>{number}</memory>{head}
        <os><type arch='x86_64' machine='q35'>hvm</type></os></domain>"""
    )
    runtime = Runtime(accel="tcg", run_dir=Path("/run/m"), reserve=reserve)
    return plan(complete(document, binary, host), binary, runtime)


def memory_of(made: Plan) -> dict[str, dict[str, Any]]:
    return {part.id: part.props for part in made.parts if str(part.props.get("qom-type", "")).startswith("memory-")}


def option(made: Plan, name: str) -> list[str]:
    return [option[1] for option in made.options if option[0] == name]


@pytest.mark.parametrize(
    ("backing", "props"),
    [
        ("", {"qom-type": "memory-backend-ram"}),
        ("<source type='anonymous'/>", {"qom-type": "memory-backend-ram"}),
        (
            "<source type='memfd'/><access mode='shared'/>",
            {"qom-type": "memory-backend-memfd", "share": True},
        ),
        (
            "<source type='file'/><access mode='private'/><discard/>",
            {"qom-type": "memory-backend-file", "mem-path": ".", "share": False, "discard-data": True},
        ),
        (
            "<hugepages><page size='2' unit='MiB'/></hugepages>",
            {
                "qom-type": "memory-backend-memfd",
                "hugetlb": True,
                "hugetlbsize": 2 << 20,
                "share": False,
                "prealloc": True,
            },
        ),
        (
            "<nosharepages/><allocation mode='immediate' threads='2'/>",
            {"qom-type": "memory-backend-ram", "merge": False, "prealloc": True, "prealloc-threads": 2},
        ),
    ],
)
def test_what_memory_is_made_of(backing: str, props: dict[str, Any], binary: Binary, host: Host) -> None:
    made = planned(f"<memoryBacking>{backing}</memoryBacking>" if backing else "", binary, host)
    assert memory_of(made) == {"pc.ram": props | {"size": 256 << 20}}


def test_locked_memory(binary: Binary, host: Host) -> None:
    assert option(planned("<memoryBacking><locked/></memoryBacking>", binary, host), "-overcommit") == ["mem-lock=on"]


@pytest.mark.parametrize(
    ("memory", "bits"), [("256 MiB", None), ("960 GiB", None), ("1 TiB", 46), ("2 TiB", 46), ("80 TiB", 48)]
)
def test_address_bits_follow_the_memory(memory: str, bits: int | None, binary: Binary, host: Host) -> None:
    words = option(planned("", binary, host, memory=memory, reserve=False), "-cpu")[0].split(",")
    assert [word for word in words if word.startswith("phys-bits")] == ([f"phys-bits={bits}"] if bits else [])


def test_memory_that_the_host_has_not_is_not_reserved(binary: Binary, host: Host) -> None:
    made = planned("", binary, host, memory="2 TiB", reserve=False)
    assert memory_of(made)["pc.ram"] == {"qom-type": "memory-backend-ram", "reserve": False, "size": 2 << 40}


def test_nodes(binary: Binary, host: Host) -> None:
    made = planned(
        """<vcpu>4</vcpu><cpu><numa>
        <cell id='1' cpus='2' memory='128' unit='MiB' memAccess='shared'/>
        <cell id='0' cpus='0-1,3' memory='64' unit='MiB'><distances><sibling id='1' value='21'/></distances></cell>
        </numa></cpu><memoryBacking><source type='memfd'/></memoryBacking>""",
        binary,
        host,
    )
    assert option(made, "-numa") == [
        "node,nodeid=0,cpus=0-1,cpus=3,memdev=ram-node0",
        "node,nodeid=1,cpus=2,memdev=ram-node1",
        "dist,src=0,dst=0,val=10",
        "dist,src=0,dst=1,val=21",
        "dist,src=1,dst=0,val=20",
        "dist,src=1,dst=1,val=10",
    ]
    assert option(made, "-m") == ["size=196608k"]
    assert "memory-backend" not in option(made, "-machine")[0]
    assert {name: props["share"] for name, props in memory_of(made).items()} == {"ram-node0": False, "ram-node1": True}


@pytest.mark.parametrize(
    ("vcpu", "smp", "accel", "x2apic"),
    [
        ("<vcpu current='2'>4</vcpu>", "2,maxcpus=4,sockets=4,cores=1,threads=1", "tcg", False),
        ("<vcpu>160</vcpu>", "160,sockets=160,cores=1,threads=1", "tcg,thread=single", False),
        ("<vcpu>288</vcpu>", "288,sockets=288,cores=1,threads=1", "tcg,thread=single", True),
    ],
)
def test_many_vcpus(vcpu: str, smp: str, accel: str, x2apic: bool, binary: Binary, host: Host) -> None:
    made = planned(vcpu, binary, host)
    assert option(made, "-smp") == [smp]
    assert option(made, "-accel") == [accel]
    assert ("x2apic=on" in option(made, "-cpu")[0].split(",")) == x2apic
