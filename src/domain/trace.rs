//! The trace that something is part of, as W3C Trace Context writes it (<https://www.w3.org/TR/trace-context/>), so that it can be
//! kept and carried on in another process. Without an exporter there is none, and nothing here costs anything.

use std::sync::atomic::{AtomicBool, Ordering};

use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use opentelemetry::{Context, Value};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

static EXPORTED: AtomicBool = AtomicBool::new(false);

/// From now on spans are traces for somebody.
pub fn export() {
    EXPORTED.store(true, Ordering::Relaxed);
}

/// Whether spans are.
pub fn exported() -> bool {
    EXPORTED.load(Ordering::Relaxed)
}

/// `traceparent` of the current span; `None`: nobody traces it.
pub fn parent() -> Option<String> {
    if !exported() {
        return None;
    }
    let context = Span::current().context();
    let span = context.span().span_context().clone();
    let flags = span.trace_flags() & TraceFlags::SAMPLED;
    span.is_valid().then(|| format!("00-{}-{}-{flags:02x}", span.trace_id(), span.span_id()))
}

/// The span is part of the trace of `traceparent`. One that is malformed is as none.
pub fn follow(span: &Span, traceparent: &str) {
    if exported()
        && let Some(parent) = read(traceparent)
    {
        // Fails only where nobody listens to this span.
        let _ = span.set_parent(Context::new().with_remote_span_context(parent));
    }
}

/// What only traces tell of a span.
pub fn tell(span: &Span, key: &'static str, value: impl Into<Value>) {
    if exported() {
        span.set_attribute(key, value);
    }
}

/// Any version, of which the first four parts are known (section 3.2.4 of the specification).
fn read(traceparent: &str) -> Option<SpanContext> {
    let mut parts = traceparent.split('-');
    let [version, trace, span, flags] =
        [parts.next()?, parts.next()?, parts.next()?, parts.next()?];
    let hex = |text: &str, length| {
        text.len() == length
            && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let written = hex(version, 2) && hex(trace, 32) && hex(span, 16) && hex(flags, 2);
    if !written || version == "ff" || version == "00" && parts.next().is_some() {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    let context = SpanContext::new(trace, span, flags, true, TraceState::default());
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_as_the_specification_says() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let good = read(&format!("00-{trace}-b7ad6b7169203331-03")).unwrap();
        assert_eq!(good.trace_id().to_string(), trace);
        assert_eq!(good.span_id().to_string(), "b7ad6b7169203331");
        assert!(good.is_sampled() && good.is_remote());
        assert!(!read(&format!("00-{trace}-b7ad6b7169203331-00")).unwrap().is_sampled());
        // A later version may have more behind.
        assert!(read(&format!("cc-{trace}-b7ad6b7169203331-01-what")).is_some());
        for bad in [
            "",
            "00",
            &format!("00-{trace}-b7ad6b7169203331"),
            &format!("00-{trace}-b7ad6b7169203331-01-what"),
            &format!("ff-{trace}-b7ad6b7169203331-01"),
            &format!("00-{}-b7ad6b7169203331-01", trace.to_uppercase()),
            &format!("00-{trace}-0000000000000000-01"),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            &format!("00-{trace}x-b7ad6b7169203331-01"),
        ] {
            assert!(read(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn without_an_exporter_there_is_no_trace() {
        assert_eq!(parent(), None);
    }
}
