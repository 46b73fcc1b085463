//! The OpenAPI document: what all operations have in common is added here, once.

mod links;
mod parts;
#[cfg(test)]
mod tests;
mod variants;
mod words;

use utoipa::openapi::path::{HttpMethod, Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::{OpenApi, PathItem, Ref, RefOr, Response, SecurityRequirement, Server};

use crate::service::authorize::{Need, need};

pub use variants::plain;
pub use words::fill;

/// The head of the document; the paths come from the routers.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Pileus",
        description = "A small cloud: tenants, flavors, images, networks and instances, made real through libvirt.\n\n\
            Bodies are JSON; times are RFC 3339 in UTC; ids are UUIDs; a size has its unit in its name. Unknown fields are \
            refused; null, where it may be sent, is the same as left out. Every error is a `Problem` (RFC 9457) that says what \
            would do. A change that is not made real at once is answered with 202: look at the resource, wait for it with `?wait=`, or follow `/v1/events`. A POST with an \
            `Idempotency-Key` may be repeated. Another tenant's things are not found. Every answer carries `X-Request-Id`.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    components(schemas(crate::api::problem::Problem))
)]
pub struct Document;

/// Resources with fields that change without a new revision, so that they never answer 304.
const NEVER_UNCHANGED: &[&str] = &[
    "/v1/groups/{id}",
    "/v1/hosts/{id}",
    "/v1/reservations/{id}",
    "/v1/tenants/{id}",
    "/v1/tokens/{id}",
];

/// Adds to every operation what its kind has: errors, authentication, headers.
pub fn complete(mut document: OpenApi) -> OpenApi {
    document.servers = Some(vec![Server::new("/")]);
    let mut tags = Vec::new();
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            finish(path, &method, operation);
            tags.extend(operation.tags.iter().flatten().cloned());
        }
    }
    links::add(&mut document.paths.paths);
    document.tags = Some(parts::tags(&tags));
    let components = document.components.get_or_insert_default();
    parts::add(components);
    document
}

/// The operations of a path.
pub fn operations(item: &mut PathItem) -> Vec<(HttpMethod, &mut Operation)> {
    let all = [
        (HttpMethod::Get, item.get.as_mut()),
        (HttpMethod::Put, item.put.as_mut()),
        (HttpMethod::Post, item.post.as_mut()),
        (HttpMethod::Patch, item.patch.as_mut()),
        (HttpMethod::Delete, item.delete.as_mut()),
    ];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation?))).collect()
}

fn finish(path: &str, method: &HttpMethod, operation: &mut Operation) {
    let need = need(operation.operation_id.as_deref().unwrap_or_default());
    let reads = *method == HttpMethod::Get;
    let mut problems = vec!["400", "422", "500", "503"];
    if need == Need::Anyone {
        operation.security = Some(Vec::new());
    } else {
        operation.security = Some(vec![SecurityRequirement::new("bearer", Vec::<String>::new())]);
        problems.extend(["401", "403", "429"]);
    }
    if path == "/v1/auth/login" {
        problems.extend(["401", "429"]);
    }
    if path.contains('{') {
        problems.push("404");
    }
    // An image may be there without its data.
    if !reads || path.ends_with("{id}/data") {
        problems.push("409");
    }
    if reads && path.ends_with("{id}/data") {
        problems.push("416");
    }
    if operation.request_body.is_some() {
        problems.extend(["408", "413", "415"]);
    }
    if *method == HttpMethod::Post && need != Need::Anyone {
        header(
            operation,
            "Idempotency-Key",
            "The same key and request get the same answer, however often it is sent.",
            (1, 255),
            "0197a3f0-build-42",
        );
    }
    // What has a revision of its own: the resource itself and its actions, not what lies below it.
    let resource = path.ends_with("{id}");
    let changes = resource || path.contains("{id}/actions/") || path.ends_with("{id}/data");
    if resource && reads && !NEVER_UNCHANGED.contains(&path) {
        header(
            operation,
            "If-None-Match",
            "The revision that the client has, in quotes: answered with 304.",
            (1, 32),
            "\"3\"",
        );
        let unchanged = Response::new("The client has this revision already.");
        operation.responses.responses.entry("304".into()).or_insert(unchanged.into());
    } else if !reads && changes {
        header(
            operation,
            "If-Match",
            "The revision that the change is meant for, in quotes; another one is refused with 412.",
            (1, 32),
            "\"3\"",
        );
        problems.push("412");
    }
    for (status, response) in &mut operation.responses.responses {
        success(status, resource || !reads && changes, response);
    }
    for status in problems {
        let shared = Ref::from_response_name(parts::response_name(status));
        let responses = &mut operation.responses.responses;
        responses.entry(status.to_owned()).or_insert_with(|| shared.into());
    }
}

/// The headers of an answer that is no error.
fn success(status: &str, resource: bool, response: &mut RefOr<Response>) {
    let RefOr::T(response) = response else { return };
    if !status.starts_with(['2', '3']) {
        return;
    }
    let made = matches!(status, "201" | "202") && !response.content.is_empty();
    let tagged = made || resource && matches!(status, "200" | "304");
    for (name, has) in [("X-Request-Id", true), ("Location", made), ("ETag", tagged)] {
        if has {
            response.headers.entry(name.to_owned()).or_insert_with(|| parts::header(name));
        }
    }
}

fn header(
    operation: &mut Operation,
    name: &str,
    description: &str,
    (min, max): (usize, usize),
    example: &str,
) {
    let parameters = operation.parameters.get_or_insert_default();
    // An operation may have its own words for a header.
    if parameters.iter().any(|p| matches!(p, RefOr::T(p) if p.name == name)) {
        return;
    }
    let mut schema =
        ObjectBuilder::new().schema_type(Type::String).min_length(Some(min)).max_length(Some(max));
    if name.starts_with("If-") {
        schema = schema.format(Some(SchemaFormat::Custom("etag".into())));
    }
    let schema = schema.build();
    let parameter = ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(utoipa::openapi::Required::False)
        .description(Some(description))
        .schema(Some(schema))
        .example(Some(example.into()))
        .build();
    parameters.push(parameter.into());
}
