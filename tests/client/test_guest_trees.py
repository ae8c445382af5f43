"""Archives that a guest sends: what they may become here, and what they may not."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from corral.client.guest_trees import unpack
from corral.errors import AgentCommandFailed, HostError


def archive(*entries: tuple[str, bytes, str | bytes]) -> io.BytesIO:
    """An archive of (name, type, link's target or content)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, kind, more in entries:
            entry = tarfile.TarInfo(name)
            entry.type = kind
            entry.mode = 0o4755
            if isinstance(more, str):
                entry.linkname = more
                tar.addfile(entry)
            else:
                entry.size = len(more)
                tar.addfile(entry, io.BytesIO(more))
    file.seek(0)
    return file


def test_files_links_and_directories(tmp_path: Path) -> None:
    root = tmp_path / "root"
    left_out = unpack(
        archive(
            ("./d", tarfile.DIRTYPE, ""),
            ("./d/f", tarfile.REGTYPE, b"text"),
            ("./d/hard", tarfile.LNKTYPE, "./d/f"),
            ("./soft", tarfile.SYMTYPE, "/etc/passwd"),
            ("./null", tarfile.CHRTYPE, ""),
        ),
        root,
    )
    assert (root / "d/f").read_bytes() == (root / "d/hard").read_bytes() == b"text"
    assert (root / "d/f").stat().st_mode & 0o7777 == 0o755, "no set-user-id files from a guest"
    assert (root / "soft").readlink() == Path("/etc/passwd")
    assert left_out == ["./null"]


@pytest.mark.parametrize(
    "entries",
    [
        [("../out", tarfile.REGTYPE, b"x")],
        [("d/../../out", tarfile.REGTYPE, b"x")],
        [("{}/out", tarfile.REGTYPE, b"x")],
        [("hard", tarfile.LNKTYPE, "../secret")],
    ],
)
def test_nothing_outside_is_named(tmp_path: Path, entries: list[tuple[str, bytes, bytes]]) -> None:
    (tmp_path / "secret").write_text("mine")
    named = [(name.format(tmp_path), kind, more) for name, kind, more in entries]
    with pytest.raises(AgentCommandFailed, match="outside its directory"):
        unpack(archive(*named), tmp_path / "root")
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    sent = archive(("door", tarfile.SYMTYPE, str(tmp_path / "theirs")), ("door/file", tarfile.REGTYPE, b"x"))
    with pytest.raises(HostError):
        unpack(sent, tmp_path / "root")
    assert list((tmp_path / "theirs").iterdir()) == []
    assert not (tmp_path / "root").exists()


def test_what_is_no_archive_or_would_overwrite(tmp_path: Path) -> None:
    with pytest.raises(AgentCommandFailed, match="no tar archive"):
        unpack(io.BytesIO(b"x" * 2000), tmp_path / "root")
    (tmp_path / "root").mkdir()
    with pytest.raises(HostError, match="is there already"):
        unpack(archive(), tmp_path / "root")
    assert [path.name for path in tmp_path.iterdir()] == ["root"]
