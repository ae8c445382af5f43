"""IOMMUs: completed at definition, where more than 255 vCPUs need one also added; made before all that sits behind."""

from __future__ import annotations

from corral.errors import ConfigUnsupported, XMLError
from corral.model.devices.iommu import IOMMU, IOMMUDriver
from corral.model.domain import Domain
from corral.model.features import IOAPIC, Features
from corral.qemu.context import Context, Properties, alias, given, switch
from corral.qemu.pci_slots import is_q35
from corral.qemu.runtime import Part

XAPIC_LIMIT = 255
"""vCPUs that the older mode of the interrupt controller can tell apart; beyond them it is x2APIC."""


def complete(domain: Domain) -> None:
    """Fill in and add, in place, as libvirt does.

    Raises ConfigUnsupported or XMLError for what no machine has.
    """
    iommus, many = domain.devices.iommus, domain.vcpu is not None and domain.vcpu.count > XAPIC_LIMIT
    if len(iommus) > 1:
        raise XMLError("only a single IOMMU device is supported")
    if many and not iommus and is_q35(domain):
        iommus.append(IOMMU(model="intel"))
    for device in iommus:
        if not is_q35(domain):
            machines = "Q35 machines" if device.model == "intel" else "Q35 and ARM Virt machines"
            raise ConfigUnsupported(f"IOMMU device: '{device.model}' is only supported with {machines}")
        if device.model == "virtio":
            if device.driver is not None:
                raise XMLError("iommu model 'virtio' doesn't support additional attributes")
            continue
        if device.address is not None:
            raise XMLError("iommu model 'intel' can't have address")
        _complete_intel(domain, device, many)
    if many and iommus and iommus[0].model != "intel":
        raise ConfigUnsupported("more than 255 vCPUs require an IOMMU of model 'intel' with extended interrupt mode")


def _complete_intel(domain: Domain, device: IOMMU, many: bool) -> None:
    if many:
        device.driver = device.driver or IOMMUDriver()
        device.driver.intremap = device.driver.intremap or "on"
        device.driver.eim = device.driver.eim or "on"
    driver = device.driver
    if driver is None:
        return
    if driver.eim == "on" and driver.intremap != "on":
        raise ConfigUnsupported("IOMMU eim requires interrupt remapping to be enabled")
    if many and driver.eim != "on":
        raise ConfigUnsupported(
            "more than 255 vCPUs require extended interrupt mode enabled on the iommu device",
            hint="<driver intremap='on' eim='on'/> in <iommu>",
        )
    if driver.intremap == "on":
        features = domain.features = domain.features or Features()
        features.ioapic = features.ioapic or IOAPIC(driver="qemu")
        if features.ioapic.driver != "qemu":
            raise ConfigUnsupported("IOMMU interrupt remapping requires split I/O APIC (ioapic driver='qemu')")


def parts(device: IOMMU, context: Context) -> list[Part]:
    """VT-d in the chipset, or the paravirtual IOMMU on PCI."""
    if device.model == "virtio":
        return [Part("device", alias(device), {"driver": context.driver("virtio-iommu-pci")} | context.place(device))]
    driver = device.driver or IOMMUDriver()
    props: Properties = {"driver": context.driver("intel-iommu")}
    props |= given(
        {
            "intremap": driver.intremap,
            "caching-mode": switch(driver.caching_mode),
            "eim": driver.eim,
            "device-iotlb": switch(driver.iotlb),
            "aw-bits": driver.aw_bits,
            "dma-translation": switch(driver.dma_translation),
        }
    )
    for name in props:
        if name != "driver" and not context.binary.has_property("intel-iommu", name):
            raise ConfigUnsupported(f"QEMU binary '{context.binary.path}' has no '{name}' of device 'intel-iommu'")
    return [Part("device", alias(device), props)]
