"""The whole life of a domain through libvirt's own Python binding; run by the system's Python, prints what it saw.

Usage: /usr/bin/python3 life.py URI. One JSON object on standard output; any surprise is a traceback and status 1.
"""

import json
import sys
import threading
import time

import libvirt

NAME = "pylife"
DOCUMENT = f"""
<domain type='qemu'>
  <name>{NAME}</name>
  <memory unit='MiB'>32</memory>
  <vcpu>2</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <serial type='pty'/>
    <graphics type='vnc' port='-1' autoport='yes' listen='127.0.0.1'/>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
  </devices>
</domain>
"""
NAMESPACE = "http://example.org/ticket"

seen = {"events": [], "all_events": [], "monitor": [], "agent": None}
running = True


def loop():
    while running:
        libvirt.virEventRunDefaultImpl()


def wait_for(condition, what, timeout=60.0):
    until = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > until:
            raise SystemExit(f"{what} did not come: {seen}")
        time.sleep(0.005)


def error_of(call, *args):
    try:
        call(*args)
    except libvirt.libvirtError as error:
        return [error.get_error_code(), error.get_error_message()]
    raise SystemExit(f"{call} succeeded")


def main(uri):
    libvirt.registerErrorHandler(lambda context, error: None, None)
    libvirt.virEventRegisterDefaultImpl()
    # The default event loop sleeps until one of its timers or sockets wakes it: this timer lets it notice the end.
    libvirt.virEventAddTimeout(200, lambda timer, opaque: None, None)
    threading.Thread(target=loop, daemon=True).start()

    conn = libvirt.open(uri)
    conn.setKeepAlive(5, 3)
    seen["type"], seen["lib"], seen["version"] = conn.getType(), conn.getLibVersion(), conn.getVersion()
    seen["encrypted"], seen["secure"], seen["alive"] = conn.isEncrypted(), conn.isSecure(), conn.isAlive()
    seen["max_vcpus"], seen["info"] = conn.getMaxVcpus("qemu"), conn.getInfo()
    seen["free"] = conn.getFreeMemory()
    seen["empty"] = [
        conn.listAllNetworks(),
        conn.listAllStoragePools(),
        conn.listAllInterfaces(),
        conn.listAllDevices(),
        conn.listAllSecrets(),
        conn.listAllNWFilters(),
        conn.listDomainsID(),
        conn.listDefinedDomains(),
    ]
    conn.registerCloseCallback(lambda *args: None, None)

    dom = conn.defineXML(DOCUMENT)

    def on_any(connection, domain, event, detail, opaque):
        seen["all_events"].append([domain.name(), event, detail])

    conn.domainEventRegister(on_any, None)
    ids = [
        conn.domainEventRegisterAny(
            dom,
            libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
            lambda c, d, event, detail, opaque: seen["events"].append([event, detail]),
            None,
        ),
        conn.domainEventRegisterAny(
            None, libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE, lambda *args: seen.update(metadata_event=args[2:4]), None
        ),
    ]
    import libvirt_qemu

    monitor = libvirt_qemu.qemuMonitorEventRegister(
        conn, None, None, lambda c, d, name, s, us, details, o: seen["monitor"].append(name), None, 0
    )

    seen["off"] = [dom.isActive(), dom.isPersistent(), dom.ID(), dom.state(), dom.autostart(), dom.OSType()]
    seen["twice"] = error_of(conn.lookupByName, "nobody")
    dom.setAutostart(1)
    dom.setMetadata(libvirt.VIR_DOMAIN_METADATA_TITLE, "A title", None, None, 0)
    dom.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, "<ticket>7</ticket>", "t", NAMESPACE, 0)
    seen["metadata"] = [
        dom.metadata(libvirt.VIR_DOMAIN_METADATA_TITLE, None, 0),
        dom.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE, 0),
        dom.autostart(),
    ]
    seen["no_metadata"] = error_of(dom.metadata, libvirt.VIR_DOMAIN_METADATA_ELEMENT, "http://example.org/none", 0)
    seen["not_running"] = error_of(dom.suspend)

    dom.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
    seen["paused"] = [dom.state(), dom.ID(), dom.isActive(), dom.info()[:4]]
    dom.resume()
    seen["running"] = dom.state()
    seen["again"] = error_of(dom.create)
    seen["xml_inactive"] = "<seclabel" in dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    seen["xml_id"] = f"id='{dom.ID()}'" in dom.XMLDesc(0)
    seen["control"], seen["job"] = dom.controlInfo(), dom.jobInfo()[0]
    seen["monitor_answer"] = json.loads(libvirt_qemu.qemuMonitorCommand(dom, '{"execute":"query-status"}', 0))["return"]
    seen["hmp"] = libvirt_qemu.qemuMonitorCommand(dom, "info status", 1)
    seen["no_agent"] = error_of(dom.hostname)
    seen["agent"] = error_of(libvirt_qemu.qemuAgentCommand, dom, '{"execute":"guest-ping"}', 5, 0)
    seen["stats"] = sorted(conn.getAllDomainStats()[0][1])[:3]
    dom.sendKey(libvirt.VIR_KEYCODE_SET_LINUX, 50, [28], 1)
    dom.injectNMI()
    dom.reset()

    stream = conn.newStream(libvirt.VIR_STREAM_NONBLOCK)
    dom.openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)
    stream.send(b"\n")
    stream.finish()

    picture = conn.newStream(0)
    seen["mime"] = dom.screenshot(picture, 0)
    got = []
    picture.recvAll(lambda s, data, opaque: got.append(data), None)
    picture.finish()
    seen["picture"] = [b"".join(got)[:4].hex(), sum(map(len, got)) > 100]

    dom.suspend()
    dom.resume()
    dom.destroy()
    seen["destroyed"] = [dom.state(), dom.ID()]
    dom.rename("pylife2")
    dom = conn.lookupByName("pylife2")
    dom.undefine()
    seen["gone"] = error_of(conn.lookupByUUIDString, dom.UUIDString())

    owner = libvirt.open(uri)
    transient = owner.createXML(DOCUMENT.replace(NAME, "passing"), libvirt.VIR_DOMAIN_START_AUTODESTROY)
    seen["transient"] = [transient.isPersistent(), transient.isActive()]
    wait_for(lambda: ["passing", 2, 0] in seen["all_events"], "the start of the transient domain")
    del transient
    owner.close()
    wait_for(lambda: ["passing", 5, 1] in seen["all_events"], "the end of a domain whose owner left")
    seen["left"] = [domain.name() for domain in conn.listAllDomains()]
    libvirt_qemu.qemuMonitorEventDeregister(conn, monitor)
    for number in ids:
        conn.domainEventDeregisterAny(number)
    conn.domainEventDeregister(on_any)
    reader = libvirt.openReadOnly(uri)
    seen["readonly"] = error_of(reader.defineXML, DOCUMENT)
    reader.close()
    conn.close()
    print(json.dumps(seen, default=str))


main(sys.argv[1])
