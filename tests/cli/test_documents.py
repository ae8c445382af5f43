"""`show`, `define` and `edit`."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from tests.cli.conftest import Corral
from tests.client.peer import Peer

from corral.model.schema import validate_schema

DOCUMENT = """\
<domain type='qemu'>
  <name>web</name>
  <memory unit='KiB'>524288</memory>
  <vcpu>2</vcpu>
  <os><type machine='q35'>hvm</type></os>
</domain>
"""


def test_show_in_three_notations(peer: Peer, corral_: Corral) -> None:
    peer.add("web")["xml"] = DOCUMENT
    assert corral_("show", "web").out == DOCUMENT
    as_json = json.loads(corral_("show", "web", "--format", "json").out)
    as_yaml = yaml.safe_load(corral_("show", "web", "--format", "yaml").out)
    assert as_json == as_yaml
    assert as_json["name"] == "web"


@pytest.mark.parametrize("notation", ["xml", "json", "yaml"])
def test_define_takes_what_show_gives(peer: Peer, corral_: Corral, tmp_path: Path, notation: str) -> None:
    peer.add("web")["xml"] = DOCUMENT
    file = tmp_path / "file"
    file.write_text(corral_("show", "web", "--format", notation).out)
    peer.domains.clear()
    result = corral_("define", str(file))
    assert (result.status, result.out) == (0, "web\n")
    assert "<name>web</name>" in peer.domains["web"]["xml"]
    assert "524288" in peer.domains["web"]["xml"]


def test_the_manuals_example_is_taken(peer: Peer, corral_: Corral, tmp_path: Path) -> None:
    """As it stands in docs/documents.md, and libvirt's schema finds no fault in it."""
    manual = (Path(__file__).parents[2] / "docs/documents.md").read_text()
    example = re.findall(r"```yaml\n(.*?)```", manual, re.DOTALL)
    (tmp_path / "web.yaml").write_text(*example)
    assert corral_("define", str(tmp_path / "web.yaml")).out == "web\n"
    xml = peer.domains["web"]["xml"]
    assert "2097152" in xml and "<boot dev='hd'/>" in xml.replace('"', "'")
    validate_schema(xml)


def test_define_from_standard_input(peer: Peer, corral_: Corral, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(DOCUMENT))
    assert corral_("define", "-").out == "web\n"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"", "is empty"), (b"\xff\xfe\x00", "not text"), (b"{", ""), (b"a: [", "neither XML nor JSON nor YAML")],
)
def test_define_what_is_no_document(
    peer: Peer, corral_: Corral, tmp_path: Path, content: bytes, complaint: str
) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    result = corral_("define", str(file))
    assert (result.status, result.out) == (1, "")
    assert complaint in result.err
    assert "Traceback" not in result.err
    assert peer.domains == {}
    assert corral_("define", str(tmp_path / "none")).err.startswith("corral: invalid argument: ")


@pytest.fixture
def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script that is the editor; tests write its body."""
    script = tmp_path / "editor"
    script.touch(0o755)
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", str(script))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return script


def drafts(directory: Path) -> list[Path]:
    return list(directory.glob("corral-web-*"))


def test_edit(peer: Peer, corral_: Corral, editor: Path, tmp_path: Path) -> None:
    peer.add("web")["xml"] = DOCUMENT.replace("</name>", "</name><uuid>x</uuid>")
    editor.write_text("#!/bin/sh\nsed -i s/524288/1048576/ $1\n")
    result = corral_("edit", "web")
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith("web is changed")
    assert "1048576" in peer.domains["web"]["xml"]
    assert drafts(tmp_path) == []


def test_edit_nothing(peer: Peer, corral_: Corral, editor: Path, tmp_path: Path) -> None:
    peer.add("web")["xml"] = DOCUMENT
    editor.write_text("#!/bin/sh\n")
    assert corral_("edit", "web").out == "web is unchanged\n"
    assert drafts(tmp_path) == []


def test_a_mistake_keeps_the_text(peer: Peer, corral_: Corral, editor: Path, tmp_path: Path) -> None:
    peer.add("web")["xml"] = DOCUMENT
    editor.write_text("#!/bin/sh\nsed -i 's/<name>web/<nme>precious/' $1\n")
    result = corral_("edit", "web")
    assert result.status == 1
    assert "missing element name" in result.err
    (draft,) = drafts(tmp_path)
    assert result.err.endswith(f"corral: your text is in {draft}\n") or f"your text is in {draft}\n" in result.err
    assert "precious" in draft.read_text()
    assert peer.domains["web"]["xml"] == DOCUMENT


def answer(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    """Somebody at a terminal who types this."""
    terminal = io.StringIO(words)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)


def test_a_text_that_was_given_up_is_not_left_about(
    peer: Peer, corral_: Corral, editor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer.add("web")["xml"] = DOCUMENT
    editor.write_text("#!/bin/sh\nsed -i 's/<name>web/<nme>web/' $1\n")
    answer(monkeypatch, "n\n")
    result = corral_("edit", "web")
    assert result.status == 1
    assert "missing element name" in result.err and "was not changed" in result.err
    assert drafts(tmp_path) == []


def test_a_mistake_can_be_mended(
    peer: Peer, corral_: Corral, editor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The editor opens again with the text as it was left."""
    peer.add("web")["xml"] = DOCUMENT.replace("</name>", "</name><uuid>x</uuid>")
    editor.write_text(
        "#!/bin/sh\nif grep -q nme $1; then sed -i 's/nme>web/name>web/; s/2</3</' $1; "
        "else sed -i 's/<name/<nme/' $1; fi\n"
    )
    answer(monkeypatch, "y\n")
    result = corral_("edit", "web")
    assert result.status == 0
    assert "Edit it again?" in result.err
    assert "<vcpu>3</vcpu>" in peer.domains["web"]["xml"]
    assert drafts(tmp_path) == []


def test_someone_elses_change_is_not_overwritten(peer: Peer, corral_: Corral, editor: Path, tmp_path: Path) -> None:
    peer.add("web")["xml"] = DOCUMENT
    reads = []

    def changing(session: object, args: object) -> dict[str, str]:
        reads.append(args)
        return {"xml": DOCUMENT if len(reads) == 1 else DOCUMENT.replace("524288", "1")}

    peer.answers["domain_get_xml_desc"] = changing
    editor.write_text("#!/bin/sh\nsed -i s/524288/1048576/ $1\n")
    result = corral_("edit", "web")
    assert result.status == 1
    assert "changed by someone else" in result.err
    assert len(drafts(tmp_path)) == 1


def test_an_editor_that_fails(
    peer: Peer, corral_: Corral, editor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer.add("web")["xml"] = DOCUMENT
    for body, complaint in (
        ("echo half >>$1; exit 1", "ended with status 1; nothing was changed"),
        ("rm $1", "the editor removed the text"),
        ("printf '\\377' >$1", "is not text"),
    ):
        editor.write_text(f"#!/bin/sh\n{body}\n")
        result = corral_("edit", "web")
        assert (result.status, complaint in result.err) == (1, True), result.err
        for left in drafts(tmp_path):
            assert body.startswith("printf")  # it may be a text in some other encoding
            left.unlink()
    editor.write_text("#!/bin/sh\nexit 1\n")
    assert "ended with status 1; nothing was changed" in corral_("edit", "web").err
    monkeypatch.setenv("EDITOR", "/nowhere/ed")
    assert "could not be run" in corral_("edit", "web").err
    assert corral_("edit", "nobody").status == 1
    assert drafts(tmp_path) == []
