"""`corral nic` with cards on the host's links, against our own daemon in a network namespace of the test's own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labs import corrald, netns
from labs.netns import Namespace

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(netns.missing() is not None, reason=str(netns.missing())),
    pytest.mark.skipif(shutil.which("passt") is None, reason="passt is not installed (apt-get install passt)"),
]

DOCUMENT = """<domain type='qemu'><name>web</name><memory unit='MiB'>32</memory>
<os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features><devices/></domain>"""

Run = Callable[..., str]


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    with netns.made(f"corral-c{os.getpid()}") as made:
        yield made


@pytest.fixture(scope="module")
def corral(namespace: Namespace) -> Iterator[Run]:
    with (
        tempfile.TemporaryDirectory(prefix="cr") as name,
        corrald.running(Path(name), within=namespace.within) as daemon,
    ):

        def run(*words: str, stdin: str = "", status: int = 0) -> str:
            command = [sys.executable, "-m", "corral.cli", "--connect", daemon.uri, *words]
            result = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)
            assert result.returncode == status, result.stderr
            return result.stdout if status == 0 else result.stderr

        run("define", "-", stdin=DOCUMENT)
        run("start", "web")
        yield run


def test_cards_on_the_hosts_links(corral: Run, namespace: Namespace) -> None:
    one, two, three = (f"52:54:00:00:00:0{number}" for number in (1, 2, 3))
    assert corral("nic", "add", "web", "--bridge", "br0", "--mac", one, "--mtu", "1400") == f"web has a card {one}\n"
    corral("nic", "add", "web", "--macvtap", "veth0", "--mode", "private", "--mac", two)
    corral("nic", "add", "web", "--publish", "127.0.0.1:8080:80", "--publish", "5353:53/udp", "--mac", three)
    rows = {row["mac"]: row for row in json.loads(corral("nic", "ls", "web", "--format", "json"))}
    assert [rows[one][key] for key in ("type", "source", "host")] == ["bridge", "br0", "vnet0"]
    assert [rows[two][key] for key in ("type", "source", "host")] == ["direct", "veth0", "macvtap0"]
    assert [rows[three][key] for key in ("type", "source", "host")] == ["passt", "127.0.0.1:8080:80, 5353:53/udp", None]
    assert namespace.links() == netns.LINKS | {"vnet0", "macvtap0"}
    listening = namespace.run("ss", "-Hltun")
    assert "127.0.0.1:8080" in listening and ":5353" in listening

    assert corral("nic", "limit", "web", "--in", "1000", "--out", "500", "--nic", one) == (
        f"{one}: in 1000 kB/s, out 500 kB/s\n"
    )
    assert "rate 8Mbit" in namespace.run("tc", "class", "show", "dev", "vnet0")
    refusal = corral("nic", "limit", "web", "--in", "5", "--nic", three, status=1)
    assert "setting bandwidth on interfaces of type 'user' is not implemented yet; only a card with a link" in refusal
    assert "as fast as it goes" in corral("nic", "limit", "web", "--in", "0", "--out", "0", "--nic", one)
    assert "<bandwidth" not in corral("show", "web")

    namespace.ip(f"neigh add 10.77.0.9 lladdr {one} dev br0 nud reachable")
    known = json.loads(corral("nic", "addresses", "web", "--format", "json"))
    assert known["known"] == [{"mac": one, "address": "10.77.0.9", "prefix": 0, "source": "arp", "name": "vnet0"}]
    assert known["silent"] == {
        "agent": "QEMU guest agent is not configured",
        "lease": "knows none",
    }
    assert "10.77.0.9/0" in corral("nic", "addresses", "web")


def test_what_makes_no_sense(corral: Run) -> None:
    assert "bridge and macvtap do not go together" in corral(
        "nic", "add", "web", "--bridge", "br0", "--macvtap", "veth0", status=1
    )
    assert "there is no bridge 'nosuch' on this host" in corral("nic", "add", "web", "--bridge", "nosuch", status=1)
    corral("nic", "add", "web", "--listen", "127.0.0.1:5000", "--mac", "52:54:00:00:00:04")
    taken = corral("nic", "add", "web", "--listen", "127.0.0.1:5000", status=1)
    assert "cannot listen at 127.0.0.1:5000 for a network card: Address already in use" in taken
    again = corral("nic", "add", "web", "--mac", "52:54:00:00:00:04", status=1)
    assert "web has a card 52:54:00:00:00:04 already" in again


def test_the_end(corral: Run, namespace: Namespace) -> None:
    """Nothing of a machine's cards outlives it: no link, no passt."""
    corral("kill", "web")
    assert namespace.links() == netns.LINKS
    assert "8080" not in namespace.run("ss", "-Hltun")
