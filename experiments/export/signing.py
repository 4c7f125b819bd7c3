"""Who answers for a file? Signatures beside it by OpenSSH's `ssh-keygen`, which whoever has its archive can check.

Checksums show that a file is whole; only a key that its maker alone has shows that nobody made them again.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

from topformer.errors import UserError
from topformer.writing import write_whole

_NAMESPACE = "file"
"""What signatures of files are for, in OpenSSH's words; also those made without this tool."""
_SUFFIX = ".sig"
_KEY = re.compile(r"with (?P<kind>\S+) key (?P<key>SHA256:\S+)")
_MOST_S = 600
"""For a person who types the password of a key."""


class Signature(NamedTuple):
    """A signature that fits its file."""

    key: str
    """Kind and fingerprint of the key."""
    signer: str | None
    """By the list of signers that was given; None without one."""

    @property
    def shown(self) -> str:
        return f"{self.signer} ({self.key})" if self.signer else f"{self.key}; whose it is, --signers FILE would tell"


def signature_file(path: Path) -> Path:
    return path.with_name(path.name + _SUFFIX)


def sign(path: Path, key: Path) -> Path:
    """Write the signature of a file beside it; raises `UserError` where the key cannot sign."""
    if not key.is_file():
        raise UserError(f"no key {str(key)!r}; make one with: ssh-keygen -t ed25519 -f KEY")
    written = _run(path, "sign", "-f", str(key), refused=f"{key} does not sign")
    target = signature_file(path)
    write_whole(target, written.encode())
    return target


def signature_of(path: Path, signers: Path | None) -> Signature | None:
    """The signature beside a file, if there is one, and whose it is by a list of signers (ssh-keygen, ALLOWED SIGNERS).

    Raises `UserError` where the signature is not of this file, where none is there though signers are given, and where
    its key is none of theirs.
    """
    target = signature_file(path)
    if not target.is_file():
        if signers is not None:
            raise UserError(f"{path} is not signed: there is no {target}.")
        return None
    refused = f"{target} is no signature of {path}"
    said = _run(path, "check-novalidate", "-s", str(target), refused=refused)
    match = _KEY.search(said)
    key = f"{match['kind']} {match['key']}" if match else "an unknown key"
    if signers is None:
        return Signature(key, None)
    if not signers.is_file():
        raise UserError(f"no file of signers {str(signers)!r}; a line of it is a name and a public key.")
    unknown = f"the key of {target}, {key}, is none of {signers}"
    names = _run(path, "find-principals", "-s", str(target), "-f", str(signers), refused=unknown, namespace=False)
    name = names.split("\n")[0].strip()
    _run(path, "verify", "-s", str(target), "-f", str(signers), "-I", name, refused=unknown)
    return Signature(key, name)


def _run(path: Path, what: str, *words: str, refused: str, namespace: bool = True) -> str:
    """What `ssh-keygen -Y` says of the file's content; raises `UserError` where it refuses, or is not there."""
    command = ["ssh-keygen", "-Y", what, *(("-n", _NAMESPACE) if namespace else ()), *words]
    try:
        with path.open("rb") as content:
            done = subprocess.run(command, stdin=content, capture_output=True, text=True, timeout=_MOST_S, check=False)
    except FileNotFoundError as error:
        lacks = f"{path} is not there" if error.filename == str(path) else "ssh-keygen of OpenSSH 8.2 is not installed"
        raise UserError(f"{refused}: {lacks}.") from None
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError) as error:
        raise UserError(f"{refused} ({type(error).__name__}).") from None
    if done.returncode:
        reasons = (done.stderr or done.stdout).split("\n")
        raise UserError(f"{refused} ({next((line.strip() for line in reasons if line.strip()), 'no reason')}).")
    return done.stdout
