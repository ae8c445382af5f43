"""Facts that plans are tested with: those of one QEMU 10.0, so that golden files do not depend on the host."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from corral.host.firmware import Firmware
from corral.qemu.binary import Binary, MachineType
from corral.qemu.cpu_models import CPUModel
from corral.qemu.defaults import Host

FACTS = Path(__file__).parent / "facts"


@pytest.fixture(scope="session")
def binary() -> Binary:
    """QEMU 10.0 of Debian with its SPICE modules; `facts/qemu-10.0.json` has what plans ask of it."""
    facts = json.loads((FACTS / "qemu-10.0.json").read_text())
    return Binary(
        path=Path("/usr/bin/qemu-system-x86_64"),
        version=(10, 0, 2),
        package="",
        arch="x86_64",
        machines=tuple(MachineType(**machine) for machine in facts["machines"]),
        devices=frozenset(facts["devices"]),
        objects=frozenset(facts["objects"]),
        chardevs=frozenset(facts["chardevs"]),
        accelerators=frozenset({"tcg", "kvm"}),
        commands=frozenset({"query-vnc", "query-spice"}),
        arguments=frozenset(facts["arguments"]),
        options=frozenset({"sandbox"}),
        properties={name: tuple(names) for name, names in facts["properties"].items()},
        displays=frozenset({"none", "egl-headless", "dbus"}),
        audiodevs=frozenset({"none", "alsa", "dbus", "oss", "spice", "wav"}),
        models={
            "tcg": tuple(
                CPUModel(**model | {name: tuple(model[name]) for name in ("missing", "features")})
                for model in facts["models"]
            )
        },
    )


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    """A host without KVM that has Debian's OVMF."""
    return Host(
        kvm=False,
        kvm_reason="not here",
        firmwares=(_ovmf(secure=True), _ovmf(secure=False)),
        nvram_dir=Path("/nvram"),
        display_tls=True,
    )


def _ovmf(*, secure: bool) -> Firmware:
    name = ".ms" if secure else ""
    return Firmware(
        source=FACTS / "ovmf.json",
        description="OVMF",
        interfaces=("uefi",),
        device="flash",
        mode="split",
        executable=Path(f"/usr/share/OVMF/OVMF_CODE_4M{name}.fd"),
        executable_format="raw",
        nvram_template=Path(f"/usr/share/OVMF/OVMF_VARS_4M{name}.fd"),
        nvram_format="raw",
        targets=(("x86_64", ("pc-q35-*",)),),
        features=frozenset({"secure-boot", "enrolled-keys", "requires-smm"} if secure else {"acpi-s3"}),
    )
