import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from botocore.loaders import create_loader
from hypothesis import given
from hypothesis import strategies as st

from providers import sigv4
from providers.deadline import Deadline
from providers.sigv4 import JsonService, Keys, Signer
from providers.transport import CurlTransport
from tests.stub_vendor import StubVendor

KEYS = Keys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "")

segments = st.text(min_size=1, max_size=8).map(lambda text: quote(text, safe=":@!$&'()*+,;="))
paths = st.builds(
    lambda parts, separator, end: "/" + separator.join(parts) + end,
    st.lists(segments, max_size=4),
    st.sampled_from(["/", "//"]),
    st.sampled_from(["", "/"]),
)
values = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=12)
header_values = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
names = st.from_regex(r"x-[a-z0-9-]{1,9}", fullmatch=True)


def expected(
    method: str, url: str, headers: dict[str, str], content: bytes, **of: Any
) -> dict[str, str]:
    """The headers that botocore makes of a request."""
    request = AWSRequest(method=method, url=url, headers=headers, data=content)
    request.context["payload_signing_enabled"] = True
    SigV4Auth(ReadOnlyCredentials(*of["keys"]), of["service"], of["region"]).add_auth(request)
    return {name.lower(): value for name, value in request.headers.items()}


@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE"]),
    host=st.sampled_from(["x.amazonaws.com", "localhost:8000", "[::1]:8000", "127.0.0.1"]),
    scheme=st.sampled_from(["http", "https"]),
    path=paths,
    query=st.lists(st.tuples(values, values), max_size=4),
    headers=st.dictionaries(names, header_values, max_size=4),
    content=st.binary(max_size=99),
    token=st.sampled_from(["", "token/+="]),
    service=st.sampled_from(["dynamodb", "bedrock", "ssm", "secretsmanager"]),
    region=st.sampled_from(["us-east-1", "cn-north-1"]),
)
def test_a_request_is_signed_as_botocore_signs_it(
    method: str,
    host: str,
    scheme: str,
    path: str,
    query: list[tuple[str, str]],
    headers: dict[str, str],
    content: bytes,
    token: str,
    service: str,
    region: str,
):
    url = httpx.URL(f"{scheme}://{host}{path}", params=query or None)
    keys = KEYS._replace(token=token)
    theirs = expected(method, str(url), headers, content, keys=keys, service=service, region=region)
    now = datetime.strptime(theirs["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    signer = Signer(service, region=region, credentials=lambda: keys)
    ours = signer.sign(method, url, headers, content, now=now)
    assert ours.pop("host") == url.netloc.decode()
    assert ours == theirs


def test_the_path_of_a_model_is_encoded_twice():
    """Bedrock's model ids have colons, and inference profiles slashes."""
    url = "https://bedrock-runtime.us-east-1.amazonaws.com/model/arn%3Aaws%3Ax%2Fy:0/converse"
    of = {"keys": KEYS, "service": "bedrock", "region": "us-east-1"}
    theirs = expected("POST", url, {}, b"{}", **of)
    now = datetime.strptime(theirs["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    signer = Signer("bedrock", region="us-east-1", credentials=lambda: KEYS)
    ours = signer.sign("POST", httpx.URL(url), {}, b"{}", now=now)
    assert ours["authorization"] == theirs["authorization"]


def test_headers_that_change_on_the_way_are_not_signed():
    signer = Signer("dynamodb", region="us-east-1", credentials=lambda: KEYS)
    headers = {"user-agent": "x", "expect": "100-continue", "x-amzn-trace-id": "y"}
    signed = signer.sign("POST", httpx.URL("https://x/"), headers, b"")
    assert "SignedHeaders=host;x-amz-date," in signed["authorization"]
    assert headers.items() <= signed.items()


def test_a_renewed_credential_signs_the_next_request():
    given_keys = iter([KEYS, KEYS._replace(access_key="NEW")])
    signer = Signer("dynamodb", region="us-east-1", credentials=lambda: next(given_keys))
    signed = [signer.sign("POST", httpx.URL("https://x/"), {}, b"") for _ in range(2)]
    assert [each["authorization"].split("=")[1].split("/")[0] for each in signed] == [
        "AKIDEXAMPLE",
        "NEW",
    ]


def post(url: str, *, fresh: bool = False) -> tuple[int, bytes]:
    signer = Signer("ssm", region="us-east-1", credentials=lambda: KEYS)
    service = JsonService(signer, "1.1", endpoint=url, transport=CurlTransport())
    return service.post("AmazonSSM.GetParameters", b"{}", deadline=Deadline(5), fresh=fresh)


@pytest.mark.parametrize("fresh", [False, True])
def test_an_operation_is_called_by_its_target(stub_vendor: StubVendor, fresh: bool):
    stub_vendor.reply({"__type": "x"}, status=400)
    status, body = post(f"{stub_vendor.url}/", fresh=fresh)
    assert (status, json.loads(body)) == (400, {"__type": "x"})
    [request] = stub_vendor.requests
    assert request.body == b"{}"
    assert request.headers["x-amz-target"] == "AmazonSSM.GetParameters"
    assert request.headers["content-type"] == "application/x-amz-json-1.1"
    assert request.headers["content-length"] == "2"
    assert request.headers["accept-encoding"] == "identity"


def test_an_answer_that_breaks_off_is_an_error(stub_vendor: StubVendor):
    stub_vendor.reply(b"{}", cut=1)
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        post(f"{stub_vendor.url}/")


@pytest.mark.parametrize(
    ("region", "address"),
    [
        ("sa-east-1", "https://ssm.sa-east-1.amazonaws.com/"),
        ("cn-north-1", "https://ssm.cn-north-1.amazonaws.com.cn/"),
    ],
)
def test_a_service_has_an_address_in_each_region(region: str, address: str):
    assert sigv4.endpoint("ssm", region) == address


def test_each_partition_has_its_domain():
    for partition in create_loader().load_data("partitions")["partitions"]:
        domain = partition["outputs"]["dnsSuffix"]
        for region in partition["regions"]:
            if not region.endswith("-global"):
                assert sigv4.endpoint("ssm", region) == f"https://ssm.{region}.{domain}/"
