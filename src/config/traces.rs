//! What the variables of OpenTelemetry say, which are not ours: see <https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>.

/// Whether traces are sent, by the variables of OpenTelemetry's specification, which its exporter reads too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traces {
    Off,
    /// `named`: the service has a name of the operator's.
    On {
        named: bool,
    },
}

impl Traces {
    #[expect(clippy::disallowed_methods, reason = "these variables are no settings of ours")]
    pub fn from_process() -> Self {
        Self::load(|name| std::env::var(name).ok().filter(|text| !text.is_empty()))
    }

    /// On where there is an endpoint to send to. `OTEL_SDK_DISABLED` and `OTEL_TRACES_EXPORTER=none` switch them off again.
    pub(super) fn load(variable: impl Fn(&str) -> Option<String>) -> Self {
        let endpoints = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];
        let is = |name, word| variable(name).is_some_and(|text| text.eq_ignore_ascii_case(word));
        let off = is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none");
        if off || endpoints.iter().all(|name| variable(name).is_none()) {
            return Self::Off;
        }
        let attributes = variable("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
        let named = variable("OTEL_SERVICE_NAME").is_some() || attributes.contains("service.name=");
        Self::On { named }
    }
}
