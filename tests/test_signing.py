"""Signed bundles: only what the holder of the key exported is ever given to a backend."""

from __future__ import annotations

import builtins
import json
import os
import shutil
import stat

import pytest

pytest.importorskip("cryptography", reason="cryptography is not installed")

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mpft_deploy import engine as engines
from mpft_deploy.bundle import MANIFEST, read_bundle
from mpft_deploy.cli.main import cli, run
from mpft_deploy.engine import selftest  # noqa: F401, see no_backend
from mpft_deploy.errors import EnvironmentLacksError, InputError, UsageError
from mpft_deploy.export import builders, candidates, complete  # noqa: F401
from mpft_deploy.export.pipeline import Request, export
from mpft_deploy.files import canonical_json, sha256
from mpft_deploy.signing import generate_keys, load_signer, load_verifier

PEM = serialization.Encoding.PEM
PKCS8 = serialization.PrivateFormat.PKCS8
PLAIN = serialization.NoEncryption()


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Two key pairs: (path, public path, fingerprint) each."""
    folder = tmp_path_factory.mktemp("keys")
    return [(folder / name, *generate_keys(folder / name)) for name in ("ours", "theirs")]


@pytest.fixture(scope="module")
def signed_once(tmp_path_factory, detector, keys):
    path = tmp_path_factory.mktemp("signed") / "bundle"
    export(Request(detector, path, sign=keys[0][0]))
    return path


@pytest.fixture
def signed(signed_once, tmp_path):
    """A copy of a signed bundle."""
    return shutil.copytree(signed_once, tmp_path / "bundle")


@pytest.fixture
def no_backend(monkeypatch):
    """Reaching for a backend fails the test."""

    def reached(name: str) -> None:
        pytest.fail(f"backend {name} was reached")

    # What is first imported meanwhile would keep this for good: it is imported above.
    monkeypatch.setattr(engines, "find_backend", reached)


def reseal(folder, payload):
    """What a forger without the key can do: make hashes and seal fit the files."""
    payload.pop("seal", None)
    payload["files"] = {
        path.name: sha256(path.read_bytes())
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST
    }
    payload["seal"] = sha256(canonical_json(payload))
    (folder / MANIFEST).write_bytes(canonical_json(payload))


def manifest(folder):
    return json.loads((folder / MANIFEST).read_bytes())


def test_signed_bundle_is_read_with_and_without_the_key(signed, keys):
    for key in (None, keys[0][1]):
        bundle = read_bundle(signed, key)
        assert bundle.signature["key"] == keys[0][2]
        assert bundle.seal == manifest(signed)["seal"]


def test_unsigned_bundle(bundle, keys):
    assert read_bundle(bundle).signature is None
    with pytest.raises(InputError, match=rf"key {keys[0][2]} is required, and it has none"):
        read_bundle(bundle, keys[0][1])


def test_other_key(signed, keys):
    (_, _, ours), (_, public, theirs) = keys
    with pytest.raises(InputError, match=rf"{theirs} is required.*signed by key {ours}"):
        read_bundle(signed, public)


def test_forged_engine_with_fitting_hashes_is_refused(signed, keys, no_backend):
    """The seal alone does not find this; the signature does."""
    payload = manifest(signed)
    engine = signed / payload["engine"]
    engine.write_bytes(engine.read_bytes()[::-1])
    reseal(signed, payload)
    read_bundle(signed)
    with pytest.raises(InputError, match="does not match its content"):
        read_bundle(signed, keys[0][1])
    assert run(cli, "mpft", ["verify", str(signed), "--require-signature", str(keys[0][1])]) == 1


def test_forged_spec_is_refused(signed, keys):
    payload = manifest(signed)
    payload["spec"]["calibration"]["threshold"] = 0.36
    reseal(signed, payload)
    assert read_bundle(signed).spec.calibration.threshold == 0.36
    with pytest.raises(InputError, match="does not match its content"):
        read_bundle(signed, keys[0][1])


def test_signature_of_another_bundle_is_refused(signed, bundle, keys, tmp_path):
    forged = shutil.copytree(bundle, tmp_path / "forged")
    payload = manifest(forged)
    payload["sources"]["detector"] = "forged"
    payload["signature"] = manifest(signed)["signature"]
    reseal(forged, payload)
    with pytest.raises(InputError, match="does not match its content"):
        read_bundle(forged, keys[0][1])


def test_signature_that_only_claims_the_key_is_refused(signed, keys):
    """Signed by another key under the required key's name."""
    payload = manifest(signed)
    del payload["signature"], payload["seal"]
    forged = load_signer(keys[1][0])(canonical_json(payload))
    payload["signature"] = {**forged, "key": keys[0][2]}
    reseal(signed, payload)
    with pytest.raises(InputError, match="does not match its content"):
        read_bundle(signed, keys[0][1])


