"""CPU models as QEMU knows them, under libvirt's names, and the one that comes nearest to what a host can give.

QEMU's static expansion of a model lists what the accelerator leaves of it; with the model's `unavailable-features` it
is the whole model. So no table of models is ours: a new QEMU brings its new models along.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

LIBVIRT_NAMES = {
    "cmp-legacy": "cmp_legacy",
    "ds-cpl": "ds_cpl",
    "fxsr-opt": "fxsr_opt",
    "lahf-lm": "lahf_lm",
    "nodeid-msr": "nodeid_msr",
    "pclmulqdq": "pclmuldq",
    "perfctr-core": "perfctr_core",
    "perfctr-nb": "perfctr_nb",
    "tsc-adjust": "tsc_adjust",
}
"""Where libvirt's name of a CPU feature differs from QEMU's; QEMU takes libvirt's on its command line too."""

HYPERVISOR_FEATURES = ("kvm", "hv-")
"""Prefixes of properties that are a hypervisor's services, not features of a CPU."""

_KERNEL_FLAGS = {"tsc_deadline_timer": "tsc-deadline", "pclmulqdq": "pclmuldq", "md_clear": "md-clear"}

_VERSION = re.compile(r"-v\d+$")
_FLOATING = frozenset({"max", "host", "base"})
_MAKERS = {
    **dict.fromkeys(("EPYC", "Opteron", "athlon", "phenom"), "AMD"),
    **dict.fromkeys(("qemu", "kvm", "486", "pentium", "max", "host", "base"), ""),
    "Dhyana": "Hygon",
    "YongFeng": "Centaur",
}
"""Makers of QEMU's x86 models by the start of their names; all others are Intel's."""

_VENDORS = {"GenuineIntel": "Intel", "AuthenticAMD": "AMD", "HygonGenuine": "Hygon", "CentaurHauls": "Centaur"}


@dataclass(frozen=True, slots=True)
class CPUModel:
    """One CPU model under one accelerator.

    `usable`: nothing of it is missing here; `missing`: the features that this host or accelerator lacks; `canonical`:
    the versioned model an unversioned one stands for; `features`: all it has, missing ones too; `vendor`: libvirt's
    name of its maker, "" when it has none of its own (max and host: what a guest sees). Features carry libvirt's names.
    """

    name: str
    usable: bool
    missing: tuple[str, ...]
    deprecated: bool
    canonical: str | None
    vendor: str = ""
    features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NearestModel:
    """A named model and how to bring it to a wanted set of features: `require` added, `disable` taken away."""

    name: str
    vendor: str
    require: tuple[str, ...]
    disable: tuple[str, ...]


def libvirt_name(feature: str) -> str:
    """libvirt's name of a feature QEMU names."""
    return LIBVIRT_NAMES.get(feature, feature)


def vendor_name(identity: str) -> str:
    """libvirt's name for a CPUID vendor string, or "" for one it does not know."""
    return _VENDORS.get(identity, "")


def maker(model: str) -> str:
    """The vendor whose processor an x86 model describes, "" for one of nobody's."""
    return next((vendor for start, vendor in _MAKERS.items() if model.startswith(start)), "Intel")


def is_feature(name: str) -> bool:
    """Whether a boolean property of a CPU is a feature of the CPU."""
    return not name.startswith(HYPERVISOR_FEATURES)


def is_service(name: str) -> bool:
    """Whether a property of a CPU is a service of KVM's that a guest has unless it is taken away (kvm-steal-time)."""
    return name.startswith("kvm-")


def from_kernel_flags(flags: Iterable[str], names: Iterable[str]) -> frozenset[str]:
    """The features among `names` (libvirt's) that /proc/cpuinfo's flags mean.

    The kernel spells most of them with underscores and without dots (`sse4_1`, `avx512_vpopcntdq`, `sha_ni`), and has
    flags that are no feature of the processor; comparing letters and digits settles all but a few.
    """
    known = {_letters(name): name for name in names}
    translated = {_letters(_KERNEL_FLAGS.get(flag, flag)) for flag in flags}
    return frozenset(name for letters, name in known.items() if letters in translated)


def nearest(
    models: Iterable[CPUModel], wanted: frozenset[str], vendor: str, *, within: bool = False
) -> NearestModel | None:
    """The model of `vendor` that differs from `wanted` in the fewest features; None without candidates.

    Deprecated models and those that are not fixed (max, host, base) are no candidates; `within` admits only models
    all of whose features are wanted. On a tie the one that lacks rather than exceeds wins, then the unversioned name.
    """
    best: tuple[int, int, bool, str] | None = None
    found: NearestModel | None = None
    for model in models:
        if model.name in _FLOATING or model.deprecated or not model.features or model.vendor not in ("", vendor):
            continue
        has = frozenset(model.features)
        require, disable = wanted - has, has - wanted
        if within and disable:
            continue
        versioned = _VERSION.search(model.name) is not None
        rank = (len(require) + len(disable), len(disable), versioned, model.name)
        if best is None or rank < best:
            best = rank
            found = NearestModel(model.name, model.vendor or vendor, tuple(sorted(require)), tuple(sorted(disable)))
    return found


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name))
