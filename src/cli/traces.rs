//! OpenTelemetry traces, which the `OTEL_` variables of its specification set up: sent as OTLP over HTTP by a thread of their own.

use std::time::Duration;

use anyhow::{Context, Result};
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracerProvider, Tracer};

use crate::config::Traces;
use crate::domain::trace;

/// How long the end of the process waits for the last spans to be sent.
const LAST: Duration = Duration::from_secs(3);

/// Sends what is left at its end.
#[derive(Debug)]
pub struct Exporter(SdkTracerProvider);

impl Exporter {
    /// `None`: nobody wants traces.
    pub fn start(wanted: Traces) -> Result<Option<Self>> {
        let service = match wanted {
            Traces::Off => return Ok(None),
            // Its name is in OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES, which the resource reads itself.
            Traces::On { named: true } => Resource::builder(),
            Traces::On { named: false } => Resource::builder().with_service_name("pileus"),
        };
        let resource = service.with_attribute(opentelemetry::KeyValue::new(
            "service.version",
            env!("CARGO_PKG_VERSION"),
        ));
        let exporter = SpanExporter::builder()
            .with_http()
            .build()
            .context("the OTEL_EXPORTER_OTLP_ variables will not do")?;
        let provider = SdkTracerProvider::builder()
            .with_resource(resource.build())
            .with_batch_exporter(exporter)
            .build();
        trace::export();
        Ok(Some(Self(provider)))
    }

    pub fn tracer(&self) -> Tracer {
        self.0.tracer("pileus")
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        // Whoever collects may be gone: nothing of ours waits for it.
        let _ = self.0.shutdown_with_timeout(LAST);
    }
}
