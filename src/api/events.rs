//! `/v1/events`: the feed of all that was wished and seen, as pages and as a stream.

use axum::Json as Body;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::bounds;
use super::event_stream;
use super::extract::{Query, bearer, text};
use super::problem::Problem;
use crate::domain::caller::Caller;
use crate::domain::error::Error;
use crate::domain::event::Event;
use crate::domain::page::{Order, SeqPage};
use crate::service::events::Wanted;
use crate::service::{self, App};

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list))
}

/// A page of the event feed.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventPage {
    /// In the order of `seq`.
    #[schema(max_items = 1000)]
    pub items: Vec<Event>,
    /// Pass as `cursor` to get the next page; null on the last one.
    #[schema(max_length = 64, example = "AAAAAAAAACo")]
    pub next: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListEvents {
    /// How many at most; 100 if not given. Not for a stream.
    #[param(minimum = 1, maximum = 1000, example = 100)]
    limit: Option<i64>,
    /// `next` of the page before. Not for a stream.
    #[param(max_length = 64, example = "AAAAAAAAACo")]
    cursor: Option<String>,
    /// `asc`: oldest first (if not given); `desc`: newest first. Not for a stream.
    #[param(inline)]
    order: Option<Order>,
    /// Only events after the one of this `seq`. A stream begins after it, or, without it, with what comes from now on.
    #[param(minimum = 0, example = 42)]
    after: Option<i64>,
    /// Only events about this resource.
    resource_id: Option<Uuid>,
    /// Only events of exactly this kind.
    #[serde(default, deserialize_with = "bounds::text::<100, _>")]
    #[param(max_length = 100, example = "instance.create")]
    kind: Option<String>,
    /// Every tenant's events and the cloud's own: for admins.
    #[param(example = false)]
    all_tenants: Option<bool>,
}

/// Read the event feed, or follow it.
///
/// Events have a total order, `seq`, without gaps and never filled in later: who has read up to a `seq` has missed nothing
/// before it. A reader of one tenant sees only that tenant's, so that numbers are left out.
///
/// With `Accept: text/event-stream` the answer is a stream of server-sent events: `id` is the event's `seq`, `event` its kind
/// and `data` the event as JSON. It begins after `Last-Event-ID` (or `after`), or, without both, with what comes from now on.
/// Three kinds have no dot in them and are about the stream itself: a comment that only says that the stream lives; `gap`,
/// whose data says up to which `seq` retention has removed events that were asked for; and `end`, whose data says why the
/// stream ends: the token is no longer good, or the server stops. A reader that does not keep up is cut off, and goes on from
/// its last id.
#[utoipa::path(get, path = "/v1/events", operation_id = "list_events", tag = "events",
    params(ListEvents,
        ("Last-Event-ID" = Option<i64>, Header, nullable = false, description = "The `seq` of the last event that a stream showed: it goes on after it.",
            minimum = 0, example = 42)),
    responses((status = 200, description = "A page of events, or the stream of them.",
        content((EventPage = "application/json"), (String = "text/event-stream")))))]
async fn list(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    Query(query): Query<ListEvents>,
) -> Result<Response, Problem> {
    let wanted = Wanted {
        resource: query.resource_id,
        kind: query.kind,
        all_tenants: query.all_tenants.unwrap_or(false),
    };
    let last = last_event_id(&headers)?;
    let answer = if event_stream::is_asked_for(&headers) {
        let of_pages = [
            ("?limit", query.limit.is_some()),
            ("?cursor", query.cursor.is_some()),
            ("?order", query.order.is_some()),
        ];
        if let Some((name, _)) = of_pages.iter().find(|(_, given)| *given) {
            return Err(Error::field(*name, "is for pages: a stream takes after").into());
        }
        let (after, pointer) = match last {
            Some(seq) => (Some(seq), "Last-Event-ID"),
            None => (query.after, "?after"),
        };
        let permit = app.limits().stream(&caller)?;
        let bearer = bearer(&headers)?.to_owned();
        let start = service::events::follow(&app, &caller, bearer, wanted, after, pointer).await?;
        event_stream::answer(&app, start, permit)
    } else {
        let order = query.order.unwrap_or_default();
        let page = SeqPage::parse(query.limit, order, query.after, query.cursor.as_deref())?;
        let (items, next) = service::events::list(&app, &caller, &wanted, &page).await?;
        Body(EventPage { items, next }).into_response()
    };
    Ok(([(header::VARY, "accept")], answer).into_response())
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<i64>, Problem> {
    let Some(id) = text(headers, "last-event-id")? else { return Ok(None) };
    let seq = id.parse().ok().filter(|seq| *seq >= 0);
    seq.map(Some).ok_or_else(|| {
        Error::field("Last-Event-ID", "must be the seq of an event, such as 42").into()
    })
}
