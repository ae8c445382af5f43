"""Secrets over the wire, as virsh asks for them: kept over a restart unless ephemeral, told unless private."""

from __future__ import annotations

import ast
import base64
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from labs import corrald

pytestmark = pytest.mark.clients

XML = "<secret ephemeral='{}' private='{}'><uuid>{}</uuid><usage type='iscsi'><target>{}</target></usage></secret>"
PLAIN, PRIVATE, FLEETING = (f"00000000-0000-4000-8000-00000000000{number}" for number in (1, 2, 3))


def virsh(uri: str) -> Callable[..., str]:
    def run(*words: str) -> str:
        done = subprocess.run(["virsh", "-c", uri, *words], capture_output=True, text=True, timeout=30, check=False)
        return (done.stdout + done.stderr).strip()

    return run


EVENTS = """
import libvirt, sys
libvirt.virEventRegisterDefaultImpl()
conn = libvirt.open(sys.argv[1])
seen = []
lifecycle, changed = libvirt.VIR_SECRET_EVENT_ID_LIFECYCLE, libvirt.VIR_SECRET_EVENT_ID_VALUE_CHANGED
def came(conn, secret, event, detail, who): seen.append((who, secret.usageID(), event, detail))
def value(conn, secret, who): seen.append((who, secret.usageID()))
conn.secretEventRegisterAny(None, lifecycle, came, "all")
one = conn.secretDefineXML(sys.argv[2])
ids = [conn.secretEventRegisterAny(one, lifecycle, came, "one")]
ids += [conn.secretEventRegisterAny(one, changed, value, "one")]
other = conn.secretDefineXML(sys.argv[3])
other.setValue(b"not told of")
one.setValue(b"x")
other.undefine()
one.undefine()
while seen[-1:] != [("one", "name-1", 1, 0)]: libvirt.virEventRunDefaultImpl()
[conn.secretEventDeregisterAny(each) for each in ids]
print(seen)
"""


def test_events() -> None:
    """A secret's coming, its value's change and its going, to who asked for all or for that one alone."""
    documents = [XML.format("yes", "no", uuid, f"name-{uuid[-1]}") for uuid in (PLAIN, PRIVATE)]
    with tempfile.TemporaryDirectory(prefix="cs") as name, corrald.running(Path(name)) as daemon:
        command = ["/usr/bin/python3", "-c", EVENTS, daemon.uri, *documents]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    defined, undefined = 0, 1
    assert ast.literal_eval(done.stdout) == [
        ("all", "name-1", defined, 0),
        ("all", "name-2", defined, 0),
        ("one", "name-1"),
        ("all", "name-2", undefined, 0),
        ("all", "name-1", undefined, 0),
        ("one", "name-1", undefined, 0),
    ]


def test_secrets() -> None:
    with tempfile.TemporaryDirectory(prefix="cs") as name:
        directory = Path(name)
        for uuid, ephemeral, private in ((PLAIN, "no", "no"), (PRIVATE, "no", "yes"), (FLEETING, "yes", "no")):
            (directory / uuid).write_text(XML.format(ephemeral, private, uuid, f"name-{uuid[-1]}"))
        with corrald.running(directory) as daemon:
            run = virsh(daemon.uri)
            for uuid in (PLAIN, PRIVATE, FLEETING):
                assert run("secret-define", str(directory / uuid)) == f"Secret {uuid} created"
                (directory / "value").write_bytes(b"pass\0word")
                assert (
                    run("secret-set-value", uuid, "--file", str(directory / "value"), "--plain") == "Secret value set"
                )
            assert base64.b64decode(run("secret-get-value", PLAIN)) == b"pass\0word"
            assert "secret is private" in run("secret-get-value", PRIVATE)
            listed = {line.split()[0]: line.split()[1:] for line in run("secret-list").splitlines()[2:]}
            assert listed == {each: ["iscsi", f"name-{each[-1]}"] for each in (PLAIN, PRIVATE, FLEETING)}
            assert set(run("secret-list", "--ephemeral").split()) & {PLAIN, FLEETING} == {FLEETING}
            (directory / "twice").write_text(XML.format("no", "no", PRIVATE.replace("2", "9"), "name-1"))
            assert "already defined for use with name-1" in run("secret-define", str(directory / "twice"))
            assert "no secret with matching uuid" in run("secret-dumpxml", PRIVATE.replace("2", "8"))
            kept = sorted(path.name for path in (daemon.state / "secrets").iterdir())
            assert kept == sorted(f"{each}.{kind}" for each in (PLAIN, PRIVATE) for kind in ("value", "xml"))
            assert all(path.stat().st_mode & 0o77 == 0 for path in (daemon.state / "secrets").iterdir())
        with corrald.running(directory) as daemon:
            run = virsh(daemon.uri)
            assert base64.b64decode(run("secret-get-value", PLAIN)) == b"pass\0word"
            assert "name-1" in run("secret-dumpxml", PLAIN) and "no secret" in run("secret-dumpxml", FLEETING)
            assert run("secret-undefine", PLAIN) == f"Secret {PLAIN} deleted"
            assert not list((daemon.state / "secrets").glob(f"{PLAIN}*"))
