"""The seed that a cloud image asks for at its first boot: a CD with cloud-init's files (datasource NoCloud).

https://cloudinit.readthedocs.io/en/latest/reference/datasources/nocloud.html
"""

from __future__ import annotations

import io
import json
import re
import secrets
from pathlib import Path
from uuid import uuid4

from corral.errors import InvalidArgument

#: What user data may begin with (cloud-init's user data formats).
STARTS = (
    "#cloud-config",
    "#!",
    "#include",
    "#cloud-boothook",
    "#part-handler",
    "## template:",
    "Content-Type:",
    "MIME-",
)
LIMIT = 1 << 20


def read_user_data(path: str) -> str:
    """The user data in a file; InvalidArgument for what cloud-init would not take."""
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{path}: {getattr(error, 'strerror', None) or 'it is not text'}") from error
    if not text.startswith(STARTS):
        raise InvalidArgument(
            f"{path} is no user data for cloud-init: its first line is '{text.partition(chr(10))[0][:60]}'",
            hint="it begins with #cloud-config, or with #! when it is a script",
        )
    if len(text) > LIMIT:
        raise InvalidArgument(f"{path} is larger than {LIMIT} bytes")
    return text


def own_user_data() -> tuple[str, str | None]:
    """User data that lets us in, and the password in it: our SSH keys, or where there are none a new password."""
    keys = [
        line.strip()
        for file in sorted((Path.home() / ".ssh").glob("*.pub"))
        for line in file.read_text(errors="replace").splitlines()
        if re.match(r"(ssh|ecdsa|sk)-", line)
    ]
    password = None if keys else secrets.token_urlsafe(9)
    config: dict[str, object] = {"ssh_authorized_keys": keys}
    if password:
        config = {"password": password, "chpasswd": {"expire": False}, "ssh_pwauth": False}
    return "#cloud-config\n" + json.dumps(config, indent=1) + "\n", password  # JSON is YAML, too


def build(name: str, user_data: str) -> bytes:
    """The CD's image, for a machine of that name."""
    import pycdlib

    hostname = re.sub(r"[^A-Za-z0-9-]+", "-", name).strip("-")[:63] or "machine"
    meta = f"instance-id: {uuid4()}\nlocal-hostname: {hostname}\n"
    cd = pycdlib.PyCdlib()
    cd.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="cidata")
    for number, (file, text) in enumerate((("meta-data", meta), ("user-data", user_data))):
        data = text.encode()
        cd.add_fp(io.BytesIO(data), len(data), f"/FILE{number}.;1", rr_name=file, joliet_path=f"/{file}")
    out = io.BytesIO()
    cd.write_fp(out)
    cd.close()
    return out.getvalue()
