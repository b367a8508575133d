"""The fault proxy itself: without faults it changes nothing, and each fault does what its name says."""

import http.client
import os

import pytest
from botocore.session import Session

from tests.faults.fault import Fault
from tests.faults.proxy import FaultProxy


@pytest.fixture
def client(proxy: FaultProxy):
    """A plain S3 client that never tries again, before the proxy."""
    from botocore.config import Config

    config = Config(read_timeout=1, retries={"max_attempts": 0})
    return Session().create_client("s3", endpoint_url=proxy.endpoint, config=config)


def test_without_faults_it_changes_nothing(proxy: FaultProxy, client, s3):
    data = os.urandom(300_000)
    client.put_object(Bucket=s3.bucket, Key="proxy/a", Body=data)
    assert client.get_object(Bucket=s3.bucket, Key="proxy/a")["Body"].read() == data
    assert client.head_object(Bucket=s3.bucket, Key="proxy/a")["ContentLength"] == len(data)
    assert proxy.requests == {"PUT": 1, "GET": 1, "HEAD": 1}
    assert not proxy.hits


@pytest.mark.parametrize(
    ("mode", "exists"),
    [("swallow_body", False), ("drop_reply", True), ("hang_reply", True), ("reset", False), ("status", False)],
)
def test_a_fault_hits_the_requests_that_it_matches(proxy: FaultProxy, client, s3, mode: str, exists: bool):
    key = f"proxy/{mode}"
    fault = proxy.add(Fault(mode, f"PUT .*/{key}", count=1, skip=1))
    client.put_object(Bucket=s3.bucket, Key=key, Body=b"first")
    with pytest.raises(Exception, match=r"(?i)timed? ?out|closed|reset|SlowDown|connection"):
        client.put_object(Bucket=s3.bucket, Key=key, Body=b"second")
    assert fault.hits == 1
    assert (client.get_object(Bucket=s3.bucket, Key=key)["Body"].read() == b"second") == exists
    client.put_object(Bucket=s3.bucket, Key=key, Body=b"third")  # count is 1
    assert proxy.hits == {mode: 1}


def test_a_cut_reply_ends_half_way(proxy: FaultProxy, client, s3):
    client.put_object(Bucket=s3.bucket, Key="proxy/cut", Body=b"0123456789")
    proxy.add(Fault("cut_reply", "GET .*/proxy/cut"))
    with pytest.raises(Exception, match=r"5.*10|IncompleteRead|not enough"):
        client.get_object(Bucket=s3.bucket, Key="proxy/cut")["Body"].read()


def test_it_stops_listening_and_listens_again(proxy: FaultProxy):
    proxy.stop_listening()
    with pytest.raises(ConnectionRefusedError):
        http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=5).connect()
    proxy.listen()
    http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=5).connect()
