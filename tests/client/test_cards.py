"""Documents of network cards from a few choices."""

from __future__ import annotations

from typing import Any

import pytest

from corral.client.cards import card
from corral.errors import InvalidArgument
from corral.model import interface_rules
from corral.model.domain import Domain

EMPTY = Domain.from_xml("<domain type='qemu'><name>x</name><memory>65536</memory><os><type>hvm</type></os></domain>")


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({}, ["<interface type='user'>", "<model type='virtio'/>", "<mac address='52:54:00:"]),
        ({"bridge": "br0", "mtu": 1400, "queues": 4}, ["type='bridge'", "bridge='br0'", "size='1400'", "queues='4'"]),
        ({"macvtap": "eth0"}, ["type='direct'", "<source dev='eth0' mode='bridge'/>"]),
        ({"tap": "mine", "model": "e1000e"}, ["type='ethernet'", "<target dev='mine' managed='no'/>", "e1000e"]),
        ({"passt": True}, ["type='user'", "<backend type='passt'/>"]),
        (
            {"publish": ["8080:80", "127.0.0.1:53/udp", "[::1]:22"]},
            [
                "<portForward proto='tcp'>",
                "<range start='8080' to='80'/>",
                "<portForward proto='udp' address='127.0.0.1'>",
                "<portForward proto='tcp' address='::1'>",
                "<backend type='passt'/>",
            ],
        ),
        ({"listen": ":5000"}, ["type='server'", "<source address='127.0.0.1' port='5000'/>"]),
        ({"connect": "[::1]:5000"}, ["type='client'", "<source address='::1' port='5000'/>"]),
        ({"multicast": "230.0.0.1:5000"}, ["type='mcast'", "<source address='230.0.0.1' port='5000'/>"]),
    ],
)
def test_choices(choices: dict[str, Any], said: list[str]) -> None:
    made = card(**choices)
    assert [part for part in said if part not in made.to_xml()] == []
    assert list(interface_rules.objections(made, EMPTY)) == []


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"bridge": "br0", "macvtap": "eth0"}, "bridge and macvtap do not go together"),
        ({"bridge": "br0", "publish": ["80"]}, "bridge and passt do not go together"),
        ({"macvtap": "eth0", "mode": "odd"}, "mode 'odd'"),
        ({"mac": "52:54:00:zz"}, "'52:54:00:zz' is no MAC address"),
        ({"listen": "5000"}, "'5000' is no HOST:PORT"),
        ({"listen": "host:70000"}, "'host:70000' is no HOST:PORT"),
        ({"publish": ["http"]}, "'http' is no port to publish"),
        ({"publish": ["999.1.1.1:80"]}, "'999.1.1.1:80' is no port to publish"),
    ],
)
def test_what_makes_no_sense(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message.replace("(", r"\(")):
        card(**choices)
