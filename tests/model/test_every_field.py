"""Every field of every class of the domain document, with each value it may have, alone in a smallest document."""

from __future__ import annotations

import pytest
from lxml import etree
from tests.model import sampling

from corral.errors import ConfigUnsupported, XMLError
from corral.model import names
from corral.model.domain import Domain
from corral.model.schema import SCHEMAS, unusable
from corral.model.shape import Child, shape_of

# The class of all devices has an ACPI index; these cannot.
REFUSED_BY_CHECK = {
    f"devices.{family}.acpi.index=1" for family in ("channels", "redirdevs", "hubs", "panics", "tpms", "cryptos")
}
# libvirt writes it into live documents and its schema has forgotten it.
FORGOTTEN_BY_THE_SCHEMA = {"devices.smartcards.alias.name=x"}
# A card is made of three, a sample has one.
ONE_OF_THREE = {"devices.smartcards.certificates=x"}
# libvirt has them since 11.5, and Debian 13's schema is 11.3's.
NEWER = {"devices.disks.target.bus=nvme", "devices.controllers.type=nvme", "devices.controllers.serial=x"}
# A transient card names its partner that stays: a sample has one of the two.
HALF_A_TEAM = {
    f"devices.{family}.teaming.{field}"
    for family in ("interfaces", "hostdevs")
    for field in ("type=transient", "persistent=x")
}
# A secret is named by its UUID or by its usage: these samples name neither.
NAMELESS = {
    f"devices.disks.source.encryption.{field}" for field in ("format=luks", "engine=qemu", "secret.type=passphrase")
}


def documents() -> list[tuple[str, Domain]]:
    found = []
    for name, data in sampling.samples(Domain):
        data.setdefault("memory", "64 MiB")
        data.setdefault("vcpu", {"count": 1})
        found.append((name, Domain.from_data(data)))
    return found


def test_every_value_survives_every_notation() -> None:
    found = documents()
    assert len(found) > 1000
    for name, document in found:
        assert Domain.from_xml(document.to_xml(secure=True)) == document, name
        assert Domain.from_json(document.to_json(secure=True)) == document, name


def test_every_value_is_valid_for_libvirt() -> None:
    pytest.importorskip("lxml")
    if reason := unusable():
        pytest.skip(reason)
    schema = etree.RelaxNG(etree.parse(SCHEMAS / "domain.rng"))
    invalid = {
        name for name, document in documents() if not schema.validate(etree.fromstring(document.to_xml(secure=True)))
    }
    assert invalid - NEWER == REFUSED_BY_CHECK | FORGOTTEN_BY_THE_SCHEMA | ONE_OF_THREE | NAMELESS | HALF_A_TEAM
    for name, document in documents():
        if name in REFUSED_BY_CHECK:
            with pytest.raises(XMLError, match="acpi"):
                document.check()


def test_everything_else_libvirt_knows_is_unsupported_and_named() -> None:
    """Each child and attribute of libvirt's schema that our classes lack, put where it belongs."""
    tried = 0
    for cls, route in sampling.routes(Domain):
        shape = shape_of(cls)
        if shape.raw is not None:
            continue
        root = etree.fromstring(
            Domain.from_data(sampling.nested(route, sampling.smallest(cls), {})).to_xml(secure=True)
        )
        element = root
        for above, field in route:
            entity = shape_of(above).fields[field]
            assert isinstance(entity, Child)
            element = element.findall(entity.tag)[0]
        parent = element.getparent()
        where = ("" if parent is None else str(parent.tag), str(element.tag))
        for child in sorted(names.children(*where) - set(shape.children) - {"*"}):
            added = etree.SubElement(element, child)
            with pytest.raises(ConfigUnsupported, match="is not supported") as caught:
                Domain.from_xml(etree.tostring(root))
            assert ", line " in str(caught.value) and str(etree.QName(child).localname) in str(caught.value)
            element.remove(added)
            tried += 1
        unit = {"unit"} if shape.unit_field else set()
        for attribute in sorted(names.attributes(*where) - set(shape.attributes) - unit - {"*"}):
            element.set(attribute, "x")
            with pytest.raises(ConfigUnsupported, match=f"'{attribute}'.* is not supported"):
                Domain.from_xml(etree.tostring(root))
            del element.attrib[attribute]
            tried += 1
    assert tried > 300
