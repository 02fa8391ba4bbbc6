"""Translate libcurl's errors into httpx's, with a word for the log that says what failed.

The word names the phase and the cause. It never contains an address, a key or a vendor's text.
https://curl.se/libcurl/c/libcurl-errors.html lists libcurl's codes.
"""

import errno

import httpx
import pycurl

from providers.deadline import Deadline

Kind = type[httpx.TransportError] | type[httpx.DecodingError]

# Codes that pycurl has no name for: CURLE_HTTP2_STREAM and CURLE_TOO_LARGE.
_HTTP2_STREAM, _TOO_LARGE = 92, 100

_ERRORS: dict[int, tuple[Kind, str]] = {
    pycurl.E_COULDNT_RESOLVE_HOST: (httpx.ConnectError, "name_not_found"),
    pycurl.E_COULDNT_RESOLVE_PROXY: (httpx.ProxyError, "proxy_name_not_found"),
    pycurl.E_OPERATION_TIMEDOUT: (httpx.ConnectTimeout, "timed_out_connecting"),
    pycurl.E_SSL_CONNECT_ERROR: (httpx.ConnectError, "tls_handshake_failed"),
    pycurl.E_SSL_CACERT_BADFILE: (httpx.ConnectError, "ca_file_unreadable"),
    pycurl.E_FTP_WEIRD_SERVER_REPLY: (httpx.RemoteProtocolError, "malformed_answer"),
    pycurl.E_UNSUPPORTED_PROTOCOL: (httpx.RemoteProtocolError, "malformed_answer"),
    pycurl.E_HTTP2: (httpx.RemoteProtocolError, "http2_error"),
    _HTTP2_STREAM: (httpx.RemoteProtocolError, "http2_error"),
    pycurl.E_BAD_CONTENT_ENCODING: (httpx.DecodingError, "bad_encoding"),
    pycurl.E_FILESIZE_EXCEEDED: (httpx.RemoteProtocolError, "answer_too_large"),
    _TOO_LARGE: (httpx.RemoteProtocolError, "head_too_large"),
}
# The connection was closed.
_CLOSED = {pycurl.E_GOT_NOTHING, pycurl.E_PARTIAL_FILE, pycurl.E_RECV_ERROR, pycurl.E_SEND_ERROR}
_REFUSALS = {
    errno.ECONNREFUSED: "connection_refused",
    errno.ENETUNREACH: "network_unreachable",
    errno.EHOSTUNREACH: "host_unreachable",
    errno.ETIMEDOUT: "timed_out_connecting",
}
# X509_V_ERR_… of OpenSSL's x509_vfy.h
_CERTIFICATES = {
    **dict.fromkeys((2, 18, 19, 20, 21), "certificate_unknown_ca"),
    9: "certificate_not_yet_valid",
    10: "certificate_expired",
    23: "certificate_revoked",
    **dict.fromkeys((0, 1, 62, 64), "certificate_wrong_host"),
}


def timed_out(curl: pycurl.Curl, deadline: Deadline, *, in_body: bool) -> httpx.TimeoutException:
    """Say in which phase a deadline was reached."""
    prefix = "cancelled" if deadline.cancelled else "timed_out"
    if not curl.getinfo(pycurl.PRETRANSFER_TIME):
        return httpx.ConnectTimeout(f"{prefix}_connecting")
    return httpx.ReadTimeout(f"{prefix}_{'reading' if in_body else 'waiting'}")


def translated(curl: pycurl.Curl, code: int) -> httpx.TransportError | httpx.DecodingError:
    """Return the error that httpx has for a code of libcurl's."""
    kind, reason = _classified(curl, code)
    error = kind(reason)
    error.__cause__ = pycurl.error(code, curl.errstr())
    return error


def _classified(curl: pycurl.Curl, code: int) -> tuple[Kind, str]:
    proxied = bool(curl.getinfo(pycurl.USED_PROXY))
    refused = curl.getinfo(pycurl.HTTP_CONNECTCODE)
    if refused >= 300:
        return httpx.ProxyError, f"proxy_refused_{refused}"
    if code == pycurl.E_COULDNT_CONNECT:
        reason = _REFUSALS.get(curl.getinfo(pycurl.OS_ERRNO), "not_connected")
        return (httpx.ProxyError, f"proxy_{reason}") if proxied else (httpx.ConnectError, reason)
    if code == pycurl.E_PEER_FAILED_VERIFICATION:
        verdict = curl.getinfo(pycurl.SSL_VERIFYRESULT)
        return httpx.ConnectError, _CERTIFICATES.get(verdict, "certificate_invalid")
    if code in _CLOSED:
        tunnelling = proxied and refused == 0 and curl.getinfo(pycurl.SCHEME).lower() == "https"
        if tunnelling and not curl.getinfo(pycurl.APPCONNECT_TIME):
            return httpx.ProxyError, "proxy_connection_closed"
        if curl.getinfo(pycurl.HEADER_SIZE):
            return httpx.RemoteProtocolError, "connection_closed"
        kind = httpx.WriteError if code == pycurl.E_SEND_ERROR else httpx.ReadError
        return kind, "connection_closed"
    return _ERRORS.get(code, (httpx.NetworkError, f"curl_error_{code}"))
