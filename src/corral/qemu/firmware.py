"""The firmware of a domain: by feature, from QEMU's descriptors, or by path.

A loader that a descriptor knows is taken for chosen by feature, as libvirt does, so that its variables' template and
what it can do are written down; one that none knows is taken as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from corral.errors import ConfigUnsupported, OperationFailed, XMLDetail
from corral.host.firmware import Firmware, choose
from corral.model.domain import Domain
from corral.model.features import SMM, Features
from corral.model.os import NVRAM, FirmwareFeature, ImageFormat, Loader
from corral.model.os import Firmware as FirmwareInfo
from corral.qemu.pci_slots import is_q35

INTERFACES = {"efi": "uefi", "bios": "bios"}


def complete(domain: Domain, arch: str, firmwares: Sequence[Firmware], nvram_dir: Path) -> None:
    """Choose the firmware that the document asks for, and name a file for the variables of one that has some.

    `firmwares` in order of preference. Raises OperationFailed where none fits, XMLDetail and ConfigUnsupported for what
    contradicts itself; texts are libvirt's.
    """
    os = domain.os
    _refuse(domain)
    loader = os.loader
    path = loader.path if loader is not None else None
    if os.firmware is not None or (path is not None and loader is not None and loader.type == "pflash"):
        chosen = _choice(domain, arch, firmwares)
        if chosen is not None:
            _write_down(domain, chosen)
        elif os.firmware is not None and not _was_chosen(domain):
            raise OperationFailed(
                f"Unable to find '{os.firmware}' firmware that is compatible with the current configuration",
                hint="corral doctor lists the firmware of this host; <os><firmware> says which features are wanted",
            )
    loader = os.loader
    if loader is not None and loader.path is not None:
        loader.type = loader.type or "rom"
        if loader.type == "pflash":
            loader.format, loader.readonly = loader.format or "raw", loader.readonly or "yes"
            if loader.readonly == "yes" and loader.stateless != "yes":
                os.nvram = os.nvram or NVRAM()
                os.nvram.path = os.nvram.path or str(nvram_dir / f"{domain.name}_VARS.fd")
    if os.nvram is not None and os.nvram.path is not None:
        os.nvram.format = os.nvram.format or "raw"
    _refuse_insecure(domain)


def _refuse(domain: Domain) -> None:
    os = domain.os
    if os.firmware is None and os.firmware_info is not None and os.firmware_info.features:
        raise XMLDetail("cannot use feature-based firmware autoselection when firmware autoselection is disabled")
    wanted = _wanted(domain)
    if wanted.get("enrolled-keys") and wanted.get("secure-boot") is False:
        raise XMLDetail(
            "firmware feature 'enrolled-keys' cannot be enabled when firmware feature 'secure-boot' is disabled"
        )
    if os.nvram is not None and os.firmware is None and (os.loader is None or os.loader.path is None):
        raise XMLDetail("no loader path specified and firmware auto selection disabled")
    if os.nvram is not None and os.loader is not None and os.loader.stateless == "yes":
        raise XMLDetail("NVRAM is not permitted when loader is stateless")


def _wanted(domain: Domain) -> dict[str, bool]:
    info = domain.os.firmware_info
    return {feature.name: feature.enabled == "yes" for feature in info.features} if info is not None else {}


def _choice(domain: Domain, arch: str, firmwares: Sequence[Firmware]) -> Firmware | None:
    """The first descriptor that agrees with all that the document says."""
    os, wanted = domain.os, _wanted(domain)
    loader, nvram = os.loader or Loader(), os.nvram or NVRAM()
    if loader.readonly == "no":
        return None
    assert os.type.machine is not None
    return choose(
        arch,
        os.type.machine,
        interface=INTERFACES[os.firmware or "efi"],
        secure=wanted.get("secure-boot") if loader.secure is None else loader.secure == "yes",
        enrolled=wanted.get("enrolled-keys"),
        smm=_smm(domain) != "off",
        stateless=loader.stateless == "yes",
        executable=(loader.path, loader.format),
        template=(nvram.template, nvram.template_format or nvram.format),
        firmwares=[f for f in firmwares if f.device == "flash" and f.executable_format in ("raw", "qcow2")],
    )


def _was_chosen(domain: Domain) -> bool:
    """Whether the document is that of a domain whose firmware this host, or another, once had a descriptor for."""
    os = domain.os
    stored = os.nvram is not None and os.nvram.path is not None
    return os.loader is not None and os.loader.path is not None and stored and len(_wanted(domain)) == 2


def _write_down(domain: Domain, firmware: Firmware) -> None:
    os = domain.os
    features = domain.features = domain.features or Features()
    if not features.acpi:
        raise ConfigUnsupported("UEFI requires ACPI on this architecture", hint="add <acpi/> to <features>")
    if firmware.secure:
        features.smm = features.smm or SMM()
        features.smm.state = "on"
    os.firmware = os.firmware or "efi"
    os.firmware_info = FirmwareInfo(
        features=[
            FirmwareFeature(enabled="yes" if name in firmware.features else "no", name=name)
            for name in ("enrolled-keys", "secure-boot")
        ]
    )
    loader = os.loader = os.loader or Loader()
    loader.path, loader.type = str(firmware.executable), "pflash"
    loader.readonly, loader.format = "yes", _format(firmware.executable_format)
    if firmware.secure:
        loader.secure = "yes"
    if firmware.nvram_template is not None and loader.stateless != "yes":
        nvram = os.nvram = os.nvram or NVRAM()
        nvram.template, nvram.template_format = str(firmware.nvram_template), _format(firmware.nvram_format)
        nvram.format = nvram.format or nvram.template_format


def _format(name: str) -> ImageFormat:
    return "qcow2" if name == "qcow2" else "raw"


def _smm(domain: Domain) -> str | None:
    smm = domain.features.smm if domain.features is not None else None
    return smm.state or "on" if smm is not None else None


def _refuse_insecure(domain: Domain) -> None:
    """Raise where the guest itself could write what Secure Boot relies on."""
    if domain.os.loader is None or domain.os.loader.secure != "yes":
        return
    if not is_q35(domain):
        raise ConfigUnsupported("Secure boot is supported with q35 machine types only")
    if _smm(domain) != "on":
        raise ConfigUnsupported("Secure boot requires SMM feature enabled", hint="add <smm state='on'/> to <features>")
