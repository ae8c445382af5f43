"""Opens displays through the daemon, both ways, with libvirt's Python binding; run by the system's Python.

Usage: /usr/bin/python3 open_graphics.py URI NAME. Prints what the VNC server at the other end says first, as JSON.
"""

import json
import socket
import sys

import libvirt

libvirt.registerErrorHandler(lambda context, error: None, None)
domain = libvirt.open(sys.argv[1]).lookupByName(sys.argv[2])
seen = {}

with socket.socket(fileno=domain.openGraphicsFD(0, libvirt.VIR_DOMAIN_OPEN_GRAPHICS_SKIPAUTH)) as given:
    given.settimeout(60)
    seen["given"] = given.recv(12).decode()
    given.sendall(b"RFB 003.008\n")
    seen["skipped"] = given.recv(2).hex()  # one security type: none

ours, theirs = socket.socketpair()
with ours, theirs:
    domain.openGraphics(0, theirs.fileno(), 0)
    ours.settimeout(60)
    seen["taken"] = ours.recv(12).decode()
    ours.sendall(b"RFB 003.008\n")
    seen["asked"] = ours.recv(2).hex()  # one security type: a password

ours, theirs = socket.socketpair()
with ours, theirs:
    try:
        domain.openGraphics(7, theirs.fileno(), 0)
    except libvirt.libvirtError as error:
        seen["refused"] = error.get_error_message()
print(json.dumps(seen))
