"""libvirt-dbus, as Debian ships it and Cockpit uses it, on a bus of its own and connected to our daemon.

It always connects to qemu:///system, so it runs in a mount namespace where libvirt's socket is ours.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import Any

import pytest

from labs import corrald

PROGRAM = shutil.which("libvirt-dbus", path=os.environ["PATH"] + ":/usr/sbin")
NEEDED = ("busctl", "dbus-run-session", "unshare")
MISSING = [each for each in NEEDED if shutil.which(each) is None] + ([] if PROGRAM else ["libvirt-dbus"])

pytestmark = [
    pytest.mark.clients,
    pytest.mark.qemu,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="a mount namespace with libvirt's socket in it needs root"),
]

UUID = "11111111-2222-3333-4444-555555555555"
DOMAIN = f"/org/libvirt/QEMU/domain/_{UUID.replace('-', '_')}"
DOCUMENT = f"""
<domain type='qemu'>
  <name>dbus</name>
  <uuid>{UUID}</uuid>
  <description>Some words</description>
  <memory unit='MiB'>32</memory>
  <vcpu>2</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
</domain>
"""

#: Run inside the namespace and the bus: the service, a watcher of signals, the calls, one answer a line.
SCRIPT = r"""
set -e
mkdir -p /run/libvirt
mount -t tmpfs none /run/libvirt
ln -s "$SOCKET" /run/libvirt/libvirt-sock
"$PROGRAM" --session &
service=$!
bus="busctl --user --address=$DBUS_SESSION_BUS_ADDRESS"
for try in $(seq 100); do $bus status org.libvirt >/dev/null 2>&1 && break; sleep 0.1; done
$bus call org.libvirt /org/libvirt/QEMU org.libvirt.Connect ListDomains u 0 >/dev/null
$bus --json=short monitor org.libvirt >"$SIGNALS" &
watcher=$!
sleep 0.5
while read -r line; do
    eval "$bus --json=short call org.libvirt $line" || echo failed
done <"$CALLS"
sleep 0.5
kill $watcher $service
"""

CONNECT = "/org/libvirt/QEMU org.libvirt.Connect"
CALLS = {
    "domains": f"{CONNECT} ListDomains u 0",
    **{
        f"list {kind}": f"{CONNECT} List{kind} u 0"
        for kind in ("Networks", "StoragePools", "Interfaces", "NodeDevices", "Secrets", "NWFilters")
    },
    "connection": "/org/libvirt/QEMU org.freedesktop.DBus.Properties GetAll s org.libvirt.Connect",
    "capabilities": f"{CONNECT} GetCapabilities",
    "nobody": f"{CONNECT} DomainLookupByName s nobody",
    "properties": f"{DOMAIN} org.freedesktop.DBus.Properties GetAll s org.libvirt.Domain",
    "xml": f"{DOMAIN} org.libvirt.Domain GetXMLDesc u 0",
    "create": f"{DOMAIN} org.libvirt.Domain Create u 0",
    "stats": f"{DOMAIN} org.libvirt.Domain GetStats uu 57 0",
    "suspend": f"{DOMAIN} org.libvirt.Domain Suspend",
    "state": f"{DOMAIN} org.libvirt.Domain GetState u 0",
    "resume": f"{DOMAIN} org.libvirt.Domain Resume",
    "snapshots": f"{DOMAIN} org.libvirt.Domain ListDomainSnapshots u 0",
    "description": f'{DOMAIN} org.libvirt.Domain GetMetadata isu 0 "" 0',
    "autostart": f"{DOMAIN} org.freedesktop.DBus.Properties Set ssv org.libvirt.Domain Autostart b true",
    "destroy": f"{DOMAIN} org.libvirt.Domain Destroy u 0",
    "after": f"{DOMAIN} org.freedesktop.DBus.Properties GetAll s org.libvirt.Domain",
    "undefine": f"{DOMAIN} org.libvirt.Domain Undefine u 0",
    "none": f"{CONNECT} ListDomains u 0",
}


@pytest.fixture(scope="module")
def session(daemon: corrald.Daemon) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What each call answered, and the signals that came."""
    directory = daemon.state.parent
    document, calls, signals = directory / "dbus.xml", directory / "calls", directory / "signals"
    document.write_text(DOCUMENT)
    calls.write_text("".join(f"{call}\n" for call in CALLS.values()))
    subprocess.run(["virsh", "-q", "-c", daemon.uri, "define", str(document)], check=True, timeout=100)
    environment = {
        **os.environ,
        "PROGRAM": str(PROGRAM),
        "SOCKET": str(daemon.socket),
        "CALLS": str(calls),
        "SIGNALS": str(signals),
    }
    command = ["unshare", "--mount", "--propagation", "private", "dbus-run-session", "--", "sh", "-c", SCRIPT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    said = [line for line in done.stdout.splitlines() if line.strip()]
    answers = dict.fromkeys(CALLS)
    lines = iter(said)
    for name, call in CALLS.items():
        # A method that returns nothing prints nothing.
        if any(call.endswith(quiet) for quiet in ("Create u 0", "Suspend", "Resume", "Destroy u 0", "Undefine u 0")):
            continue
        if name == "autostart":
            continue
        line = next(lines, "failed")
        answers[name] = None if line == "failed" else json.loads(line)["data"]
    assert said, done.stderr
    seen = [json.loads(line) for line in signals.read_text().splitlines() if line.startswith("{")]
    return answers, [each for each in seen if each.get("type") == "signal"]


Session = tuple[dict[str, Any], list[dict[str, Any]]]


def _plain(properties: Any) -> dict[str, Any]:
    """A dictionary of variants: its values, each of which busctl wraps twice."""
    return {name: value["data"]["data"] for name, value in properties[0].items()}


def test_lists_and_properties(session: Session) -> None:
    answers, _ = session
    assert answers["domains"] == [[DOMAIN]]
    assert [answers[name] for name in CALLS if name.startswith("list ")] == [[[]]] * 6
    assert _plain(answers["connection"])["LibVersion"] == 11003000
    assert answers["capabilities"][0].startswith("<capabilities>")
    assert answers["nobody"] is None
    before, after = _plain(answers["properties"]), _plain(answers["after"])
    assert (before["Name"], before["UUID"], before["OSType"]) == ("dbus", UUID, "hvm")
    assert (before["Active"], before["Persistent"], before["Autostart"]) == (False, True, False)
    assert (after["Active"], after["Autostart"]) == (False, True)


def test_life(session: Session) -> None:
    answers, _ = session
    assert "<name>dbus</name>" in answers["xml"][0]
    assert answers["state"][0] == [3, 1]
    assert answers["description"] == ["Some words"]
    assert answers["snapshots"] == [[]]
    assert _plain(answers["stats"])["vcpu.maximum"] == 2
    assert answers["none"] == [[]]


def test_signals(session: Session) -> None:
    _, signals = session
    lifecycle = [each["payload"]["data"][1:] for each in signals if each["member"] == "DomainEvent"]
    assert [event for event, _ in lifecycle] == [4, 2, 3, 4, 6, 5, 1]
