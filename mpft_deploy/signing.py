"""Who made this bundle: Ed25519 signatures over a manifest, and the keys for them.

A signature covers the manifest's canonical JSON before signature and seal, which holds the SHA-256
of every other file of the bundle. It is stored in the manifest, under the seal. The keys are PEM
files: the private one PKCS #8, unencrypted and readable by its owner alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpft_deploy.errors import EnvironmentLacksError, InputError, UsageError
from mpft_deploy.extras import how_to_install
from mpft_deploy.files import display, sha256
from mpft_deploy.outputs import write_output
from mpft_deploy.standing import Kind

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PublicKey,
    )

ALGORITHM = "ed25519"

CONTEXT = b"mpft-deploy manifest signature, version 1\n"
"""Stands before what is signed, so that a signature means nothing anywhere else."""

MAX_KEY_BYTES = 64 * 1024
"""No Ed25519 key file is nearly as large."""

OUTPUT = Kind("a key", lambda path: None, folder=False)

Signature = dict[str, str]
"""`algorithm`, `key` (the public key's fingerprint) and `value` (64 bytes in hexadecimal)."""


def fingerprint(key: Ed25519PublicKey) -> str:
    """How a key is called: the first 32 hexadecimal digits of its SHA-256."""
    return sha256(key.public_bytes_raw())[:32]


def generate_keys(path: Path) -> tuple[Path, str]:
    """Write a new private key to `path` (mode 0600) and its public key to `path` + `.pub`.

    Returns:
        The public key's path and fingerprint.

    Raises:
        UsageError: a file stands in the way, or the folder is missing.
        EnvironmentLacksError: the folder cannot be written.
    """
    _need_cryptography()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    public_path = path.parent / f"{path.name}.pub"
    for target in (path, public_path):
        if target.exists() or target.is_symlink():
            raise UsageError(f"{display(target)} exists already; keys are never overwritten")
    private = Ed25519PrivateKey.generate()
    public = private.public_key()
    write_output(
        public_path,
        public.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
        OUTPUT,
        replace=False,
    )
    try:
        write_output(
            path,
            private.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
            OUTPUT,
            replace=False,
            mode=0o600,
        )
    except BaseException:
        public_path.unlink()
        raise
    return public_path, fingerprint(public)


def load_signer(path: Path) -> Callable[[bytes], Signature]:
    """Read a private key; the function that signs with it."""
    _need_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = _read_key(path)
    key: Any
    try:
        key = load_pem_private_key(data, password=None)
    except TypeError:
        raise InputError(
            f"{display(path)} is encrypted; decrypt it with `openssl pkey -in KEY -out PLAIN`"
        ) from None
    except Exception:  # the library raises many kinds for a file that is no key
        raise InputError(
            f"{display(path)} is not a private key in PEM; `mpft keygen` makes one"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{display(path)} is not an Ed25519 key; `mpft keygen` makes one")
    return lambda message: {
        "algorithm": ALGORITHM,
        "key": fingerprint(key.public_key()),
        "value": key.sign(CONTEXT + message).hex(),
    }


def load_verifier(path: Path) -> Callable[[str, bytes, object], None]:
    """Read a public key; the function that checks a signature against it.

    That takes the manifest's name (for messages), the signed bytes and the stored signature, and
    raises an InputError unless the signature is there, by this key, and right.
    """
    _need_cryptography()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    data = _read_key(path)
    key: Any
    try:
        key = load_pem_public_key(data)
    except Exception:  # the library raises many kinds for a file that is no key
        raise InputError(
            f"{display(path)} is not a public key in PEM; give the .pub file of `mpft keygen`"
        ) from None
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(f"{display(path)} is not an Ed25519 public key")
    required = fingerprint(key)

    def verify(where: str, message: bytes, signature: object) -> None:
        refused = f"{where} is refused: a signature by key {required} is required"
        if signature is None:
            raise InputError(f"{refused}, and it has none. Make it again with a key.")
        if not isinstance(signature, dict) or signature.get("algorithm") != ALGORITHM:
            raise InputError(f"{refused}, and its own is not {ALGORITHM}")
        if signature.get("key") != required:
            raise InputError(f"{refused}, and it is signed by {signer_name(signature)}")
        try:
            key.verify(bytes.fromhex(str(signature.get("value"))), CONTEXT + message)
        except (InvalidSignature, ValueError):
            raise InputError(f"{refused}, and its signature does not match its content") from None

    return verify


def signer_name(signature: object) -> str:
    """The fingerprint that a stored signature claims, as text that is safe to print."""
    name = signature.get("key") if isinstance(signature, dict) else None
    fits = isinstance(name, str) and len(name) == 32 and set(name) <= set("0123456789abcdef")
    return f"key {name}" if fits else "an unknown key"


def _need_cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise EnvironmentLacksError(
            f"signatures need the package cryptography: {how_to_install('sign')}"
        ) from None


def _read_key(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_KEY_BYTES)
    except OSError as error:
        raise InputError(f"the key {display(path)} cannot be read: {error.strerror}") from None
