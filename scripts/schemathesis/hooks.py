"""What schemathesis cannot know: what our own formats look like, and which requests would end the run's own caller."""

import base64
import os
import re
import uuid

import schemathesis
from hypothesis import strategies as st
from schemathesis.openapi.checks import RejectedPositiveData, UseAfterFree

form = schemathesis.openapi.format


def encode(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def sized(characters, *lengths):
    """Text of one of these lengths, so that bounds are met at once: letters that are drawn one by one hardly ever meet them."""
    word = st.text(characters, min_size=1, max_size=8)
    return st.builds(lambda word, length: (word * length)[:length], word, st.sampled_from(lengths))


def several(make, count=16):
    """Some values of which nothing but their form matters."""
    return st.sampled_from([make(n) for n in range(count)])


def labels(length):
    """As many labels as have this length, which is 203 or more."""
    several, rest = divmod(length - 3, 200)
    return "".join(f"k{n:02}={'v' * 195}," for n in range(several)) + f"z={'v' * (rest + 1)}"


# Letters and digits of any script; those of the first planes are the same in every version of Unicode.
characters = st.characters(categories=["Lu", "Ll", "Nd"], max_codepoint=0x24F, include_characters="._- ")
printed = st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])
form("name", sized(characters, 8, 1, 2, 62, 63, 64).filter(lambda name: name == name.strip()))
form("text", sized(printed, 20, 0, 1, 999, 1000, 1001) | st.just("two\nlines\tand a tab"))
form("label-value", sized(printed, 8, 0, 1, 254, 255, 256))
few = ["a=b", "", "os=debian,x=a=b", "a/b.c-d_e=f g"]
form("labels", st.sampled_from(few + [labels(length) for length in (1999, 2000, 2001, 4095, 4096, 4097)]))
form("etag", st.sampled_from(["*", '"1"', 'W/"1"', '"3"', '"9223372036854775807"']))
form("cursor", several(lambda n: encode(uuid.UUID(int=n << 64).bytes)))
form("event-cursor", st.sampled_from([1, 2, 2**31, 2**63 - 1]).map(lambda seq: encode(seq.to_bytes(8, "big"))))
form("ipv4-cidr", st.integers(0, 255).map(lambda n: f"10.99.{n}.0/{24 + n % 5}"))
form("mac", st.integers(0, 2**24 - 1).map(lambda n: "52:54:00:" + n.to_bytes(3, "big").hex(":")))
# What guests could ask: a server's address.
form("ipv4", st.integers(0, 255).map(lambda n: f"9.{1 + n % 9}.{n}.9"))
form("libvirt-uri", st.integers(0, 10**6).map(lambda n: f"qemu+tls://host-{n}.example/system"))
form("absolute-path", several(lambda n: f"/var/lib/pileus-{n}/" + "a" * n))
key = b"\0\0\0\x0bssh-ed25519\0\0\0\x20"
form("ssh-public-key", several(lambda n: f"ssh-ed25519 {base64.b64encode(key + bytes([n]) * 32).decode()} me"))


def operation(case):
    return case.operation.definition.raw["operationId"]


@schemathesis.hook
def before_call(context, case, **kwargs):
    """A change of the caller's own user, tenant or token goes to nobody's instead: a run whose caller is gone sees 401 alone."""
    own = os.environ["PILEUS_CALLER"].split()
    if case.method.upper() != "GET":
        for name, value in (case.path_parameters or {}).items():
            if str(value) in own:
                case.path_parameters[name] = str(uuid.UUID(int=7))
    query = case.query or {}
    if case.meta.generation.mode.is_positive:
        if operation(case) == "create_instance":
            # Arbitrary names name nothing, and nothing would ever be made.
            unnamed = ("group", "reservation", "zone", "required_traits", "expires_at")
            body = {key: value for key, value in case.body.items() if key not in unnamed}
            case.body = {**body, "image": "pileus-guest", "flavor": "nano"}
        if operation(case) == "create_reservation":
            case.body = {**case.body, "flavor": "nano", "zone": None}
        if case.meta.phase.name.value == "stateful":
            # What a dry run would make is not there to be asked for.
            query.pop("dry_run", None)
    # Waiting is tested elsewhere; here each would take its second.
    if "wait" in query and str(query.get("timeout", 60)).isdigit() and int(query.get("timeout", 60)) <= 3600:
        query["timeout"] = 0


