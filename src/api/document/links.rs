//! Links: what may be asked next of a thing that was just made, so that a program can find its way by the document alone.

use std::collections::BTreeMap;

use utoipa::openapi::link::Link;
use utoipa::openapi::path::{HttpMethod, PathsMap};
use utoipa::openapi::{PathItem, RefOr};

/// What is answered there is the thing beside its secret.
const WITH_A_SECRET: &str = "/v1/tokens";

/// Every operation on `/v1/{noun}/{id}` becomes a link of the answer that makes one of that noun.
pub fn add(paths: &mut PathsMap<String, PathItem>) {
    let mut below: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for (path, item) in paths.iter_mut() {
        let Some((noun, rest)) = path.split_once("/{") else { continue };
        let Some((parameter, rest)) = rest.split_once('}') else { continue };
        if rest.contains('{') {
            continue;
        }
        let (noun, parameter) = (noun.to_owned(), parameter.to_owned());
        for (_, operation) in super::operations(item) {
            let id = operation.operation_id.clone().unwrap_or_default();
            below.entry(noun.clone()).or_default().push((id, parameter.clone()));
        }
    }
    for (path, item) in paths.iter_mut() {
        let Some(operations) = below.get(path) else { continue };
        for (method, operation) in super::operations(item) {
            if method != HttpMethod::Post {
                continue;
            }
            for status in ["201", "202"] {
                let Some(RefOr::T(response)) = operation.responses.responses.get_mut(status) else {
                    continue;
                };
                let made = if path == WITH_A_SECRET { "token/id" } else { "id" };
                for (id, parameter) in operations {
                    let link = Link::builder()
                        .operation_id(id)
                        .parameter(parameter, format!("$response.body#/{made}"))
                        .build();
                    response.links.insert(id.clone(), link.into());
                }
            }
        }
    }
}
