"""What a network card's type takes of the other elements: refused with path and line where it does not."""

from __future__ import annotations

import pytest

from corral.errors import ConfigUnsupported, CorralError, XMLError
from corral.model import device_set
from corral.model.domain import Domain

TOP = """<domain type='qemu'><name>x</name><memory>65536</memory><os><type>hvm</type></os>{}<devices>
{}
</devices></domain>"""
SHARED = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
LENT = "<interface type='hostdev'><source><address type='pci' bus='1'/></source>"
FUNCTION = "<hostdev mode='subsystem' type='pci'><source><address bus='1'/></source>"
CARD = "<interface type='user'>"
VHOST = "<interface type='vhostuser'><source type='unix' path='/x' mode='client'/><model type='virtio'/></interface>"


def check(card: str, top: str = "") -> None:
    text = TOP.format(top, card)
    Domain.from_xml(text).check(text)


@pytest.mark.parametrize(
    ("card", "error", "message"),
    [
        (
            "<interface type='bridge'/>",
            XMLError,
            "interface type='bridge' requires a 'source' element (/domain/devices/interface, line 2)",
        ),
        (
            "<interface type='bridge'><source dev='x'/></interface>",
            XMLError,
            "Missing required attribute 'bridge' in element 'source'",
        ),
        (
            "<interface type='client'><source port='7'/></interface>",
            XMLError,
            "Missing required attribute 'address' in element 'source'",
        ),
        (
            "<interface type='udp'><source address='::1' port='7'/></interface>",
            XMLError,
            "'<local>' element missing for 'udp' socket interface",
        ),
        (
            "<interface type='mcast'><source address='10.0.0.1' port='7'/></interface>",
            XMLError,
            "'10.0.0.1' is not a multicast address",
        ),
        (
            "<interface type='direct'><source dev='x' mode='server'/></interface>",
            XMLError,
            "unknown mode 'server' of a direct interface",
        ),
        (
            "<interface type='hostdev'><source/></interface>",
            XMLError,
            "an interface of type 'hostdev' needs <source> with an <address type='pci' .../> of the host's",
        ),
        (f"{LENT}<model type='virtio'/></interface>", ConfigUnsupported, "<model> does not go with an interface of"),
        (f"{LENT}<link state='down'/></interface>", ConfigUnsupported, "<link> does not go with an interface of type"),
        (f"{LENT}<driver rss='on'/></interface>", ConfigUnsupported, "has <driver name='vfio'/> and no other"),
        (f"{LENT}<vlan><tag id='1'/><tag id='2'/></vlan></interface>", ConfigUnsupported, "vlan trunking is not"),
        (f"{LENT}<vlan/></interface>", XMLError, "missing tag id - each <vlan> must have at least one <tag id='n'/>"),
        (f"{LENT}<vlan><tag id='4096'/></vlan></interface>", XMLError, "vlan tag id 4096 too large (maximum 4095)"),
        (f"{LENT}</interface>" * 2, XMLError, "Hostdev already exists in the domain configuration"),
        (f"{LENT}</interface>{FUNCTION}</hostdev>", XMLError, "Hostdev already exists in the domain configuration"),
        (
            f"{LENT}<teaming type='transient'/></interface>",
            ConfigUnsupported,
            "teaming persistent attribute must be set if teaming type is 'transient'",
        ),
        (
            f"{CARD}<model type='virtio'/><teaming type='persistent' persistent='ua-x'/></interface>",
            ConfigUnsupported,
            "teaming persistent attribute not allowed if teaming type is 'persistent'",
        ),
        (
            f"{CARD}<model type='virtio'/><teaming type='transient' persistent='ua-x'/></interface>",
            ConfigUnsupported,
            "virtio-net teaming transient interface must be type='hostdev', not 'user'",
        ),
        (
            f"{CARD}<model type='e1000'/><teaming type='persistent'/></interface>",
            ConfigUnsupported,
            "virtio-net teaming persistent interface must be <model type='virtio'/>, not 'e1000'",
        ),
        (
            f"{LENT}<teaming type='persistent'/></interface>",
            ConfigUnsupported,
            "virtio-net teaming persistent interface must be <model type='virtio'/>, not '(null)'",
        ),
        (
            f"{FUNCTION}<teaming type='persistent'/></hostdev>",
            ConfigUnsupported,
            "teaming hostdev devices must have type='transient'",
        ),
        ("<interface type='user' managed='yes'/>", ConfigUnsupported, "managed does not go with an interface of"),
        ("<interface type='user'><vlan><tag id='1'/></vlan></interface>", ConfigUnsupported, "vlan tag configuration"),
        ("<interface type='user'><driver name='vfio'/></interface>", ConfigUnsupported, "vfio is not for an interface"),
        (
            "<interface type='bridge'><source bridge='b' port='1'/></interface>",
            ConfigUnsupported,
            "'port' of <source> does not go with an interface of type 'bridge'",
        ),
        (
            "<interface type='bridge'><source bridge='a234567890123456'/></interface>",
            XMLError,
            "is longer than a link's name can be",
        ),
        (
            "<interface type='network'><source network='default'/></interface>",
            ConfigUnsupported,
            "network interface type 'network' is not supported yet",
        ),
        (
            "<interface type='user'><portForward proto='tcp'/></interface>",
            ConfigUnsupported,
            "The <portForward> element can only be used with the 'passt' backend",
        ),
        (
            "<interface type='user'><port isolated='yes'/></interface>",
            ConfigUnsupported,
            "<port isolated='yes'/> is not supported for network interfaces with type='user'",
        ),
        (
            "<interface type='user'><bandwidth><inbound average='1'/></bandwidth></interface>",
            ConfigUnsupported,
            "the bandwidth of an interface of type 'user' cannot be limited",
        ),
        (
            "<interface type='user'><model type='virtio'/><driver name='vhost'/></interface>",
            ConfigUnsupported,
            "vhost is not available to an interface of type 'user'",
        ),
        (
            "<interface type='user'><tune><sndbuf>1</sndbuf></tune></interface>",
            ConfigUnsupported,
            "<sndbuf> is for taps",
        ),
        ("<interface type='user' trustGuestRxFilters='yes'/>", ConfigUnsupported, "trustGuestRxFilters does nothing"),
        (
            "<interface type='bridge'><source bridge='b'/><target dev='x' managed='no'/></interface>",
            ConfigUnsupported,
            "target managed='no' is only supported for type 'ethernet'",
        ),
        (
            "<interface type='bridge'><source bridge='b'/><backend type='passt'/></interface>",
            ConfigUnsupported,
            "The 'passt' backend can only be used with interface type='user'",
        ),
        (
            "<interface type='bridge'><source bridge='b'/><filterref filter='clean-traffic'/></interface>",
            ConfigUnsupported,
            "<filterref> is not supported (/domain/devices/interface/filterref, line 2)",
        ),
        (VHOST, ConfigUnsupported, "'interface' requires shared memory: add <memoryBacking>"),
    ],
)
def test_refused(card: str, error: type[CorralError], message: str) -> None:
    with pytest.raises(error) as caught:
        check(card)
    assert message in str(caught.value)
    assert ", line 2)" in str(caught.value)


def test_vhost_user() -> None:
    check(VHOST, SHARED)
    again = VHOST.replace("/><model", "><reconnect enabled='yes'/></source><model")
    with pytest.raises(XMLError, match="Missing required attribute 'timeout' in element 'reconnect'"):
        check(again, SHARED)
    with pytest.raises(ConfigUnsupported, match="unsupported for server mode"):
        check(again.replace("client", "server"), SHARED)
    with pytest.raises(ConfigUnsupported, match="needs the model 'virtio'"):
        check(VHOST.replace("virtio", "e1000"), SHARED)


def test_a_filter_by_itself() -> None:
    """What `update-device` is given."""
    with pytest.raises(ConfigUnsupported, match=r"<filterref> is not supported \(/interface/filterref, line 1\)"):
        device_set.read("<interface type='bridge'><source bridge='b'/><filterref filter='x'/></interface>")
