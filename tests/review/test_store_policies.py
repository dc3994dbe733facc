"""The access rules of docs/ci.md, on a server that checks IAM's policies: who may write where."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path

import pytest
from bucket_servers import moto_serving

boto3 = pytest.importorskip("boto3")

PAGE = Path(__file__).parents[2] / "docs/ci.md"
BUCKET = "team-models"


def policy(action: str) -> str:
    """The policy of the page that has a statement of this name."""
    blocks = re.findall(r"```json\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (found,) = [block for block in blocks if f'"Sid": "{action}"' in block]
    return found


@pytest.fixture(scope="module")
def endpoint():
    with moto_serving() as served:
        yield served


@pytest.fixture(scope="module")
def clients(endpoint):
    """Role → a client with its rights and no others; `root` may all."""

    def client(kind: str, access: str = "root", secret: str = "root"):
        keys = {"aws_access_key_id": access, "aws_secret_access_key": secret}
        return boto3.client(kind, endpoint_url=endpoint, region_name="us-east-1", **keys)

    root = client("s3")
    root.create_bucket(Bucket=BUCKET)
    for key in ("dem/trusted/cas/x", "dem/pr-7/cas/x", "else/x"):
        root.put_object(Bucket=BUCKET, Key=key, Body=b"x")
    found = {"root": root}
    for role, named in (("trusted", "WriteTrusted"), ("train", "WriteOfPullRequests")):
        iam = client("iam")
        iam.create_user(UserName=role)
        iam.put_user_policy(UserName=role, PolicyName="of-the-page", PolicyDocument=policy(named))
        key = iam.create_access_key(UserName=role)["AccessKey"]
        found[role] = client("s3", key["AccessKeyId"], key["SecretAccessKey"])
    # From here on every request is judged.
    urllib.request.urlopen(
        urllib.request.Request(
            f"{endpoint}/moto-api/reset-auth",
            data=b"0",
            method="POST",
            headers={"Content-Type": "text/plain"},
        )
    ).close()
    return found


@pytest.mark.parametrize(
    ("role", "key", "may"),
    [
        ("trusted", "dem/trusted/cas/sha256/ab/abc", True),
        ("trusted", "dem/trusted/actions/ab/abc.json", True),
        ("trusted", "dem/pr-7/actions/ab/abc.json", False),
        ("trusted", "dem/dem-remote.json", False),
        ("train", "dem/pr-7/cas/sha256/ab/abc", True),
        ("train", "dem/pr-12/actions/ab/abc.json", True),
        ("train", "dem/trusted/actions/ab/abc.json", False),
        ("train", "dem/trusted/cas/sha256/ab/abc", False),
        ("train", "dem/dem-remote.json", False),
        ("train", "else/x", False),
    ],
)
def test_who_may_write_where(clients, role, key, may):
    assert allowed(lambda: clients[role].put_object(Bucket=BUCKET, Key=key, Body=b"y")) is may


@pytest.mark.parametrize("role", ["trusted", "train"])
def test_both_read_all_of_the_store_and_nothing_else_and_delete_nothing(clients, role):
    s3 = clients[role]
    assert allowed(lambda: s3.get_object(Bucket=BUCKET, Key="dem/trusted/cas/x"))
    assert allowed(lambda: s3.get_object(Bucket=BUCKET, Key="dem/pr-7/cas/x"))
    assert not allowed(lambda: s3.get_object(Bucket=BUCKET, Key="else/x"))
    assert not allowed(lambda: s3.delete_object(Bucket=BUCKET, Key="dem/trusted/cas/x"))
    assert not allowed(lambda: s3.delete_object(Bucket=BUCKET, Key="dem/pr-7/cas/x"))


def allowed(call) -> bool:
    from botocore.exceptions import ClientError

    try:
        call()
    except ClientError as error:
        if error.response["Error"]["Code"] != "AccessDenied":
            raise
        return False
    return True


def test_who_reads_without_credentials_is_told_what_is_not_there():
    """S3 answers 403 for that to who may not list, and a store that forbids something is left out of the call."""
    public = {one["Sid"]: one for one in json.loads(policy("PublicRead"))["Statement"]}
    role = {one["Sid"]: one for one in json.loads(policy("WriteTrusted"))["Statement"]}
    assert {**public["PublicList"], "Sid": "List"} == {**role["List"], "Principal": "*"}


def test_every_block_of_the_page_is_json():
    blocks = re.findall(r"```json\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 5
    subjects = [b for b in map(json.loads, blocks) if "sub" in json.dumps(b)]
    assert len(subjects) == 2
    assert "*" not in json.dumps(subjects)  # who may take a role is said in full
