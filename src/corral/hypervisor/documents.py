"""A domain's document in the forms in which it is asked for, made once each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from corral.constants import DomainMetadataType, ErrorDomain
from corral.errors import InvalidArgument, NoDomainMetadata

if TYPE_CHECKING:
    from corral.model.domain import Domain as DomainDocument

T = TypeVar("T")

#: Documents longer than this, in characters, are worked on in a thread: they take milliseconds.
LONG = 6_000


async def computed(xml: str, work: Callable[[], T]) -> T:
    """What `work` makes of a document, off the event loop if that is long."""
    return await asyncio.to_thread(work) if len(xml) > LONG else work()


class Definition:
    """One version of a domain's document: never changed, replaced by the next.

    `secure_xml` is the whole text, as the store keeps it; the object and the text without passwords are made when first
    asked for, because most domains of a host are never looked into.
    """

    __slots__ = ("_document", "_public_xml", "secure_xml")

    def __init__(self, secure_xml: str, document: DomainDocument | None = None) -> None:
        self.secure_xml = secure_xml
        self._document = document
        self._public_xml: str | None = None

    @classmethod
    def of(cls, document: DomainDocument) -> Definition:
        """The definition that a document makes; nobody may change the document afterwards."""
        return cls(document.to_xml(secure=True), document)

    @property
    def document(self) -> DomainDocument:
        """The document as an object: to be read, not changed."""
        if self._document is None:
            from corral.model.domain import Domain as DomainDocument

            self._document = DomainDocument.from_xml(self.secure_xml)
        return self._document

    def xml(self, *, secure: bool) -> str:
        """The text, with passwords or without."""
        if secure or "passw" not in self.secure_xml:
            return self.secure_xml
        if self._public_xml is None:
            self._public_xml = self.document.to_xml(secure=False)
        return self._public_xml

    def edited(self, edit: Callable[[DomainDocument], None]) -> Definition:
        """The next version: a copy after `edit`."""
        document = self.document.copy()
        edit(document)
        return Definition.of(document)

    def metadata(self, type: int, uri: str | None) -> str:
        """Title, description, or the metadata element of the namespace `uri`; NoDomainMetadata when there is none."""
        found: str | None
        if type == DomainMetadataType.DESCRIPTION:
            found = self.document.description
        elif type == DomainMetadataType.TITLE:
            found = self.document.title
        else:
            found = self.document.metadata.get(uri or "") if self.document.metadata else None
        if not found:
            raise NoDomainMetadata("Requested metadata element is not present", domain=ErrorDomain.DOMAIN)
        return found

    def with_metadata(self, type: int, text: str | None, key: str | None, uri: str | None) -> Definition:
        """The version with title, description or metadata element set, or without it when `text` is None."""
        from corral.model.metadata import Metadata

        def edit(document: DomainDocument) -> None:
            if type == DomainMetadataType.DESCRIPTION:
                document.description = text or None
            elif type == DomainMetadataType.TITLE:
                document.title = text or None
            else:
                metadata = document.metadata or Metadata()
                metadata.set(uri or "", key, text)
                document.metadata = metadata if metadata.content.strip() else None

        return self.edited(edit)


def check_metadata(type: int, text: str | None, key: str | None, uri: str | None) -> None:
    """Refuse metadata that no document can hold (virDomainSetMetadata)."""
    if type == DomainMetadataType.TITLE and text and "\n" in text:
        raise InvalidArgument("metadata title can't contain newlines")
    if type == DomainMetadataType.ELEMENT:
        if not uri:
            raise InvalidArgument("uri in virDomainSetMetadata must not be NULL")
        if text is not None and not key:
            raise InvalidArgument("key in virDomainSetMetadata must not be NULL")
    elif type not in (DomainMetadataType.TITLE, DomainMetadataType.DESCRIPTION):
        raise InvalidArgument(f"unknown metadata type {type}")
