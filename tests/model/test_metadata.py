"""Metadata of any content, as virDomainSetMetadata and virDomainGetMetadata treat it."""

from __future__ import annotations

import pytest

from corral.errors import XMLError
from corral.model.domain import Domain
from corral.model.metadata import Metadata

DOCUMENT = """<domain type='qemu' xmlns:unused='urn:unused' xmlns:app='urn:app'>
  <name>a</name>
  <metadata>
    <app:one key="1">
      <app:two><!-- kept --></app:two>
    </app:one>
    <mixed xmlns="urn:mixed">some <b>bold</b> text
      over lines</mixed>
  </metadata>
  <memory>1</memory>
  <os><type>hvm</type></os>
</domain>
"""


def test_any_content_is_kept_and_indented() -> None:
    document = Domain.from_xml(DOCUMENT)
    assert """\
  <metadata>
    <app:one xmlns:app="urn:app" key="1">
      <app:two>
        <!-- kept -->
      </app:two>
    </app:one>
    <mixed xmlns="urn:mixed">some <b>bold</b> text
      over lines</mixed>
  </metadata>
""" in document.to_xml()
    again = Domain.from_xml(document.to_xml())
    assert again == document
    assert again.to_xml() == document.to_xml()


def test_set_get_replace_remove() -> None:
    metadata = Metadata()
    metadata.set("urn:a", "a", "<x y='1'><z/></x>")
    metadata.set("urn:b", "b", "<x>b</x>")
    assert metadata.content == '<a:x xmlns:a="urn:a" y="1"><a:z/></a:x><b:x xmlns:b="urn:b">b</b:x>'
    assert metadata.get("urn:a") == '<x y="1">\n  <z/>\n</x>'
    assert metadata.get("urn:b") == "<x>b</x>"
    assert metadata.get("urn:c") is None
    metadata.set("urn:a", "a", "<new/>")
    assert metadata.get("urn:a") == "<new/>"
    metadata.set("urn:a", None, None)
    assert metadata.content == '<b:x xmlns:b="urn:b">b</b:x>'


def test_an_element_that_already_has_the_namespace() -> None:
    metadata = Metadata()
    metadata.set("urn:a", "a", "<p:x xmlns:p='urn:a'/>")
    assert metadata.get("urn:a") == "<x/>"


@pytest.mark.parametrize("xml", ["", "text", "<a>", "<a/><b/>", "<!DOCTYPE a><a/>", "<a>&x;</a>"])
def test_metadata_that_is_not_one_element(xml: str) -> None:
    metadata = Metadata(content='<b:x xmlns:b="urn:b"/>')
    with pytest.raises(XMLError):
        metadata.set("urn:a", "a", xml)
    assert metadata.content == '<b:x xmlns:b="urn:b"/>'


@pytest.mark.parametrize("key", ["a b", "<", "1", "a:b"])
def test_a_prefix_that_is_no_name(key: str) -> None:
    with pytest.raises(XMLError):
        Metadata().set("urn:a", key, "<x/>")
