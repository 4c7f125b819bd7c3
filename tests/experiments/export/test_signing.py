"""A signature beside a file: who signed it is told, and a file that was changed, or a stranger's key, is refused."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from experiments.export.signing import sign, signature_file, signature_of
from topformer import UserError

pytestmark = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")


def key(folder: Path, name: str) -> Path:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)]
    subprocess.run(command, check=True, capture_output=True)
    return folder / name


def signers(folder: Path, name: str, own: Path) -> Path:
    (folder / "signers").write_text(f"{name} {own.with_suffix('.pub').read_text()}")
    return folder / "signers"


def test_a_signature_tells_its_signer_and_nothing_else_is_believed(tmp_path: Path) -> None:
    archive, own, other = tmp_path / "study.zip", key(tmp_path, "own"), key(tmp_path, "other")
    archive.write_bytes(b"a study")
    assert signature_of(archive, None) is None
    with pytest.raises(UserError, match=r"study\.zip is not signed: there is no"):
        signature_of(archive, signers(tmp_path, "ann@example.org", own))
    assert sign(archive, own) == signature_file(archive)
    unnamed, named = signature_of(archive, None), signature_of(archive, tmp_path / "signers")
    assert unnamed is not None
    assert named is not None
    assert (unnamed.signer, named.signer, named.key[:15]) == (None, "ann@example.org", "ED25519 SHA256:")
    with pytest.raises(UserError, match="is none of"):
        signature_of(archive, signers(tmp_path, "eve@example.org", other))
    archive.write_bytes(b"another")
    with pytest.raises(UserError, match=r"study\.zip\.sig is no signature of .*study\.zip \("):
        signature_of(archive, None)


def test_a_key_that_cannot_sign_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "study.zip").write_bytes(b"a study")
    (tmp_path / "key").write_text("no key")
    for name, says in (("key", "key does not sign"), ("lost", "make one with: ssh-keygen")):
        with pytest.raises(UserError, match=says):
            sign(tmp_path / "study.zip", tmp_path / name)
