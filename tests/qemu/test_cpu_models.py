"""Finding the CPU model nearest to a set of features."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from corral.qemu.cpu_models import CPUModel, from_kernel_flags, libvirt_name, maker, nearest

NAMES = ["sse4.1", "sse4.2", "avx", "aes", "avx512-vpopcntdq", "sha-ni", "tsc-deadline", "pclmuldq", "lahf_lm", "xop"]


def model(name: str, *features: str, vendor: str = "Intel", deprecated: bool = False) -> CPUModel:
    return CPUModel(name, True, (), deprecated, None, vendor, features)


def test_names() -> None:
    assert libvirt_name("pclmulqdq") == "pclmuldq"
    assert libvirt_name("avx") == "avx"
    assert [maker(name) for name in ("SandyBridge", "Opteron_G4", "EPYC-Rome-v2", "Dhyana", "qemu64", "n270")] == [
        "Intel",
        "AMD",
        "AMD",
        "Hygon",
        "",
        "Intel",
    ]


def test_kernel_flags_become_libvirts_names() -> None:
    flags = ["sse4_1", "avx512_vpopcntdq", "sha_ni", "tsc_deadline_timer", "pclmulqdq", "lahf_lm", "rep_good", "cpuid"]
    found = from_kernel_flags(flags, NAMES)
    assert found == {"sse4.1", "avx512-vpopcntdq", "sha-ni", "tsc-deadline", "pclmuldq", "lahf_lm"}


def test_nearest_of_the_vendor() -> None:
    old, new = model("Old", "sse4.1"), model("New", "sse4.1", "sse4.2", "aes", "avx")
    models = [old, new, model("Other", "sse4.1", "sse4.2", "aes", vendor="AMD")]
    found = nearest(models, frozenset({"sse4.1", "sse4.2", "aes"}), "Intel")
    assert found is not None
    assert (found.name, found.require, found.disable) == ("New", (), ("avx",))
    within = nearest(models, frozenset({"sse4.1", "sse4.2", "aes"}), "Intel", within=True)
    assert within is not None
    assert (within.name, within.require, within.disable) == ("Old", ("aes", "sse4.2"), ())


def test_no_candidates() -> None:
    floating = [model("max", "avx"), model("host", "avx"), model("Gone", "avx", deprecated=True), model("Empty")]
    assert nearest(floating, frozenset({"avx"}), "Intel") is None


def test_unversioned_name_wins_a_tie() -> None:
    found = nearest([model("SandyBridge-v1", "avx"), model("SandyBridge", "avx")], frozenset({"avx"}), "Intel")
    assert found is not None
    assert found.name == "SandyBridge"


features = st.frozensets(st.sampled_from(NAMES))


@given(st.lists(features.filter(bool), min_size=1, max_size=6), features)
def test_nearest_always_adds_up(sets: list[frozenset[str]], wanted: frozenset[str]) -> None:
    models = [model(f"M{index}", *sorted(has)) for index, has in enumerate(sets)]
    found = nearest(models, wanted, "Intel")
    assert found is not None
    has = next(set(m.features) for m in models if m.name == found.name)
    assert (has | set(found.require)) - set(found.disable) == wanted
    assert len(found.require) + len(found.disable) == min(len(wanted ^ other) for other in sets)
