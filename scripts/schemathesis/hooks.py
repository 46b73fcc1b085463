"""What schemathesis cannot know: what our own formats look like, and which requests would end the run's own caller."""

import base64
import os
import uuid

import schemathesis
from hypothesis import strategies as st

form = schemathesis.openapi.format


def encode(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


# Letters and digits of any script; those of the first planes are the same in every version of Unicode.
characters = st.characters(categories=["Lu", "Ll", "Nd"], max_codepoint=0x24F, include_characters="._- ")
form("name", st.text(characters, min_size=1, max_size=63).filter(lambda name: name == name.strip()))
form("label-value", st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=255))
label = st.tuples(st.from_regex(r"[A-Za-z0-9._/-]{1,20}", fullmatch=True), st.from_regex(r"[a-z0-9 ]{0,20}", fullmatch=True))
form("labels", st.lists(label.map("=".join), max_size=4).map(",".join))
form("etag", st.sampled_from(["*", '"1"', 'W/"1"', '"3"', '"9223372036854775807"']))
form("cursor", st.binary(min_size=16, max_size=16).map(encode))
form("event-cursor", st.integers(1, 2**63 - 1).map(lambda seq: encode(seq.to_bytes(8, "big"))))
form("ipv4-cidr", st.tuples(st.integers(0, 255), st.integers(24, 28)).map(lambda n: f"10.99.{n[0]}.0/{n[1]}"))
form("mac", st.binary(min_size=3, max_size=3).map(lambda tail: "52:54:00:" + tail.hex(":")))
# What guests could ask: a server's address.
form("ipv4", st.tuples(st.integers(1, 9), st.integers(0, 255)).map(lambda n: f"9.{n[0]}.{n[1]}.9"))
form("libvirt-uri", st.integers(0, 10**6).map(lambda n: f"qemu+tls://host-{n}.example/system"))
form("absolute-path", st.from_regex(r"/var/lib/[a-z]{1,30}", fullmatch=True))
key = b"\0\0\0\x0bssh-ed25519\0\0\0\x20"
form(
    "ssh-public-key",
    st.binary(min_size=32, max_size=32).map(lambda point: "ssh-ed25519 " + base64.b64encode(key + point).decode() + " me"),
)


@schemathesis.hook
def before_call(context, case, **kwargs):
    """A change of the caller's own user or tenant goes to nobody's instead: a run whose caller is gone sees 401 alone."""
    own = {os.environ["PILEUS_CALLER_USER"], os.environ["PILEUS_CALLER_TENANT"]}
    if case.method.upper() != "GET":
        for name, value in (case.path_parameters or {}).items():
            if value in own:
                case.path_parameters[name] = str(uuid.UUID(int=7))
    # Waiting is tested elsewhere; here each would take its second.
    query = case.query or {}
    if "wait" in query and str(query.get("timeout", 60)).isdigit() and int(query.get("timeout", 60)) <= 3600:
        query["timeout"] = 0
