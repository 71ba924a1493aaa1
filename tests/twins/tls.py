"""Certificates of the twins: an authority of their own, a right name and a wrong one."""

import ipaddress
import ssl
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_RIGHT: Final = ("localhost", "127.0.0.1")
_WRONG: Final = ("elsewhere.test",)


@dataclass(frozen=True)
class Authority:
    """A certificate authority that lives as long as the process."""

    key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )
    name: x509.Name = field(
        default_factory=lambda: x509.Name(
            [x509.NameAttribute(NameOID.COMMON_NAME, "Paceline twins' CA")]
        )
    )

    def pem(self) -> bytes:
        """Return its certificate."""
        made = self._builder(self.name, self.key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        made = made.add_extension(
            x509.KeyUsage(
                digital_signature=True, content_commitment=False, key_encipherment=False,
                data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
                encipher_only=False, decipher_only=False,
            ),
            critical=True,
        ).add_extension(self._own(), critical=False)  # fmt: skip
        return made.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def chain(self, *names: str) -> tuple[bytes, bytes]:
        """Return certificate and key of a server of these names, as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        made = self._builder(subject, key.public_key())
        made = made.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        made = made.add_extension(
            x509.SubjectAlternativeName([_general(name) for name in names]), critical=False
        ).add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self._own()),
            critical=False,
        )
        return (
            made.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )  # fmt: skip

    def _own(self) -> x509.SubjectKeyIdentifier:
        return x509.SubjectKeyIdentifier.from_public_key(self.key.public_key())

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=30))
        )


@dataclass
class ServerTls:
    """A server's side of TLS, whose name can be made wrong while it runs.

    `chain` is its certificate and key as PEM; without one it has its own authority's.
    """

    authority: Authority = field(default_factory=Authority)
    chain: tuple[bytes, bytes] | None = None
    context: ssl.SSLContext = field(default_factory=lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))

    def __post_init__(self) -> None:
        self.chain = self.chain or self.authority.chain(*_RIGHT)
        self.name_is(right=True)

    def name_is(self, *, right: bool) -> None:
        """Let connections from now on meet the right name, or another one."""
        assert self.chain is not None
        chain = self.chain if right else self.authority.chain(*_WRONG)
        with tempfile.TemporaryDirectory() as folder:
            paths = Path(folder, "chain.pem"), Path(folder, "key.pem")
            for path, pem in zip(paths, chain, strict=True):
                path.touch(mode=0o600)
                path.write_bytes(pem)
            self.context.load_cert_chain(*paths)


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
