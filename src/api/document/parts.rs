//! What operations share by reference: errors, headers, tags and the way to authenticate.

use serde_json::json;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{Components, ContentBuilder, Header, Ref, RefOr, ResponseBuilder, Tag};

/// Status, name and meaning of every error that operations share.
const ERRORS: &[(&str, &str, &str)] = &[
    ("400", "BadRequest", "The request cannot be read."),
    ("401", "Unauthenticated", "Nobody is logged in, or the token is no longer good."),
    ("403", "Forbidden", "The caller may not do this."),
    ("404", "NotFound", "There is no such thing in this tenant."),
    ("408", "BodyTooSlow", "The body came too slowly."),
    ("409", "Conflict", "The wish contradicts the state of the world, the quota or the capacity."),
    ("412", "PreconditionFailed", "The resource is at another revision than If-Match says."),
    ("413", "TooLarge", "The body is too large."),
    ("415", "UnsupportedMediaType", "The body is of another media type."),
    ("416", "RangeNotSatisfiable", "There is no byte in the range that is asked for."),
    ("422", "InvalidInput", "A field breaks a bound; `errors` names it."),
    ("429", "TooManyRequests", "Too many attempts: wait for Retry-After."),
    ("500", "InternalError", "Our fault: report it with the X-Request-Id."),
    ("503", "Unavailable", "The database or a limit is in the way: wait for Retry-After."),
];

/// Name, meaning and example of every header that answers share.
const HEADERS: &[(&str, &str, &str)] = &[
    (
        "ETag",
        "The revision in quotes, for If-Match and If-None-Match; on the way to its wish, with a mark of its state behind it.",
        "\"3\"",
    ),
    ("Location", "Where the resource is.", "/v1/flavors/0197a3f0-4c5e-7d3a-9d2f-0b8e6a1c2d3e"),
    ("Retry-After", "Seconds to wait before another attempt.", "1"),
    ("WWW-Authenticate", "How to authenticate.", "Bearer"),
    (
        "X-Request-Id",
        "Names the request in logs and events: the client's own, or a new one.",
        "0197a3f0-4c5e-7d3a-9d2f-0b8e6a1c2d3e",
    ),
];

const TAGS: &[(&str, &str)] = &[
    ("auth", "Log in, look who you are, and the keys that tokens are checked with."),
    ("tokens", "API tokens: for programs, until they expire or are revoked."),
    ("tenants", "Who owns and pays: the unit of isolation and quota."),
    ("users", "Who may log in."),
    ("memberships", "Which role a user has in a tenant."),
    ("members", "Which role a user has in a tenant."),
    ("flavors", "The sizes that instances come in."),
    ("keypairs", "Public SSH keys that instances are given."),
    ("images", "Bootable disks, content-addressed by SHA-256."),
    ("networks", "Isolated networks with a subnet."),
    ("ports", "Interfaces: a MAC and an address on a network."),
    ("hosts", "Hypervisor hosts, reached through libvirt."),
    ("aggregates", "Hosts that are dedicated to tenants."),
    ("groups", "Instances that are to share a host or a zone, or not to."),
    ("reservations", "Capacity that a tenant holds for a while."),
    ("placement", "Which host an instance would get, and why."),
    ("instances", "The virtual machines."),
    ("events", "All that was wished and seen: the feed and audit log."),
    (
        "operation",
        "For admins: what is not as wished, what is where nobody wished it, and the cloud itself.",
    ),
    ("health", "Whether the server lives and is fit for requests."),
];

/// The name of the shared response of a status.
pub fn response_name(status: &str) -> &'static str {
    ERRORS.iter().find(|(s, ..)| *s == status).map_or("InternalError", |(_, name, _)| name)
}

/// A reference to a shared header.
pub fn header(name: &str) -> RefOr<Header> {
    RefOr::Ref(Ref::new(format!("#/components/headers/{name}")))
}

/// The tags that are used, in the order of the table; one without a row stands at the end, undescribed.
pub fn tags(used: &[String]) -> Vec<Tag> {
    let known = TAGS.iter().filter(|(name, _)| used.iter().any(|u| u == name));
    let described = known.map(|(name, description)| {
        TagBuilder::new().name(*name).description(Some(*description)).build()
    });
    let mut rest: Vec<_> = used.iter().filter(|u| TAGS.iter().all(|(name, _)| name != u)).collect();
    rest.sort();
    rest.dedup();
    described.chain(rest.into_iter().map(Tag::new)).collect()
}

/// Puts the shared parts where the operations' references point.
pub fn add(components: &mut Components) {
    for (name, description, example) in HEADERS {
        let (kind, example) = match example.parse::<i64>() {
            Ok(number) => (Type::Integer, json!(number)),
            Err(_text) => (Type::String, json!(example)),
        };
        let schema = ObjectBuilder::new().schema_type(kind).examples([example]).build();
        let header =
            HeaderBuilder::new().schema(Some(schema)).description(Some(*description)).build();
        components.headers.insert((*name).to_owned(), header.into());
    }
    for (status, name, description) in ERRORS {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
        let response = ResponseBuilder::new().description(*description);
        let mut response = response.content("application/problem+json", content).build();
        let names = match *status {
            "401" => ["X-Request-Id"].iter().chain(&["WWW-Authenticate"]),
            "429" | "503" => ["X-Request-Id"].iter().chain(&["Retry-After"]),
            _ => ["X-Request-Id"].iter().chain(&[]),
        };
        response.headers = names.map(|name| ((*name).to_owned(), header(name))).collect();
        components.responses.insert((*name).to_owned(), response.into());
    }
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("A JWT of POST /v1/auth/login, or an API token."))
        .build();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
}
