"""Video cards."""

from __future__ import annotations

from corral.errors import ConfigUnsupported
from corral.model.devices.video import Video, VideoModel
from corral.qemu.context import Context, Properties, alias, given, switch, virtio_options
from corral.qemu.devices import graphics
from corral.qemu.runtime import Part

PRIMARY = {
    "vga": "VGA",
    "cirrus": "cirrus-vga",
    "vmvga": "vmware-svga",
    "qxl": "qxl-vga",
    "virtio": "virtio-vga",
    "bochs": "bochs-display",
    "ramfb": "ramfb",
}
SECONDARY = {"qxl": "qxl", "virtio": "virtio-gpu-pci", "bochs": "bochs-display"}


def parts(video: Video, context: Context) -> list[Part]:
    """The card; nothing for model `none`."""
    model = video.model
    if model is None or model.type == "none":
        return []
    props: Properties = {"driver": _driver(model, context)} | _memory(model)
    if model.type in ("virtio", "qxl") and model.heads is not None:
        props["max_outputs"] = model.heads
    if model.type == "virtio":
        props |= given(blob=switch(model.blob)) | virtio_options(video.driver)
    if model.resolution is not None:
        if model.type not in ("vga", "bochs", "qxl", "virtio"):
            raise ConfigUnsupported(f"model resolution is not supported with video type '{model.type}'")
        props |= {"xres": model.resolution.x, "yres": model.resolution.y}
    return [Part("device", alias(video), props | context.place(video))]


def _driver(model: VideoModel, context: Context) -> str:
    accelerated = model.acceleration is not None and model.acceleration.accel3d == "yes"
    table = PRIMARY if model.primary == "yes" else SECONDARY
    if model.type not in table:
        raise ConfigUnsupported(f"video type '{model.type}' is only valid as primary video device")
    name = table[model.type]
    if accelerated:
        if model.type != "virtio":
            raise ConfigUnsupported(f"{model.type} 3d acceleration is not supported")
        if not any(graphics.draws(display) for display in context.domain.devices.graphics):
            raise ConfigUnsupported(
                "a video card with 3d acceleration needs a display with OpenGL",
                hint="<graphics type='egl-headless'/>, or <gl enable='yes'/> of a spice display that is local",
            )
        name = name.replace("virtio-gpu-pci", "virtio-gpu-gl-pci").replace("virtio-vga", "virtio-vga-gl")
    elif name == "virtio-vga" and not context.binary.has_device(name):
        name = "virtio-gpu-pci"
    return context.driver(name)


def _memory(model: VideoModel) -> Properties:
    """Video memory: the document counts KiB, the cards MiB or bytes."""
    match model.type:
        case "vga" | "vmvga":
            return given(vgamem_mb=_mib(model.vram))
        case "bochs":
            return given(vgamem=None if model.vram is None else model.vram * 1024)
        case "qxl":
            return given(
                ram_size=None if model.ram is None else model.ram * 1024,
                vram_size=None if model.vram is None else model.vram * 1024,
                vram64_size_mb=_mib(model.vram64) or 0,
                vgamem_mb=_mib(model.vgamem),
            )
    return {}


def _mib(kib: int | None) -> int | None:
    return None if kib is None else kib // 1024
