"""`<metadata>`: anything, one element for each namespace, kept as it was written."""

from __future__ import annotations

from typing import Annotated

from corral.model.element import Element, RawXML


class Metadata(Element, tag="metadata"):
    """`content` is the inner XML; each child declares its own namespace."""

    content: Annotated[str, RawXML()] = ""

    def get(self, uri: str) -> str | None:
        """The element of namespace `uri`, as text without its indentation, or None."""
        from corral.model import inner

        return inner.get(self.content, uri)

    def set(self, uri: str, key: str | None, xml: str | None) -> None:
        """Replace the element of namespace `uri` by `xml`, whose names get prefix `key`; None removes it.

        XMLError when `xml` is not one well-formed element.
        """
        from corral.model import inner

        self.content = inner.replaced(self.content, uri, key, xml)
