"""Rates between two readings of counters, flame graphs, and Prometheus' text."""

from __future__ import annotations

from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from corral.client import flamegraph
from corral.client.metrics import families
from corral.client.statistics import Reading, loads

SECOND = 1_000_000_000


def reading(seconds: float, *, id: int = 1, uuid: str = "00" * 16, steal: int | None = None) -> Reading:
    """A machine with two vCPUs: the first runs all the time, the second half of it, and waits a quarter of it."""
    figures = {
        "state.state": 1,
        "cpu.time": int(1.5 * seconds * SECOND),
        "vcpu.current": 2,
        "vcpu.maximum": 4,
        "vcpu.0.time": int(seconds * SECOND),
        "vcpu.0.delay": 0,
        "vcpu.1.time": int(seconds * SECOND / 2),
        "vcpu.1.delay": int(seconds * SECOND / 4),
        "vcpu.1.halted": True,
        "balloon.current": 2048,
        "balloon.usable": 512,
        "block.count": 2,
        "block.0.name": "vda",
        "block.0.rd.bytes": int(1000 * seconds),
        "block.1.rd.bytes": int(500 * seconds),
        "net.count": 1,
        "net.0.name": "vnet0",
        "net.0.rx.bytes": int(80 * seconds),
    }
    guest = {1: {"user": int(700 * seconds), "idle": int(50 * seconds), "steal": int(250 * seconds)}}
    return Reading("web", uuid, id, figures, guest if steal else None)


def test_rates() -> None:
    (load,) = loads([reading(10)], [reading(12)], 2.0)
    assert (load.state, load.vcpus, load.max_vcpus) == ("running", 2, 4)
    assert load.use == 150.0
    assert [each.use for each in load.each_vcpu] == [100.0, 50.0]
    assert [each.steal for each in load.each_vcpu] == [0.0, 25.0]
    assert load.steal == 12.5
    assert [each.halted for each in load.each_vcpu] == [None, True]
    assert (load.disk_read, load.received) == (1500.0, 80.0)
    assert (load.memory, load.unused) == (2048, 512)
    assert load.guest_steal is None


def test_the_guests_own_count_stands_beside() -> None:
    (load,) = loads([reading(10, steal=1)], [reading(12, steal=1)], 2.0)
    assert load.each_vcpu[1].guest_steal == 25.0
    assert load.each_vcpu[1].steal == 25.0
    assert load.each_vcpu[0].guest_steal is None


def test_a_new_run_begins_at_nothing() -> None:
    (load,) = loads([reading(100, id=1)], [reading(3, id=2)], 2.0)
    assert load.use == 0.0
    assert load.disk_read == 0.0


@given(
    st.dictionaries(
        st.text(max_size=20) | st.sampled_from(sorted(reading(1).figures)), st.integers(0, 2**64) | st.text()
    ),
    st.dictionaries(
        st.text(max_size=20) | st.sampled_from(sorted(reading(1).figures)), st.integers(0, 2**64) | st.text()
    ),
    st.floats(0, 1e6),
)
def test_any_figures(before: dict[str, int | str], after: dict[str, int | str], seconds: float) -> None:
    before.pop("block.count", None), after.pop("block.count", None)
    before.pop("net.count", None), after.pop("net.count", None)
    (load,) = loads([Reading("a", "b", 1, before)], [Reading("a", "b", 1, after)], seconds)
    assert load.use >= 0
    assert all(0 <= each.use <= 100 for each in load.each_vcpu)


def test_prometheus_reads_it() -> None:
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.registry import Collector

    status = {"domains": {"web": {"vcpus": {"counts": {"up": 3}, "decision": {"wanted": 4}}}}}

    class Once(Collector):
        def collect(self):  # type: ignore[no-untyped-def]
            return families([reading(10)], status)

    registry = CollectorRegistry()
    registry.register(Once())
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }
    domain = (("domain", "web"), ("uuid", "00" * 16))
    assert samples[("corral_domain_vcpu_delay_seconds_total", *domain, ("vcpu", "1"))] == 2.5
    assert samples[("corral_domain_memory_bytes", *domain)] == 2048 * 1024
    assert samples[("corral_domain_disk_read_bytes_total", ("disk", "vda"), *domain)] == 10000.0
    assert (
        samples[("corral_domain_received_bytes_total", ("domain", "web"), ("interface", "vnet0"), domain[1])] == 800.0
    )
    assert (
        samples[("corral_autoscale_decisions_total", ("domain", "web"), ("resource", "vcpus"), ("verdict", "up"))] == 3
    )


STACKS = [(["CPU 0", "run", "vmx_[k]", "spin_[g]"], 60), (["CPU 0", "run", "read"], 30), (["main", "<poll>"], 10)]


def test_a_flame_graph() -> None:
    root = ElementTree.fromstring(flamegraph.render(STACKS, "web & co", "100 samples"))
    svg = "{http://www.w3.org/2000/svg}"
    frames = {frame.get("data-n"): frame for frame in root.iter(f"{svg}g") if frame.get("class") == "f"}
    assert list(frames) == ["all", "CPU 0", "run", "read", "vmx", "spin", "main", "<poll>"]
    widths = {name: float(frame.get("data-w", "0")) for name, frame in frames.items()}
    assert widths["spin"] / widths["all"] == 0.6
    assert widths["CPU 0"] == widths["run"]
    title = frames["<poll>"].find(f"{svg}title")
    assert title is not None
    assert title.text == "<poll>: 10 samples, 10.00 %"
    colors = {name: frame.find(f"{svg}rect").get("fill") for name, frame in frames.items()}  # type: ignore[union-attr]
    assert 200 <= int(str(colors["spin"]).split("(")[1].split(",")[0]) <= 225  # the guest's are blue


@given(st.lists(st.tuples(st.lists(st.text(max_size=8), max_size=20), st.integers(1, 10**6)), max_size=30), st.text())
def test_any_stacks_make_a_file(stacks: list[tuple[list[str], int]], title: str) -> None:
    svg = flamegraph.render(stacks, title)
    assert svg.count('<g class="f"') >= 1
    try:
        ElementTree.fromstring(svg)
    except ElementTree.ParseError:
        raise AssertionError(svg) from None
