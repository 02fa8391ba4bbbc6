"""Translate libcurl's errors into httpx's, each with a word for the log.

The word names the phase and the cause. It never contains an address, a key or a vendor's text.
https://curl.se/libcurl/c/libcurl-errors.html lists libcurl's codes.
"""

import errno

import httpx
import pycurl

from providers.deadline import Deadline

CONNECTION_CLOSED = "connection_closed"
HEAD_TOO_LARGE = "head_too_large"
MALFORMED_ANSWER = "malformed_answer"
MALFORMED_HEADER = "malformed_header"  # of a request
NO_DESCRIPTORS = "no_descriptors"
UNSUPPORTED_PROTOCOL = "unsupported_protocol"

Kind = type[httpx.TransportError] | type[httpx.DecodingError]

# Codes that pycurl has no name for: CURLE_HTTP2_STREAM and CURLE_TOO_LARGE.
_HTTP2_STREAM, _TOO_LARGE = 92, 100

_ERRORS: dict[int, tuple[Kind, str]] = {
    pycurl.E_COULDNT_RESOLVE_HOST: (httpx.ConnectError, "name_not_found"),
    pycurl.E_COULDNT_RESOLVE_PROXY: (httpx.ProxyError, "proxy_name_not_found"),
    pycurl.E_OPERATION_TIMEDOUT: (httpx.ConnectTimeout, "timed_out_connecting"),
    pycurl.E_SSL_CONNECT_ERROR: (httpx.ConnectError, "tls_handshake_failed"),
    pycurl.E_SSL_CACERT_BADFILE: (httpx.ConnectError, "ca_file_unreadable"),
    pycurl.E_FTP_WEIRD_SERVER_REPLY: (httpx.RemoteProtocolError, MALFORMED_ANSWER),
    pycurl.E_UNSUPPORTED_PROTOCOL: (httpx.RemoteProtocolError, MALFORMED_ANSWER),
    pycurl.E_HTTP2: (httpx.RemoteProtocolError, "http2_error"),
    _HTTP2_STREAM: (httpx.RemoteProtocolError, "http2_error"),
    pycurl.E_BAD_CONTENT_ENCODING: (httpx.DecodingError, "bad_encoding"),
    pycurl.E_FILESIZE_EXCEEDED: (httpx.RemoteProtocolError, "answer_too_large"),
    _TOO_LARGE: (httpx.RemoteProtocolError, HEAD_TOO_LARGE),
}
# The connection was closed.
_CLOSED = {pycurl.E_GOT_NOTHING, pycurl.E_PARTIAL_FILE, pycurl.E_RECV_ERROR, pycurl.E_SEND_ERROR}
REFUSALS = {
    errno.ECONNREFUSED: "connection_refused",
    errno.ENETUNREACH: "network_unreachable",
    errno.EHOSTUNREACH: "host_unreachable",
    errno.ETIMEDOUT: "timed_out_connecting",
}
# X509_V_ERR_… of OpenSSL's x509_vfy.h
CERTIFICATES = {
    **dict.fromkeys((2, 18, 19, 20, 21), "certificate_unknown_ca"),
    9: "certificate_not_yet_valid",
    10: "certificate_expired",
    23: "certificate_revoked",
    **dict.fromkeys((0, 1, 62, 64), "certificate_wrong_host"),
}


def timed_out(curl: pycurl.Curl, deadline: Deadline, *, in_body: bool) -> httpx.TimeoutException:
    """Say in which phase a deadline was reached."""
    cancelled = deadline.cancelled
    if not curl.getinfo(pycurl.PRETRANSFER_TIME):
        return httpx.ConnectTimeout("cancelled_connecting" if cancelled else "timed_out_connecting")
    if in_body:
        return httpx.ReadTimeout("cancelled_reading" if cancelled else "timed_out_reading")
    return httpx.ReadTimeout("cancelled_waiting" if cancelled else "timed_out_waiting")


def unexpected(exc: OSError | pycurl.error) -> httpx.NetworkError:
    """Return the error for a failure of this machine, or of a call of libcurl's."""
    # Without a code, libcurl could not make a handle: its own descriptors were refused.
    if isinstance(exc, OSError) or isinstance(exc.args[0], str):
        return httpx.ConnectError(NO_DESCRIPTORS)
    return httpx.NetworkError("curl_failed")


def translated(
    curl: pycurl.Curl, code: int, *, answered: bool
) -> httpx.TransportError | httpx.DecodingError:
    """Return the error that httpx has for a code of libcurl's.

    `answered` is whether a line of the vendor's head has arrived; a proxy's answer does not count.
    """
    kind, reason = _classified(curl, code, answered)
    error = kind(reason)
    error.__cause__ = pycurl.error(code, curl.errstr())
    return error


def _classified(curl: pycurl.Curl, code: int, answered: bool) -> tuple[Kind, str]:
    proxied = bool(curl.getinfo(pycurl.USED_PROXY))
    refused = curl.getinfo(pycurl.HTTP_CONNECTCODE)
    if refused >= 300:
        return httpx.ProxyError, f"proxy_refused_{refused}"
    if code == pycurl.E_COULDNT_CONNECT:
        reason = REFUSALS.get(curl.getinfo(pycurl.OS_ERRNO), "not_connected")
        return (httpx.ProxyError, f"proxy_{reason}") if proxied else (httpx.ConnectError, reason)
    if code == pycurl.E_PEER_FAILED_VERIFICATION:
        if of_proxy := curl.getinfo(pycurl.PROXY_SSL_VERIFYRESULT):
            return httpx.ProxyError, f"proxy_{CERTIFICATES.get(of_proxy, 'certificate_invalid')}"
        verdict = curl.getinfo(pycurl.SSL_VERIFYRESULT)
        return httpx.ConnectError, CERTIFICATES.get(verdict, "certificate_invalid")
    if code in _CLOSED:
        if answered:
            return httpx.RemoteProtocolError, CONNECTION_CLOSED
        if proxied and _tunnelling(curl):
            return httpx.ProxyError, "proxy_connection_closed"
        kind = httpx.WriteError if code == pycurl.E_SEND_ERROR else httpx.ReadError
        return kind, CONNECTION_CLOSED
    return _ERRORS.get(code, (httpx.NetworkError, f"curl_error_{code}"))


def _tunnelling(curl: pycurl.Curl) -> bool:
    """Return whether a new connection still waits for its tunnel through the proxy."""
    return (
        curl.getinfo(pycurl.SCHEME).lower() == "https"
        and curl.getinfo(pycurl.NUM_CONNECTS) > 0
        and not curl.getinfo(pycurl.HTTP_CONNECTCODE)
        and not curl.getinfo(pycurl.APPCONNECT_TIME)  # a SOCKS proxy has no status
    )
