//! The OpenAPI document: what all operations have in common is added here, once.

use utoipa::openapi::path::{HttpMethod, Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    ContentBuilder, OpenApi, PathItem, Ref, RefOr, Response, ResponseBuilder, SecurityRequirement,
};

use crate::service::authorize::{Need, need};

/// The head of the document; the paths come from the routers.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Pileus",
        description = "A small cloud: tenants, flavors, images, networks and instances, made real through libvirt.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    components(schemas(crate::api::problem::Problem))
)]
pub struct Document;

/// Adds to every operation what its kind has: errors, authentication, `Idempotency-Key`, `If-Match`.
pub fn complete(mut document: OpenApi) -> OpenApi {
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(
        "bearer",
        SecurityScheme::Http(
            HttpBuilder::new()
                .scheme(HttpAuthScheme::Bearer)
                .description(Some("A JWT of POST /v1/auth/login, or an API token."))
                .build(),
        ),
    );
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            finish(path, method, operation);
        }
    }
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

fn finish(path: &str, method: HttpMethod, operation: &mut Operation) {
    let need = need(operation.operation_id.as_deref().unwrap_or_default());
    let mut problems = vec![
        ("400", "The request cannot be read."),
        ("422", "A field breaks a bound; `errors` names it."),
        ("429", "Too many requests: wait for Retry-After."),
        ("500", "Our fault."),
        ("503", "The database or a limit is in the way: wait for Retry-After."),
    ];
    if need == Need::Anyone {
        operation.security = Some(vec![SecurityRequirement::default()]);
    } else {
        operation.security = Some(vec![SecurityRequirement::new("bearer", Vec::<String>::new())]);
        problems.push(("401", "Not authenticated."));
        problems.push(("403", "Not allowed."));
    }
    if path.contains('{') {
        problems.push(("404", "There is no such thing in this tenant."));
    }
    if method != HttpMethod::Get {
        problems.push(("404", "Something that the request names is not there."));
        problems.push(("408", "The body came too slowly."));
        problems.push(("409", "The wish contradicts the state of the world, or the quota."));
        problems.push(("413", "The body is too large."));
        problems.push(("415", "The body is of another media type."));
    }
    if method == HttpMethod::Post && need != Need::Anyone {
        header(
            operation,
            "Idempotency-Key",
            "The same key and request get the same answer, however often it is sent.",
            255,
        );
    }
    if path.contains("{id}") {
        if method == HttpMethod::Get {
            header(
                operation,
                "If-None-Match",
                "The revision that the client has, in quotes: answered with 304.",
                32,
            );
        } else {
            header(
                operation,
                "If-Match",
                "The revision that the change is meant for, in quotes; another one is refused with 412.",
                32,
            );
            problems.push(("412", "The resource is at another revision than If-Match says."));
        }
    }
    for (status, description) in problems {
        operation
            .responses
            .responses
            .entry(status.to_owned())
            .or_insert_with(|| problem(description));
    }
}

fn header(operation: &mut Operation, name: &str, description: &str, max: usize) {
    let schema = ObjectBuilder::new().schema_type(Type::String).max_length(Some(max)).build();
    let parameters = operation.parameters.get_or_insert_default();
    // An operation may have its own words for a header.
    if parameters.iter().any(|p| matches!(p, RefOr::T(p) if p.name == name)) {
        return;
    }
    let parameter = ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(utoipa::openapi::Required::False)
        .description(Some(description))
        .schema(Some(schema))
        .build();
    parameters.push(parameter.into());
}

fn problem(description: &str) -> RefOr<Response> {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    ResponseBuilder::new()
        .description(description)
        .content("application/problem+json", content)
        .build()
        .into()
}
