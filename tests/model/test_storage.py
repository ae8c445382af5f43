"""Documents of pools and volumes: what libvirt writes is read, what we write validates, the rest is refused."""

from __future__ import annotations

import pytest

from corral.errors import XMLError
from corral.model.schema import SCHEMAS, validate_schema
from corral.model.storage import Pool, Volume

POOL = """<pool type='dir'>
  <name>default</name>
  <uuid>6bec4118-b864-4e52-9b6d-b9f3b2152d3a</uuid>
  <capacity unit='bytes'>270553174016</capacity>
  <allocation unit='bytes'>27676979200</allocation>
  <available unit='bytes'>242876194816</available>
  <source/>
  <target>
    <path>/var/lib/libvirt/images</path>
    <permissions>
      <mode>0711</mode>
      <owner>0</owner>
      <group>0</group>
    </permissions>
  </target>
</pool>
"""
VOLUME = """<volume type='file'>
  <name>v6</name>
  <key>/p/v6</key>
  <capacity unit='bytes'>1048576</capacity>
  <allocation unit='bytes'>397312</allocation>
  <physical unit='bytes'>393224</physical>
  <target>
    <path>/p/v6</path>
    <format type='qcow2'/>
    <permissions>
      <mode>0600</mode>
      <owner>0</owner>
      <group>0</group>
    </permissions>
    <timestamps>
      <atime>1795419568.823614498</atime>
      <mtime>1795419568.817215652</mtime>
      <ctime>1795419568.821215652</ctime>
    </timestamps>
    <compat>1.1</compat>
    <clusterSize unit='B'>131072</clusterSize>
    <features>
      <lazy_refcounts/>
    </features>
  </target>
  <backingStore>
    <path>/p/base</path>
    <format type='raw'/>
  </backingStore>
</volume>
"""


def test_what_libvirt_writes_comes_back_as_it_was() -> None:
    assert Pool.from_xml(POOL).to_xml() == POOL
    assert Volume.from_xml(VOLUME).to_xml() == VOLUME
    assert Volume.from_json(Volume.from_xml(VOLUME).to_json()).to_xml() == VOLUME


@pytest.mark.skipif(not SCHEMAS.exists(), reason="libvirt's schemas are not installed (libvirt0)")
def test_what_we_write_validates() -> None:
    assert validate_schema(POOL, "storagepool")
    assert validate_schema(VOLUME, "storagevol")


@pytest.mark.parametrize(
    ("unit", "size"), [("", 3), (" unit='KB'", 3000), (" unit='k'", 3072), (" unit='G'", 3 << 30), (" unit='B'", 3)]
)
def test_units(unit: str, size: int) -> None:
    volume = Volume.from_xml(f"<volume><name>v</name><capacity{unit}>3</capacity></volume>")
    assert volume.capacity is not None
    assert volume.capacity.bytes == size


@pytest.mark.parametrize(
    "text",
    [
        "<volume><name>v</name><capacity>-1</capacity></volume>",
        "<volume><name>v</name><frob/></volume>",
        "<volume><name>v</name><target><encryption format='luks'/></target></volume>",
        "<volume><name>v</name><target><permissions><mode>0999</mode></permissions></target></volume>",
        "<volume><name>v</name><target><permissions><owner>-2</owner></permissions></target></volume>",
        "<!DOCTYPE a [<!ENTITY b 'c'>]><volume><name>v</name></volume>",
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(XMLError):
        Volume.from_xml(text)
