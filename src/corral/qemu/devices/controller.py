"""Controllers: the buses that other devices sit on."""

from __future__ import annotations

from corral.errors import ConfigUnsupported
from corral.model.address import PCIAddress
from corral.model.devices.controller import Controller, ControllerDriver, ControllerTarget
from corral.qemu.context import Context, Properties, alias, given, iothreads, switch, virtio_options
from corral.qemu.pci_slots import COMPANIONS
from corral.qemu.runtime import Part

USB = {
    "piix3-uhci": "piix3-usb-uhci",
    "piix4-uhci": "piix4-usb-uhci",
    "ehci": "usb-ehci",
    "ich9-ehci1": "ich9-usb-ehci1",
    "ich9-uhci1": "ich9-usb-uhci1",
    "ich9-uhci2": "ich9-usb-uhci2",
    "ich9-uhci3": "ich9-usb-uhci3",
    "vt82c686b-uhci": "vt82c686b-usb-uhci",
    "pci-ohci": "pci-ohci",
    "nec-xhci": "nec-usb-xhci",
    "qemu-xhci": "qemu-xhci",
}
SCSI = {
    "lsilogic": "lsi53c895a",
    "lsisas1068": "mptsas1068",
    "lsisas1078": "megasas",
    "vmpvscsi": "pvscsi",
    "dc390": "dc390",
    "am53c974": "am53c974",
}


def parts(controller: Controller, context: Context) -> list[Part]:
    """The controller's device; nothing for those that the machine has anyway."""
    props = _props(controller, context)
    if props is None:
        return []
    return [Part("device", _id(controller), props | context.place(controller))]


def _id(controller: Controller) -> str:
    """Companions of one USB bus share the master's alias, but not its id."""
    model = controller.model or ""
    return f"{alias(controller)}-{model.removeprefix('ich9-')}" if model.startswith("ich9-uhci") else alias(controller)


def _props(controller: Controller, context: Context) -> Properties | None:
    match controller.type:
        case "pci":
            return _pci(controller, context)
        case "usb":
            return _usb(controller, context)
        case "scsi":
            return _scsi(controller, context)
        case "sata":
            return None if context.q35 and controller.index == 0 else {"driver": context.driver("ich9-ahci")}
        case "ide" if controller.index == 0 and not context.q35:
            return None
        case "ccid":
            return {"driver": context.driver("usb-ccid")}
        case "nvme":
            serial = alias(controller) if controller.serial is None else controller.serial
            return {"driver": context.driver("nvme"), "serial": serial}
        case "virtio-serial":
            model = controller.model if controller.model != "virtio" else None
            props: Properties = {"driver": context.virtio("virtio-serial", model)}
            props |= given(max_ports=controller.ports, vectors=controller.vectors)
            return props | virtio_options(controller.driver)
    raise ConfigUnsupported(f"a controller of type '{controller.type}' is not supported on this machine")


def _pci(controller: Controller, context: Context) -> Properties | None:
    target = controller.target or ControllerTarget()
    hotplug = {} if target.hotplug is None else {"hotplug": target.hotplug == "on"}
    match controller.model:
        case "pci-root" | "pcie-root":
            return None
        case "pcie-root-port":
            name = controller.hardware.name if controller.hardware is not None else "pcie-root-port"
            return given(driver=context.driver(name), port=target.port, chassis=target.chassis) | hotplug
        case "pci-bridge":
            return {"driver": context.driver("pci-bridge"), "chassis_nr": target.chassis_nr}
        case "pcie-to-pci-bridge":
            return {"driver": context.driver("pcie-pci-bridge")}
        case "dmi-to-pci-bridge":
            return {"driver": context.driver("i82801b11-bridge")}
    raise ConfigUnsupported(f"PCI controller model '{controller.model}' is not supported yet")


def _usb(controller: Controller, context: Context) -> Properties | None:
    model = controller.model or ""
    if model == "none":
        return None
    if model not in USB:
        raise ConfigUnsupported(f"USB controller model '{model}' is not supported")
    props: Properties = {"driver": context.driver(USB[model])}
    if controller.ports is not None:
        if not model.endswith("xhci"):
            raise ConfigUnsupported(f"'ports' is only for xHCI controllers, not '{model}'")
        props |= {"p2": controller.ports, "p3": controller.ports}
    if model in COMPANIONS and model != "ich9-ehci1" and controller.master is not None:
        props |= {"masterbus": f"{alias(controller)}.0", "firstport": controller.master.startport}
    return props


def _scsi(controller: Controller, context: Context) -> Properties:
    driver = controller.driver or ControllerDriver()
    model = controller.model or ""
    if model in ("virtio-scsi", "virtio-transitional", "virtio-non-transitional", "virtio"):
        if driver.iothread is not None and driver.iothread not in iothreads(context.domain):
            raise ConfigUnsupported(f"controller iothread '{driver.iothread}' not defined in iothreadid")
        props: Properties = {"driver": context.virtio("virtio-scsi", None if model == "virtio" else model)}
        props |= given(
            num_queues=driver.queues,
            cmd_per_lun=driver.cmd_per_lun,
            max_sectors=driver.max_sectors,
            ioeventfd=switch(driver.ioeventfd),
            iothread=f"iothread{driver.iothread}" if driver.iothread else None,
        )
        return props | virtio_options(driver)
    if model not in SCSI:
        raise ConfigUnsupported(f"SCSI controller model '{model}' is not supported")
    return {"driver": context.driver(SCSI[model])}


def plugged_first(controller: Controller) -> tuple[int, int, int]:
    """Sort key: a bus before what sits on it, an EHCI before its companions."""
    nesting = controller.address.bus if isinstance(controller.address, PCIAddress) else 0
    if controller.type == "pci":
        return (0, 0 if nesting == 0 else 1, controller.index or 0)
    return (1, 1 if (controller.model or "").startswith("ich9-uhci") else 0, 0)
