"""What a guest plays is heard on the host: a tone into a sound card, and out of it into a WAV file."""

from __future__ import annotations

import array
import base64
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.waiting import until

from corral.errors import HostError
from corral.guests import tiny

from .inside import booted, settled, sh
from .life import document, opened

pytestmark = [pytest.mark.guest, pytest.mark.timeout(300)]

#: What /dev/dsp plays unless told: unsigned bytes, 8000 a second.
RATE, TONE = 8000, 500
SECOND = (b"\xe0" * (RATE // TONE // 2) + b"\x20" * (RATE // TONE // 2)) * TONE
#: A program that turns the mixer at its standard input up: ioctl(0, SOUND_MIXER_WRITE_VOLUME, {100, 100}), then
#: exit(result). A sound card is mute until somebody does, and the guest has no program for it.
LOUDER = bytes.fromhex("6a1058 31ff be004d04c0 6864640000 4889e2 0f05 89c7 6a3c58 0f05")
HEAD = bytes.fromhex("7f454c46020101") + bytes(9)
WHERE = 0x400000


def program(code: bytes) -> bytes:
    """A static ELF of one segment (elf(5)), for x86-64."""

    def words(size: int, *values: int) -> bytes:
        return b"".join(value.to_bytes(size, "little") for value in values)

    start, size = WHERE + 120, 120 + len(code)
    header = HEAD + words(2, 2, 62) + words(4, 1) + words(8, start, 64, 0) + words(4, 0) + words(2, 64, 56, 1, 0, 0, 0)
    return header + words(4, 1, 5) + words(8, 0, WHERE, WHERE, size, size, 4096) + code


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory whose way is open to QEMU's account."""
    with tempfile.TemporaryDirectory(prefix="cs") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def heard(path: Path) -> list[int]:
    """The left channel's samples of 16 bits behind the WAV file's header, without silence."""
    data = path.read_bytes()[44:]
    return [each for each in array.array("h", data[: len(data) // 4 * 4])[::2] if abs(each) > 1000]


def crossings(samples: list[int]) -> int:
    """How often the sound goes up through the middle."""
    return sum(before < 0 <= after for before, after in itertools.pairwise(samples))


async def test_a_tone(directory: Path, shared: Path) -> None:
    """Two cards of one guest, each with a file of its own."""
    devices, files = "", {model: shared / f"{model}.wav" for model in ("ich9", "ac97")}
    for number, (model, path) in enumerate(files.items(), 1):
        devices += f"""<sound model='{model}'><audio id='{number}'/></sound>
          <audio id='{number}' type='file' path='{path}'><output fixedSettings='yes'>
            <settings frequency='{RATE}' channels='2' format='s16'/></output></audio>"""
    guest = await tiny.build()
    text = tiny.document("player", tiny=guest).to_xml().replace("<devices>", f"<devices>{devices}")
    async with opened(directory) as (hypervisor, _):
        domain = await hypervisor.define(text)
        await domain.create()
        await booted(domain)
        ask = "modprobe snd_pcm_oss && ls /dev/dsp*"
        await settled(lambda: sh(domain, ask), lambda said: said == "/dev/dsp\n/dev/dsp1")
        louder, second = (base64.b64encode(data).decode() for data in (program(LOUDER), SECOND))
        await sh(domain, f"echo {louder} | base64 -d >/tmp/louder; chmod +x /tmp/louder")
        for card in ("", "1"):
            assert await sh(domain, f"/tmp/louder </dev/mixer{card}; echo $?") == "0"
            await sh(domain, f"echo {second} | base64 -d >/dev/dsp{card}")
        await until(lambda: all(len(heard(path)) > RATE // 3 for path in files.values()), seconds=60)
        await domain.destroy()
    for path in files.values():
        samples = heard(path)
        assert len(samples) > RATE // 3, "a good part of a second: a busy machine drops some"
        assert crossings(samples) / len(samples) == pytest.approx(TONE / RATE, rel=0.05)


async def test_a_file_that_cannot_be_played_to(directory: Path) -> None:
    """Nothing of the machine is left, and the message says which file."""
    xml = document("mute", devices=f"<sound model='ac97'/><audio id='1' type='file' path='{directory}/no/x.wav'/>")
    async with opened(directory) as (hypervisor, _):
        domain = await hypervisor.define(xml)
        with pytest.raises(HostError, match=r"cannot make '.*/no/x.wav' for audio: No such file"):
            await domain.create()
        assert not domain.active