@pytest.mark.parametrize(
    "signature",
    [
        None,
        [],
        "x",
        {},
        {"algorithm": "none"},
        {"algorithm": "ed25519", "key": 5, "value": "00"},
        {"algorithm": "ed25519", "key": "\x1b[2J" + "0" * 28, "value": "00"},
        {"algorithm": "ed25519", "key": "OURS"},
        {"algorithm": "ed25519", "key": "OURS", "value": "zz"},
        {"algorithm": "ed25519", "key": "OURS", "value": "00" * 64},
        {"algorithm": "ed25519", "key": "OURS", "value": ["00"]},
    ],
    ids=repr,
)
def test_malformed_signatures_are_refused(signed, keys, signature, capsys):
    payload = manifest(signed)
    if isinstance(signature, dict) and signature.get("key") == "OURS":
        signature = {**signature, "key": keys[0][2]}
    payload["signature"] = signature
    reseal(signed, payload)
    with pytest.raises(InputError, match="is required") as error:
        read_bundle(signed, keys[0][1])
    assert str(error.value).isprintable()
    assert run(cli, "mpft", ["inspect", str(signed)]) == 0
    assert "\x1b[2J" not in capsys.readouterr().out


@pytest.mark.parametrize("required", [True, False], ids=["key", "no key"])
def test_flipped_bytes_never_reach_a_backend(signed, keys, no_backend, required, capsys):
    """Header, middle and end of every file, and each part of the signature."""
    options = ["--require-signature", str(keys[0][1])] if required else []
    for path in sorted(signed.iterdir()):
        original = path.read_bytes()
        places = {0, 1, 8, len(original) // 2, len(original) - 2, len(original) - 1}
        for word in (b"signature", b"ed25519", keys[0][2].encode(), b'"value"', b'"seal"'):
            if path.name == MANIFEST:
                places.update((at := original.index(word), at + len(word) - 1, at + len(word) + 5))
        for place in sorted(places):
            changed = bytearray(original)
            changed[place] ^= 1
            path.write_bytes(changed)
            assert run(cli, "mpft", ["verify", str(signed), *options]) == 1, (path.name, place)
            assert "Traceback" not in capsys.readouterr().err
        path.write_bytes(original)
    assert read_bundle(signed, keys[0][1]).signature


def test_signature_is_checked_before_any_other_file_is_read(signed, keys):
    """A required signature speaks first: nothing of a stranger's bundle is even opened."""
    (signed / "engine.safetensors").unlink()
    with pytest.raises(InputError, match="is required"):
        read_bundle(signed, keys[1][1])


def test_keys_are_private_whole_and_never_overwritten(tmp_path):
    path = tmp_path / "key"
    public, name = generate_keys(path)
    assert public == tmp_path / "key.pub"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(public.stat().st_mode) == 0o644
    assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    assert public.read_bytes().startswith(b"-----BEGIN PUBLIC KEY-----")
    signature = load_signer(path)(b"message")
    assert signature["key"] == name
    load_verifier(public)("it", b"message", signature)
    before = path.read_bytes(), public.read_bytes()
    with pytest.raises(UsageError, match="never overwritten"):
        generate_keys(path)
    path.unlink()
    with pytest.raises(UsageError, match=r"key\.pub exists already"):
        generate_keys(path)
    assert public.read_bytes() == before[1]
    assert [entry.name for entry in tmp_path.iterdir()] == ["key.pub"]
    with pytest.raises(UsageError, match="make it first"):
        generate_keys(tmp_path / "absent" / "key")


def test_no_half_pair_is_left(tmp_path, monkeypatch):
    """The disk fills, or the process is stopped, between the two files."""
    link = os.link

    def fail_second(source, target):
        if not str(target).endswith(".pub"):
            raise KeyboardInterrupt
        link(source, target)

    monkeypatch.setattr(os, "link", fail_second)
    with pytest.raises(KeyboardInterrupt):
        generate_keys(tmp_path / "key")
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_keys(keys, tmp_path):
    other = ec.generate_private_key(ec.SECP256R1())
    private = Ed25519PrivateKey.generate()
    files = {
        "empty": b"",
        "text": b"hello",
        "large": bytes(2**20),
        "curve": other.private_bytes(PEM, PKCS8, PLAIN),
        "curve.pub": other.public_key().public_bytes(
            PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
        "locked": private.private_bytes(PEM, PKCS8, serialization.BestAvailableEncryption(b"x")),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        for load in (load_signer, load_verifier):
            with pytest.raises(InputError, match=name.replace(".", r"\.")):
                load(tmp_path / name)
    with pytest.raises(InputError, match="decrypt it"):
        load_signer(tmp_path / "locked")
    with pytest.raises(InputError, match="not an Ed25519"):
        load_signer(tmp_path / "curve")
    for load in (load_signer, load_verifier):
        with pytest.raises(InputError, match="cannot be read"):
            load(tmp_path / "absent")
    with pytest.raises(InputError, match=r"give the \.pub file"):
        load_verifier(keys[0][0])


def test_missing_package_is_named(signed, keys, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("cryptography"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(EnvironmentLacksError, match=r"pip install .*\[sign\]"):
        read_bundle(signed, keys[0][1])
    read_bundle(signed)  # what needs no signature needs no package
