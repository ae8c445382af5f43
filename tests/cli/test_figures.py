"""`corral top`, `metrics`, `perf` and `autoscale` as a person calls them, against a daemon that answers as told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from tests.cli.conftest import Corral
from tests.client.peer import Peer

from corral.errors import OperationUnsupported

MACHINE = {
    "state.state": 1,
    "vcpu.current": 1,
    "vcpu.maximum": 4,
    "vcpu.0.time": 10**9,
    "vcpu.0.delay": 10**8,
    "balloon.current": 1 << 20,
}


@pytest.fixture(autouse=True)
def figures(peer: Peer) -> None:
    peer.add("web", running=True)
    peer.answers["connect_get_all_domain_stats"] = lambda session, args: {
        "retStats": [
            {
                "dom": {"name": "web", "uuid": b"\1" * 16, "id": 1},
                "params": [{"field": field, "value": (4, value)} for field, value in MACHINE.items()],
            }
        ]
    }


def test_top_once(corral_: Corral) -> None:
    result = corral_("top", "-d", "0.1", "--vcpus")
    assert result.status == 0, result.err
    header, machine, vcpu = result.out.splitlines()
    assert header.split()[:5] == ["NAME", "STATE", "VCPUS", "USE", "STEAL"]
    assert machine.split()[:3] == ["web", "running", "1/4"]
    assert vcpu.strip().startswith("vcpu 0")


def test_top_json_is_the_same_data(corral_: Corral) -> None:
    (load,) = json.loads(corral_("top", "-d", "0.1", "--format", "json").out)
    assert (load["name"], load["vcpus"], load["memory_kib"]) == ("web", 1, 1 << 20)
    assert load["uuid"] == str(UUID(load["uuid"]))
    lines = corral_("top", "-d", "0.1", "-n", "3", "--format", "json").out.splitlines()
    assert [json.loads(line)["domains"][0]["name"] for line in lines] == ["web"] * 3


def test_metrics(corral_: Corral, tmp_path: Path) -> None:
    assert 'corral_domain_vcpu_delay_seconds_total{domain="web",uuid="' in corral_("metrics").out
    file = tmp_path / "corral.prom"
    result = corral_("metrics", "--textfile", str(file))
    assert result.out == ""
    assert 'vcpu="0"} 0.1' in file.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["corral.prom"]


def test_metrics_at_no_address(corral_: Corral) -> None:
    result = corral_("metrics", "--listen", "nowhere")
    assert result.status == 1
    assert "9177" in result.err


def test_perf_stat(corral_: Corral, peer: Peer) -> None:
    row = {"kind": "exit", "reason": "HLT", "count": 10, "total": 0.5, "min": 1e-5, "mean": 0.05, "max": 0.2}
    found = {"seconds": 1, "exits": [row], "events": {"kvm_exit": 10, "kvm_pio": 3}}
    asked: list[Any] = []
    peer.answers["corral.perf_stat"] = lambda session, args: asked.append(args) or {"json": json.dumps(found)}
    result = corral_("perf", "stat", "web", "-t", "1")
    assert result.status == 0, result.err
    assert asked[0].milliseconds == 1000
    line = result.out.splitlines()[1].split()
    assert line == ["to", "KVM", "HLT", "10", "10", "50.00%", "10.0", "µs", "50.0", "ms", "200.0", "ms"]
    assert "kvm_pio 3" in result.out


def test_perf_names_what_is_missing(corral_: Corral, peer: Peer) -> None:
    def missing(session: Any, args: Any) -> Any:
        raise OperationUnsupported("perf is not installed on the host", hint="apt-get install linux-perf")

    peer.answers["corral.perf_stat"] = missing
    result = corral_("perf", "stat", "web")
    assert result.status == 1
    assert "perf is not installed on the host" in result.err
    assert "apt-get install linux-perf" in result.err


def test_perf_record(corral_: Corral, peer: Peer, tmp_path: Path) -> None:
    found = {
        "seconds": 1,
        "samples": 5,
        "guest_samples": 2,
        "left_out": 0,
        "guest_symbols": False,
        "no_symbols": "the machine has no guest agent",
        "stacks": [[["CPU 0", "halt_[g]"], 2], [["CPU 0", "run"], 3]],
    }
    peer.answers["corral.perf_record"] = lambda session, args: {"json": json.dumps(found)}
    result = corral_("perf", "record", "web", "-t", "1", "-o", str(tmp_path / "web.svg"))
    assert result.status == 0, result.err
    assert "no guest agent" in result.out
    assert "halt: 2 samples, 40.00 %" in (tmp_path / "web.svg").read_text()


def test_autoscale_sets_shows_and_ends(corral_: Corral, peer: Peer) -> None:
    sent: list[Any] = []
    shown: dict[str, Any] = {"policy": None}

    def keep(session: Any, args: Any) -> None:
        sent.append((args.policy, args.flags))
        shown["policy"] = json.loads(args.policy) if args.policy else None

    peer.answers["corral.autoscale_set"] = keep
    peer.answers["corral.autoscale_show"] = lambda session, args: {"json": json.dumps(shown)}
    assert "is not scaled" in corral_("autoscale", "web").out
    result = corral_(
        "autoscale", "web", "--min", "1", "--max", "8", "--target", "70", "--memory-max", "2G", "--dry-run"
    )
    assert result.status == 0, result.err
    policy = json.loads(sent[0][0])
    assert policy["vcpus"] == {"min": 1, "max": 8, "target": 70}
    assert policy["memory"]["max"] == 2 << 20
    assert policy["dry_run"] is True
    assert "vcpus: 1 to 8, aiming at 70 % of use, told only (dry run)" in result.out
    assert corral_("autoscale", "web", "--off").out == "web\n"
    assert sent[1][0] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("web", "--min", "2"), "minimum and no maximum"),
        (("--max", "2"), "no machine was named"),
        (("web", "--max", "2", "--off"), "--off takes no bounds"),
        (("web", "--memory-max", "much"), "no size"),
    ],
)
def test_autoscale_refuses(corral_: Corral, words: tuple[str, ...], said: str) -> None:
    result = corral_("autoscale", *words)
    assert result.status == 1
    assert said in result.err


def test_a_budget(corral_: Corral, peer: Peer) -> None:
    budget = {"overcommit": 2.0, "reserve": 1.0, "memory_overcommit": 1.0, "memory_reserve": 1 << 20}
    sent: list[Any] = []
    peer.answers["corral.autoscale_budget"] = lambda session, args: sent.append(json.loads(args.json))
    peer.answers["corral.autoscale_status"] = lambda session, args: {
        "json": json.dumps({"budget": budget, "domains": {}})
    }
    result = corral_("autoscale", "--overcommit", "2", "--reserve", "1")
    assert sent == [{"overcommit": 2.0, "reserve": 1.0}]
    assert result.out == (
        "all scaled machines together: 2 vCPUs for each of the host's CPUs (1 kept back),"
        " 1 times its memory (1 GiB kept back)\n"
    )