# What no schema says of a request's body: by operation, the fields and what the server says of them. Such an answer with 422
# is no failure where it blames nothing else.
UNSAID = [
    # What is there: things are named by id or name.
    ("create_instance", r"/(image|flavor|keypairs/\d+|networks/\d+/(network|port_id))", "there is no "),
    ("create_instance", r"/image", "the image has no data yet"),
    ("create_instance", r"/networks", "the tenant has several networks"),
    ("create_port", r"/network_id", "there is no network "),
    ("create_instance", r"/(group|reservation)", "there is no "),
    ("create_instance", r"/(zone|required_traits/\d+)", "no host "),
    ("create_instance", r"/forbidden_traits/\d+", "is required, too"),
    ("explain_placement", r"/(zone|required_traits/\d+)", "no host "),
    ("explain_placement", r"/forbidden_traits/\d+", "is required, too"),
    ("create_reservation", r"/zone", "no host "),
    ("create_reservation", r"/flavor", "there is no flavor "),
    ("create_aggregate", r"/(hosts|tenants)/\d+", "there is no "),
    ("update_aggregate", r"/(hosts|tenants)/\d+", "there is no "),
    ("explain_placement", r"/(flavor|image|group|reservation)", "there is no "),
    ("explain_placement", r"/image", "the image has no data yet"),
    ("explain_placement", r"/(flavor|disk_gib)", "the image's disk has "),
    # Which password the caller has.
    ("change_password", r"/old_password", "is not your password"),
    # That of two fields one may be given: generators of clients make little of schemas that say so.
    ("create_token", r"/expires_at", "give this or expires_in_s, not both"),
    ("create_instance", r"/networks/\d+", "must name either `network` or `port_id`"),
    ("create_instance", r"/networks/\d+/address", "goes with `network`"),
    ("explain_placement", r"/(vcpus|memory_mib|disk_gib)", "goes without `flavor`"),
    ("explain_placement", r"/(vcpus|memory_mib|disk_gib)", "must be given where `flavor` is not"),
    ("create_network", r"/(gateway|range_start|range_end)", "goes with a cidr"),
    # What time it is.
    ("create_token", r"/expires_at", "must end "),
    ("create_instance", r"/expires_at", "must lie ahead"),
    ("update_instance", r"/expires_at", "must lie ahead"),
    ("explain_placement", r"/expires_at", "must lie ahead"),
    ("create_reservation", r"/expires_at", "must lie ahead"),
    ("update_reservation", r"/expires_at", "must lie ahead"),
    # Arithmetic of addresses.
    ("create_network", r"/(gateway|range_start|range_end)", "must "),
    ("create_port", r"/address", "must lie in the range"),
    ("create_instance", r"/networks/\d+/address", "must lie in the range"),
    # What an image's format and sum make of the bytes that come later.
    ("put_image_data", r"", "the data "),
]


@schemathesis.hook
def filter_failure(context, failure, case, response):
    """Whether it is one."""
    if isinstance(failure, RejectedPositiveData) and response.status_code == 422:
        blamed = response.json().get("errors", [])
        return not blamed or not all(unsaid(case, field) for field in blamed)
    # DELETE of what is also on a host is a wish (202): the thing is there until it has come true, and says that it goes.
    if isinstance(failure, UseAfterFree) and response.headers["content-type"] == ["application/json"]:
        thing = response.json()
        return thing.get("status") not in ("deleting", "deleted") and not thing.get("leaving")
    return True


def unsaid(case, field):
    return any(
        operation(case) == of and re.fullmatch(pointer, field["pointer"]) and field["detail"].startswith(words)
        for of, pointer, words in UNSAID
    )
