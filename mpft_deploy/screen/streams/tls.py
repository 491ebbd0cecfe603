"""Certificates of cameras: whom they are to be signed by, and what is wrong with one, in words."""

from __future__ import annotations

import socket
import ssl

from mpft_deploy.errors import UsageError
from mpft_deploy.files import display
from mpft_deploy.screen.streams.settings import SourceSettings

_SIGNER, _NAME = (18, 19, 20, 21), (62, 64)
"""What OpenSSL calls a signer that is not trusted, and the certificate of another host."""


def trusting(ca_file: str, place: str = "ca_file") -> ssl.SSLContext:
    """What takes the certificates that a file vouches for, or any without one, as FFmpeg does.

    Args:
        place: where the file is named.

    Raises:
        UsageError: the file cannot be read, or holds no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not ca_file:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # a camera's own will do, as for FFmpeg
    try:
        context.load_verify_locations(ca_file)
    except (OSError, ValueError):
        raise UsageError(f"{place}: {display(ca_file)} is no readable PEM certificate") from None
    return context


def find_distrust(settings: SourceSettings) -> str:
    """Why the certificate of whoever is at an address does not hold; "" if it does, or none is."""
    host, context = settings.target.host, trusting(settings.ca_file)
    try:
        where = (host, settings.target.port)
        with socket.create_connection(where, settings.connect / 5) as plain:
            context.wrap_socket(plain, server_hostname=host).close()
    except ssl.SSLCertVerificationError as error:
        return distrust(error, host)
    except OSError:
        pass
    return ""


def distrust(error: ssl.SSLCertVerificationError, host: str) -> str:
    if error.verify_code in _SIGNER:
        return (
            "its certificate is not signed by ca_file: another answers in its place, or that is "
            "not the file of who signed it"
        )
    if error.verify_code in _NAME:
        return f"its certificate is not for {host}: name the host as the certificate does"
    return f"its certificate does not hold: {error.verify_message}"
