"""A certificate authority for tests, and contexts of servers that it vouches for."""

import ssl
import subprocess
from pathlib import Path


class Authority:
    """A private CA. `file` is its certificate."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.file = str(directory / "ca.pem")
        self._openssl(
            "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 9 -subj /CN=Tests"
            " -addext keyUsage=critical,keyCertSign,cRLSign"
        )

    def server(self, name: str = "IP:127.0.0.1", *, days: int = 9) -> ssl.SSLContext:
        """Return the context of a server with this name, which is valid for so many days."""
        (self._directory / "extensions").write_text(f"subjectAltName={name}\n")
        self._openssl("req -newkey rsa:2048 -nodes -keyout s.key -out s.csr -subj /CN=server")
        self._openssl(
            "x509 -req -in s.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out s.pem"
            f" -days {days} -extfile extensions"
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._directory / "s.pem", self._directory / "s.key")
        return context

    def _openssl(self, arguments: str) -> None:
        command = ["openssl", *arguments.split()]
        subprocess.run(command, cwd=self._directory, check=True, capture_output=True)
