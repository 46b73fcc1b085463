//! How the text of a setting becomes a value, and what is said when it cannot.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};

use super::settings::Setting;
use crate::domain::host::VirtType;

/// Text that is never printed, logged or shown by `pileus config`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one call that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// A type that a setting may have.
pub trait Value: Sized {
    /// `text` is not empty, unless the default is. The error says what would do.
    fn parse(text: &str, setting: &Setting) -> Result<Self, String>;
}

/// Within the bounds of the row, or the sentence that says them.
fn bounded(number: Option<f64>, whole: &str, setting: &Setting) -> Result<f64, String> {
    let (least, most) = setting.bounds.unwrap_or((f64::MIN, f64::MAX));
    let unit = match setting.unit {
        "s" => " of seconds",
        "ms" => " of milliseconds",
        "h" => " of hours",
        "days" => " of days",
        _ => "",
    };
    number
        .filter(|n| (least..=most).contains(n))
        .ok_or_else(|| format!("give a {whole}number{unit} from {least} to {most}"))
}

macro_rules! whole_number {
    ($($type:ty),*) => {$(#[allow(clippy::cast_lossless, reason = "only some of the types")]
    impl Value for $type {
        fn parse(text: &str, setting: &Setting) -> Result<Self, String> {
            let number: Option<$type> = text.parse().ok();
            // Every bound is below 2^53, where f64 is exact.
            bounded(number.map(|n| n as f64), "whole ", setting)?;
            number.ok_or_else(|| "give a whole number".into())
        }
    })*};
}
whole_number!(u8, u32, u64, i64);

impl Value for bool {
    fn parse(text: &str, _: &Setting) -> Result<Self, String> {
        match text {
            "on" | "true" => Ok(true),
            "off" | "false" => Ok(false),
            _ => Err("give on or off".into()),
        }
    }
}

impl Value for f64 {
    fn parse(text: &str, setting: &Setting) -> Result<Self, String> {
        bounded(text.parse().ok(), "", setting)
    }
}

impl Value for Duration {
    fn parse(text: &str, setting: &Setting) -> Result<Self, String> {
        let number = u64::parse(text, setting)?;
        Ok(match setting.unit {
            "ms" => Self::from_millis(number),
            "h" => Self::from_secs(number * 3600),
            "days" => Self::from_secs(number * 86400),
            _ => Self::from_secs(number),
        })
    }
}

impl Value for SocketAddr {
    fn parse(text: &str, _: &Setting) -> Result<Self, String> {
        text.parse().map_err(|e| {
            format!("{e}: give an IP address and a port, such as 127.0.0.1:7460 or [::]:7460")
        })
    }
}

impl Value for Ipv4Net {
    fn parse(text: &str, _: &Setting) -> Result<Self, String> {
        let net: Self =
            text.parse().map_err(|e| format!("{e}: give an IPv4 CIDR such as 10.64.0.0/12"))?;
        if net != net.trunc() {
            return Err(format!("the network of this address is {}: give that", net.trunc()));
        }
        Ok(net)
    }
}

impl Value for Vec<IpNet> {
    fn parse(text: &str, _: &Setting) -> Result<Self, String> {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        let net = |item: &str| {
            // One address is a net of its own.
            let single = || item.parse().ok().map(|address: std::net::IpAddr| address.into());
            item.parse().ok().or_else(single).ok_or_else(|| {
                format!("{item} is no CIDR: give some such as 10.0.0.0/8, 2001:db8::/32")
            })
        };
        items.map(net).collect()
    }
}

impl Value for PathBuf {
    fn parse(text: &str, _: &Setting) -> Result<Self, String> {
        // libvirt and PostgreSQL run in other directories than we do.
        std::path::absolute(text).map_err(|e| format!("{e}: give an absolute path"))
    }
}

impl Value for Secret {
    fn parse(text: &str, _: &Setting) -> Result<Self, String> {
        Ok(Self::new(text))
    }
}

impl Value for String {
    fn parse(text: &str, setting: &Setting) -> Result<Self, String> {
        one_of(text, setting)?;
        Ok(text.into())
    }
}

impl Value for LogFormat {
    fn parse(text: &str, setting: &Setting) -> Result<Self, String> {
        one_of(text, setting)?;
        Ok(if text == "json" { Self::Json } else { Self::Text })
    }
}

impl Value for VirtType {
    fn parse(text: &str, setting: &Setting) -> Result<Self, String> {
        one_of(text, setting)?;
        serde_json::from_value(text.into()).map_err(|e| e.to_string())
    }
}

impl<T: Value> Value for Option<T> {
    fn parse(text: &str, setting: &Setting) -> Result<Self, String> {
        if text.is_empty() { Ok(None) } else { T::parse(text, setting).map(Some) }
    }
}

fn one_of(text: &str, setting: &Setting) -> Result<(), String> {
    if setting.words.is_empty() || setting.words.contains(&text) {
        return Ok(());
    }
    Err(format!("give one of {}", setting.words.join(", ")))
}
