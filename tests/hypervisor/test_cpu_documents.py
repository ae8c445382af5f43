"""A document's CPU against hosts of several kinds: what refuses the start, and what the live document says instead."""

from __future__ import annotations

import dataclasses

import pytest

from corral.errors import CPUIncompatible
from corral.hypervisor.cpus import guest_cpu
from corral.model.cpu import CPU
from corral.model.domain import Domain
from corral.qemu.binary import Binary
from corral.qemu.cpu_models import CPUModel

from .test_capabilities import binary as sample

HAS = ("aes", "avx", "hypervisor", "sse4.2", "xsave", "xsaveopt")


def model(name: str, *features: str, vendor: str = "Intel", missing: tuple[str, ...] = ()) -> CPUModel:
    return CPUModel(name, not missing, missing, False, None, vendor, (*features, *missing))


MODELS = (
    model("Small", "sse4.2"),
    model("Big", *HAS),
    model("Bigger", *HAS, missing=("fma4",)),
    model("Bulldozer", "aes", "avx", "xsave", vendor="AMD"),
    model("max", *HAS),
)


@pytest.fixture
def binary() -> Binary:
    return dataclasses.replace(
        sample(),
        models={"kvm": MODELS, "tcg": MODELS},
        cpu_features=(*HAS, "fma4", "invtsc"),
        unmigratable={"kvm": frozenset({"invtsc"})},
    )


def prepared(cpu: str, binary: Binary, accel: guest_cpu.Accelerator = "kvm", vendor: str = "Intel") -> CPU:
    """The CPU of a live document; modes and policies as a definition completes them."""
    document = Domain.from_xml(
        f"<domain type='kvm'><name>cpu</name><memory>1024</memory><os><type>hvm</type></os>{cpu}</domain>"
    )
    assert document.cpu is not None
    document.cpu.mode = document.cpu.mode or "custom"
    for feature in document.cpu.features:
        feature.policy = feature.policy or "require"
    guest_cpu.prepare(document, binary, accel, vendor)
    return document.cpu


def policies(cpu: CPU) -> dict[str, str | None]:
    return {feature.name: feature.policy for feature in cpu.features}


@pytest.mark.parametrize(
    ("cpu", "words"),
    [
        ("<cpu check='none'><model>Small</model><feature name='fma4'/></cpu>", "not provide required features: fma4"),
        ("<cpu mode='host-passthrough'><feature name='fma4'/></cpu>", "not provide required features: fma4"),
        ("<cpu mode='maximum'><feature policy='forbid' name='avx'/></cpu>", "provides forbidden features: avx"),
        (
            "<cpu check='none'><model>Small</model><feature policy='forbid' name='avx'/></cpu>",
            "forbidden features: avx",
        ),
        ("<cpu check='partial'><model>Bigger</model></cpu>", "not provide required features: fma4"),
        ("<cpu check='none' match='minimum'><model>Bigger</model></cpu>", "not provide required features: fma4"),
        ("<cpu check='partial'><model>Small</model><vendor>AMD</vendor></cpu>", "vendor does not match .* AMD"),
        (
            "<cpu check='partial' match='strict'><model>Small</model><feature name='xsave'/></cpu>",
            "does not strictly match guest CPU: Extra features: aes, avx, xsaveopt",
        ),
    ],
)
def test_what_refuses_the_start(cpu: str, words: str, binary: Binary) -> None:
    with pytest.raises(CPUIncompatible, match=words):
        prepared(cpu, binary)


@pytest.mark.parametrize(
    "cpu",
    [
        "<cpu check='none'><model>Bigger</model><vendor>AMD</vendor></cpu>",
        "<cpu check='partial'><model>Bigger</model><feature policy='disable' name='fma4'/></cpu>",
        "<cpu check='partial'><model>Small</model><vendor>Intel</vendor><feature policy='forbid' name='fma4'/></cpu>",
        "<cpu check='none'><model>Small</model><feature policy='force' name='fma4'/></cpu>",
        "<cpu check='partial' match='strict'><model>Big</model></cpu>",
        "<cpu check='partial'><model>Small</model><feature name='invtsc'/></cpu>",
    ],
)
def test_what_does_not(cpu: str, binary: Binary) -> None:
    assert prepared(cpu, binary).mode == "custom"


def test_an_emulated_vendor_is_free(binary: Binary) -> None:
    assert (
        prepared("<cpu check='partial'><model>Small</model><vendor>AMD</vendor></cpu>", binary, "tcg").vendor == "AMD"
    )


def test_optional_features_are_there_or_not(binary: Binary) -> None:
    wish = "<feature policy='optional' name='aes'/><feature policy='optional' name='fma4'/>"
    found = policies(prepared(f"<cpu check='none'><model>Small</model>{wish}</cpu>", binary))
    assert found == {"aes": "require", "fma4": "disable"}


def test_the_hosts_model_gets_its_name(binary: Binary) -> None:
    cpu = prepared("<cpu mode='host-model'><feature policy='disable' name='aes'/></cpu>", binary)
    assert (cpu.mode, cpu.match, cpu.model.name if cpu.model else None) == ("custom", "exact", "Big")
    assert policies(cpu) == {"aes": "disable"}
    least = prepared("<cpu match='minimum'><model>Small</model></cpu>", binary)
    assert least.model is not None
    assert (least.match, least.model.name) == ("exact", "Big")


def test_a_model_that_the_emulator_would_hang_on_is_mended(binary: Binary) -> None:
    for cpu, added in (
        ("<model>Bulldozer</model>", {"xsaveopt": "require"}),
        ("<model>Bulldozer</model><feature policy='disable' name='xsave'/>", {"xsave": "disable"}),
        ("<model>Bulldozer</model><feature policy='disable' name='xsaveopt'/>", {"xsaveopt": "disable"}),
        ("<model>Small</model>", {}),
        ("<model>Small</model><feature name='xsave'/>", {"xsave": "require", "xsaveopt": "require"}),
        ("<model>Big</model>", {}),
    ):
        assert policies(prepared(f"<cpu check='none'>{cpu}</cpu>", binary, "tcg")) == added
    assert policies(prepared("<cpu check='none'><model>Bulldozer</model></cpu>", binary, "kvm")) == {}
