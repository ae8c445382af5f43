"""Firmware by feature and by path: what a definition becomes, and what is refused, as with a real libvirtd."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from pathlib import Path

import pytest

from labs import corrald, libvirtd

pytestmark = [
    pytest.mark.clients,
    pytest.mark.qemu,
    pytest.mark.beside,
    pytest.mark.skipif(libvirtd.missing() is not None, reason=str(libvirtd.missing())),
    pytest.mark.skipif(not Path("/usr/share/OVMF/OVMF_CODE_4M.fd").exists(), reason="ovmf is not installed"),
]

CODE, SECURE, VARS = (f"/usr/share/OVMF/OVMF_{part}.fd" for part in ("CODE_4M", "CODE_4M.secboot", "VARS_4M"))
ACPI = "<acpi/>"
SMM = ACPI + "<smm state='{}'/>"


def document(os: str = "", firmware: str = "", features: str = ACPI, machine: str = "q35") -> str:
    chosen = f" firmware='{firmware}'" if firmware else ""
    return (
        "<domain type='qemu'><name>fw</name><uuid>00000000-0000-4000-8000-00000000f000</uuid>"
        f"<memory unit='MiB'>64</memory><os{chosen}><type arch='x86_64' machine='{machine}'>hvm</type>{os}</os>"
        f"<features>{features}</features><devices/></domain>"
    )


def flash(path: str, more: str = "readonly='yes'", nvram: str = "") -> str:
    return f"<loader type='pflash' {more}>{path}</loader>{nvram}"


def wants(**features: str) -> str:
    names = "".join(f"<feature enabled='{on}' name='{name.replace('_', '-')}'/>" for name, on in features.items())
    return f"<firmware>{names}</firmware>"


READONLY = "readonly='yes'"
DOCUMENTS = (
    document(flash("/none.fd")),
    document(flash("/bin/true")),
    document(flash("/bin/true", f"secure='yes' {READONLY}")),
    document(flash("/bin/true"), "efi"),
    document(flash(CODE)),
    document(flash(CODE, "readonly='no'")),
    document(flash(CODE), "efi"),
    document(wants(secure_boot="yes") + flash(CODE), "efi"),
    document(flash(CODE, READONLY, "<nvram>/tmp/corral-q.fd</nvram>")),
    document(flash(CODE, READONLY, "<nvram template='/nowhere.fd'>/tmp/corral-y.fd</nvram>")),
    document(flash(CODE, f"stateless='yes' {READONLY}")),
    document(flash(CODE, f"stateless='yes' {READONLY}", "<nvram>/tmp/corral-x.fd</nvram>")),
    document(flash(SECURE)),
    document(flash(SECURE, "")),
    document(flash(SECURE, f"secure='yes' {READONLY}")),
    document(flash(SECURE, f"secure='no' {READONLY}")),
    document(flash(SECURE, f"secure='yes' {READONLY}", f"<nvram template='{VARS}'/>"), "", SMM.format("on")),
    document(flash(SECURE, f"secure='yes' {READONLY}"), "", SMM.format("off")),
    document(flash(SECURE, f"secure='yes' {READONLY}"), machine="pc"),
    document("", "efi", ""),
    document(wants(secure_boot="yes"), "efi"),
    document(wants(secure_boot="yes"), "efi", machine="pc"),
    document(wants(secure_boot="yes"), "efi", SMM.format("off")),
    document(wants(secure_boot="no"), "efi"),
    document(wants(secure_boot="no", enrolled_keys="yes"), "efi"),
    document(wants(enrolled_keys="no"), "efi"),
    document("<loader stateless='yes'/>", "efi"),
    document("<loader format='qcow2'/>", "efi"),
    document(f"<nvram template='{VARS}'/>", "efi"),
    document("<nvram template='/nowhere.fd'/>", "efi"),
    document("", "bios"),
    document(wants(secure_boot="yes"), "bios"),
    document(wants(secure_boot="yes")),
    document("<nvram>/tmp/corral-x.fd</nvram>"),
    document("<loader type='rom'>/usr/share/ovmf/OVMF.fd</loader>"),
)

SCRIPT = """
import json, libvirt, re, sys
libvirt.registerErrorHandler(lambda *_: None, None)
conn, answers = libvirt.open(sys.argv[1]), []
def tried(call, *arguments):
    try: return call(*arguments)
    except libvirt.libvirtError as error: return [error.get_error_code(), error.get_error_message()]
for xml in json.load(sys.stdin):
    made = tried(conn.defineXML, xml)
    answer = [made]
    if not isinstance(made, list):
        text = made.XMLDesc()
        answer = [text[text.index("<os"):text.index("</os>")], re.findall("<smm.*?>", text)]
        answer.append(tried(made.createWithFlags, libvirt.VIR_DOMAIN_START_PAUSED))
        if not answer[2]: made.destroy()
        made.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
    answers.append(answer)
print(json.dumps(answers))
"""


def answers(uri: str) -> list[str]:
    command = ["/usr/bin/python3", "-c", SCRIPT, uri]
    done = subprocess.run(command, input=json.dumps(DOCUMENTS), capture_output=True, text=True, timeout=120, check=True)
    lines = [json.dumps(answer) for answer in json.loads(done.stdout)]
    return [re.sub(r'[^ ">]*/nvram/fw_VARS', "DIR/fw_VARS", line) for line in lines]


def comparable(line: str) -> str:
    """Our advice follows libvirt's words after a semicolon."""
    return re.sub(r'; [^"]*"', '"', line)


def test_as_with_libvirtd() -> None:
    with tempfile.TemporaryDirectory(prefix="vf") as name, libvirtd.running(Path(name)) as peer:
        theirs = answers(peer.uri)
    with tempfile.TemporaryDirectory(prefix="vf") as name, corrald.running(Path(name)) as daemon:
        ours = answers(daemon.uri)
    for document, our, their in zip(DOCUMENTS, map(comparable, ours), theirs, strict=True):
        assert our == their, document
