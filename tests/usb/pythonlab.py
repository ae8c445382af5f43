"""A Python interpreter in the tiny guest: this one, with the modules that a program imports and their libraries.

It comes as a second archive behind the guest's initramfs. With it the guest's USB is as real as hardware to libusb.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from corral.guests import libraries, tiny
from corral.guests.cpio import Archive

FOLDERS = tuple(Path(each) for each in ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64"))
RUN = "PYTHONHOME=/py PYTHONPATH=/py/modules /py/loader --library-path /py/lib /py/python -S"
_LISTED = """
import contextlib, json, pkgutil, sys
for name in sys.argv[1:]:
    package = __import__(name.removesuffix(".*"), fromlist=["*"])
    if name.endswith(".*"):
        for each in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            if not each.name.endswith("__main__"):
                with contextlib.suppress(ImportError, AssertionError):  # it is for another system
                    __import__(each.name)
files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
print(json.dumps([pair for pair in files.items() if pair[1]]))
"""
_ALWAYS = ("asyncio", "concurrent.futures.thread", "encodings.idna", "runpy", "zipimport", "codecs", "io")


def imported(names: tuple[str, ...]) -> dict[str, Path]:
    """The files of all modules that importing these takes, by module name; `typer.*` is all that is in typer."""
    code = [sys.executable, "-c", _LISTED, *_ALWAYS, *names]
    done = subprocess.run(code, capture_output=True, text=True, check=True)
    return {name: Path(file) for name, file in json.loads(done.stdout) if name != "__main__"}


def initrd(built: tiny.Tiny, directory: Path, program: str, imports: tuple[str, ...], more: tuple[str, ...]) -> Path:
    """The guest's initramfs with a Python that can import these, `program` at /py/program and libraries by name."""
    real = Path(sys.executable).resolve()
    wanted = [real, *(Path(folder) / name for name in more for folder in FOLDERS if (folder / name).is_file())]
    modules = imported(imports)
    wanted += [file for file in modules.values() if file.suffix == ".so"]
    needed = {name: next(folder / name for folder in FOLDERS if (folder / name).is_file()) for name in more}
    loader: str | None = None
    for each in wanted:
        interpreter, found = libraries.closure(each, FOLDERS)
        needed |= found
        loader = loader or interpreter
    assert loader is not None
    target = directory / "initrd"
    with target.open("wb") as out:
        out.write(built.initrd.read_bytes())
        out.write(bytes(-out.tell() % 512))
        archive = Archive(out)
        archive.file("py/python", real.read_bytes(), executable=True)
        archive.file("py/loader", Path(loader).resolve().read_bytes(), executable=True)
        archive.file("py/program", program.encode())
        for name, file in needed.items():
            archive.file(f"py/lib/{name}", file.read_bytes(), executable=True)
        for name, file in modules.items():
            path = name.replace(".", "/")
            place = f"{path}/__init__.py" if file.stem == "__init__" else f"{path}{''.join(file.suffixes)}"
            archive.file(f"py/modules/{place}", file.read_bytes())
            if file.stem == "__init__" and name.startswith("corral."):
                for data in sorted((file.parent / "data").glob("*.json")):
                    archive.file(f"py/modules/{path}/data/{data.name}", data.read_bytes())
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        for name in ("encodings", "encodings.aliases", "encodings.utf_8"):
            file = modules[name]
            tail = "__init__.py" if file.stem == "__init__" else f"{name.rpartition('.')[2]}.py"
            archive.file(f"py/lib/python{version}/encodings/{tail}", file.read_bytes())
        archive.finish()
    return target


def missing() -> str | None:
    """Why this machine cannot lend its Python, if it cannot."""
    if importlib.util.find_spec("usb1") is None:
        return "libusb1 is not installed"
    if not any((folder / "libusb-1.0.so.0").is_file() for folder in FOLDERS):
        return "libusb-1.0-0 is not installed"
    return None


def require() -> None:
    """Skip the test where there is no Python with libusb to lend."""
    if reason := missing():
        pytest.skip(reason)
