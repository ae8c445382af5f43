"""The guest's memory: its size, its NUMA nodes, what on the host it is made of, and the address width that it takes."""

from __future__ import annotations

from corral.errors import ConfigUnsupported
from corral.model import cpuset
from corral.model.cpu import NUMACell
from corral.model.devices.memory import MemoryDevice
from corral.model.domain import Domain
from corral.qemu.context import Context, given
from corral.qemu.runtime import Part

Option = tuple[str, ...]

MEMORY_ID = "pc.ram"

#: Address widths that processors have, narrowest first; below the first QEMU's own default does.
WIDTHS = (40, 46, 48, 52)

#: Distance of a NUMA node from itself and from another when the document does not say (ACPI SLIT's own).
NEAR, FAR = 10, 20

_GIB = 1 << 30
#: KiB of a page that is not huge.
_SMALL_PAGE = 4


def size_kib(domain: Domain) -> int:
    """The guest's memory at start without memory devices, in whole MiB as the machine needs it."""
    if domain.memory is None:
        raise ConfigUnsupported("the domain has no <memory>")
    return -(-(domain.memory.kib - modules_kib(domain)) // 1024) * 1024


def modules_kib(domain: Domain) -> int:
    """What all memory devices can give; a part of `<memory>`, as in libvirt's documents."""
    return sum(each.target.size.kib for each in domain.devices.memories)


def given_kib(domain: Domain) -> int:
    """What the guest has of all that when its balloon takes nothing: what QEMU's `balloon` counts from."""
    kib = size_kib(domain)
    return kib + sum(each.target.size.kib for each in domain.devices.memories if each.model == "dimm")


def room(domain: Domain) -> str:
    """The value of `-m`: the memory of the start, and where memory can be plugged, how many slots and up to where."""
    words = f"size={size_kib(domain)}k"
    most = domain.max_memory
    return words if most is None else f"{words},slots={most.slots or 0},maxmem={-(-most.kib // 1024) * 1024}k"


def cells(domain: Domain) -> list[NUMACell]:
    """The guest's NUMA nodes; none where it has no `<numa>`."""
    return domain.cpu.numa.cells if domain.cpu is not None and domain.cpu.numa is not None else []


def width(domain: Domain) -> int:
    """How many bits of address the guest's memory and devices take: one of the widths that processors have.

    Beside the memory: the gap below 4 GiB, a terabyte that AMD's processors keep free, the window of PCI devices.
    """
    top = size_kib(domain) * 1024 + 4 * _GIB
    if domain.max_memory is not None:  # QEMU leaves a GiB a slot for each module to be aligned
        top = domain.max_memory.bytes + (4 + (domain.max_memory.slots or 0)) * _GIB
    top += 1024 * _GIB if top > 1000 * _GIB else 0
    holes = [each.pcihole64.bytes for each in domain.devices.controllers if each.pcihole64 is not None]
    top += max([32 * _GIB, *holes])
    needed = (top - 1).bit_length()
    for bits in WIDTHS:
        if bits >= needed:
            return bits
    raise ConfigUnsupported(f"{size_kib(domain) >> 20} GiB of memory are more than {WIDTHS[-1]} address bits reach")


def parts(context: Context) -> list[Part]:
    """The memory, one piece a NUMA node."""
    domain = context.domain
    nodes = cells(domain)
    if not nodes:
        return [Part("object", MEMORY_ID, _backend(context, None, size_kib(domain)))]
    return [
        Part("object", f"ram-node{number}", _backend(context, cell, cell.memory_kib))
        for number, cell in enumerate(nodes)
    ]


def options(context: Context) -> list[Option]:
    """The NUMA nodes and how far they are from each other."""
    nodes = cells(context.domain)
    words: list[Option] = []
    for number, cell in enumerate(nodes):
        cpus = [f"cpus={span}" for span in cpuset.write(cpuset.parse(cell.cpus)).split(",")] if cell.cpus else []
        words.append(("-numa", ",".join(["node", f"nodeid={number}", *cpus, f"memdev=ram-node{number}"])))
    if any(cell.distances is not None for cell in nodes):
        for source, cell in enumerate(nodes):
            told = {each.id: each.value for each in cell.distances.siblings} if cell.distances is not None else {}
            for target in range(len(nodes)):
                value = told.get(target, NEAR if source == target else FAR)
                words.append(("-numa", f"dist,src={source},dst={target},val={value}"))
    return words


def locking(domain: Domain) -> Option:
    """Whether the host may swap the guest out."""
    backing = domain.memory_backing
    return ("-overcommit", f"mem-lock={'on' if backing is not None and backing.locked else 'off'}")


def binding(domain: Domain, node: int | None, nodemask: str | None = None) -> dict[str, object]:
    """The host's nodes that a guest node's memory comes from, as properties of its backend; {}: any.

    `nodemask`: those that a memory device names for itself. https://libvirt.org/formatdomain.html#numa-node-tuning
    """
    tune = domain.numatune
    mode, nodeset = "strict", nodemask
    if tune is not None:
        for own in tune.memnodes:
            if own.cellid == (node or 0):
                mode, nodeset = own.mode, nodemask or own.nodeset
                break
        else:
            if tune.memory is not None:
                mode, nodeset = tune.memory.mode or "strict", nodemask or tune.memory.nodeset
    if nodeset is None:
        return {}
    policy = {"strict": "bind", "preferred": "preferred", "interleave": "interleave"}[mode]
    return {"host-nodes": sorted(cpuset.parse(nodeset)), "policy": policy}


def huge_page_kib(domain: Domain, node: int | None) -> int | None:
    """The size of huge pages for a node's memory; 0: the host's default size, None: no huge pages."""
    backing = domain.memory_backing
    if backing is None or backing.hugepages is None:
        return None
    if not backing.hugepages.pages:
        return 0
    for page in backing.hugepages.pages:
        if page.nodeset is None or (node or 0) in cpuset.parse(page.nodeset):
            return page.size_kib
    return None


def module_page_kib(domain: Domain, device: MemoryDevice) -> int | None:
    """The size of huge pages for a memory device; 0: the host's default size, None: no huge pages."""
    if device.source is not None and device.source.path is not None:
        return None
    pages = device.source.pagesize if device.source is not None else None
    if pages is None:
        return huge_page_kib(domain, device.target.node)
    return pages.kib if pages.kib > _SMALL_PAGE else None


def preallocates(domain: Domain, device: MemoryDevice) -> bool:
    """Whether what a virtio-mem gives the guest is allocated at once; its whole size never is."""
    backing = domain.memory_backing
    immediate = backing is not None and backing.allocation is not None and backing.allocation.mode == "immediate"
    return immediate or module_page_kib(domain, device) is not None


def module_backend(context: Context, device: MemoryDevice) -> dict[str, object]:
    """The host's memory of a memory device; that of a virtio-mem is not reserved."""
    props = _memory(
        context,
        device.target.size.kib,
        huge=module_page_kib(context.domain, device),
        access=device.access,
        discard=device.discard == "yes",
    )
    if device.model == "virtio-mem":
        props = {name: value for name, value in props.items() if not name.startswith("prealloc")} | {"reserve": False}
    nodemask = device.source.nodemask if device.source is not None else None
    return props | binding(context.domain, device.target.node, nodemask)


def _backend(context: Context, cell: NUMACell | None, kib: int) -> dict[str, object]:
    """The host's memory of a node."""
    node = cell.id if cell is not None else None
    props = _memory(
        context,
        kib,
        huge=huge_page_kib(context.domain, node),
        access=cell.mem_access if cell is not None else None,
        discard=cell is not None and cell.discard == "yes",
    )
    return props | binding(context.domain, node)


def _memory(context: Context, kib: int, *, huge: int | None, access: str | None, discard: bool) -> dict[str, object]:
    """A backend of `kib`: as the document's `<memoryBacking>` says, but for what a node or device says of itself."""
    backing = context.domain.memory_backing
    source = backing.source.type if backing is not None and backing.source is not None else None
    kind = {None: "ram", "anonymous": "ram", "memfd": "memfd", "file": "file"}[source]
    access = access or (backing.access.mode if backing is not None and backing.access is not None else None)
    props: dict[str, object] = {}
    if huge is not None:
        kind = "memfd"
        props |= {"hugetlb": True} | ({"hugetlbsize": huge * 1024} if huge else {})
    elif access == "shared" and kind == "ram":
        raise ConfigUnsupported("shared memory needs <source type='memfd'/>, <source type='file'/> or huge pages")
    elif discard and kind == "ram":
        kind = "file"
    if kind == "file":
        props["mem-path"] = context.own(str(context.runtime.run_dir))  # a file in it that has no name any more
    if kind != "ram":
        props["share"] = access == "shared"
    if backing is not None:
        props |= {"merge": False} if backing.nosharepages else {}
    if kind == "file" and (discard or (backing is not None and backing.discard)):
        props["discard-data"] = True
    immediate = backing is not None and backing.allocation is not None and backing.allocation.mode == "immediate"
    if immediate or huge is not None:
        threads = backing.allocation.threads if backing is not None and backing.allocation is not None else None
        props |= {"prealloc": True} | given({"prealloc-threads": threads})
    elif not context.runtime.reserve:
        props["reserve"] = False
    return {"qom-type": object_type(context, kind)} | props | {"size": kib * 1024}


def object_type(context: Context, kind: str) -> str:
    """The class of a backend. Raises ConfigUnsupported when the binary has none."""
    qom_type = f"memory-backend-{kind}"
    if not context.binary.has_object(qom_type):
        raise ConfigUnsupported(f"QEMU binary '{context.binary.path}' has no object '{qom_type}'")
    return qom_type
