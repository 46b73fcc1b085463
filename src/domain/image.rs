//! Images: bootable disks, content-addressed by SHA-256.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::{Error, FieldError, Result};
use super::flavor::{Trait, check_traits};
use super::id::{ImageId, TenantId};
use super::text::{self, Labels, Name};

/// Longest description, in characters.
pub const DESCRIPTION_MAX: usize = 1000;

/// Format of an image's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum ImageFormat {
    Raw,
    Qcow2,
}

impl ImageFormat {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// Who may use an image.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Visibility {
    /// Its tenant.
    #[default]
    Private,
    /// Every tenant. Admins alone publish: a public image's name is found by all, so that a tenant that could publish could
    /// pass its own image off as another's.
    Public,
}

/// How far an image came: computed from its data and its end, never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum ImageStatus {
    /// `PUT /v1/images/{id}/data` is due.
    AwaitingData,
    /// Instances can be made of it.
    Ready,
    /// Deleted, and kept for the instances that still use it; no new ones can be made.
    Deleting,
}

/// A bootable disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, sqlx::FromRow, ToSchema)]
pub struct Image {
    pub id: ImageId,
    /// Whose it is; null where that is another tenant than yours.
    pub tenant_id: Option<TenantId>,
    /// Not unique: where two images share it, instances name the id.
    pub name: Name,
    #[schema(max_length = 1000, example = "Debian 13, cloud kernel")]
    pub description: String,
    #[schema(value_type = std::collections::BTreeMap<String, String>, example = json!({"os": "debian"}))]
    #[sqlx(json)]
    pub labels: Labels,
    /// What the host of its instances must offer, beside what their flavors and they themselves ask for.
    #[schema(value_type = std::collections::HashSet<Trait>, max_items = 32, example = json!(["arch:x86_64"]))]
    #[serde(default)]
    pub required_traits: Vec<String>,
    pub visibility: Visibility,
    pub format: ImageFormat,
    pub status: ImageStatus,
    /// What its creator said that the checksum would be.
    #[schema(min_length = 64, max_length = 64)]
    pub expected_sha256: Option<String>,
    /// SHA-256 of the bytes, in lower-case hex; null until they have come.
    #[schema(min_length = 64, max_length = 64)]
    pub sha256: Option<String>,
    /// Bytes in the file.
    #[schema(minimum = 1, example = 31457280)]
    pub size_bytes: Option<i64>,
    /// Bytes of the disk that a guest sees: a flavor's disk must be at least as large.
    #[schema(minimum = 1, example = 1073741824)]
    pub virtual_bytes: Option<i64>,
    /// How often in a row it was worked on in vain.
    #[serde(default)]
    #[schema(minimum = 0, example = 0)]
    pub attempts: i64,
    /// What went wrong at the last of these attempts; null where none was in vain.
    #[serde(default)]
    #[schema(max_length = 10000)]
    pub last_error: Option<String>,
    /// When it is looked at next; null: at no set time.
    #[serde(default)]
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// Since when it has failed so often, or for so long, that somebody should look at it.
    #[serde(default)]
    pub stalled_since: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    /// Counts changes; also the ETag.
    #[schema(minimum = 1, example = 1)]
    pub revision: i64,
}

impl Image {
    /// Bytes in the file, once they have come.
    pub fn size(&self) -> Option<u64> {
        self.size_bytes.and_then(|bytes| bytes.try_into().ok())
    }
}

/// What a new image is made of. Its bytes follow with `PUT /v1/images/{id}/data`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewImage {
    /// 1 to 63 letters, digits, '.', '_', '-' or spaces. Need not be unique.
    #[schema(min_length = 1, max_length = 63, example = "debian-13")]
    pub name: String,
    /// What the bytes will be; checked when they come.
    pub format: ImageFormat,
    /// `private` if not given; `public` is for admins.
    #[serde(default)]
    pub visibility: Visibility,
    /// The checksum that the bytes must have: 64 hex digits in lower case. Null: any.
    #[serde(default)]
    #[schema(min_length = 64, max_length = 64, pattern = "^[0-9a-f]{64}$")]
    pub sha256: Option<String>,
    /// Up to 1000 characters.
    #[serde(default)]
    #[schema(max_length = 1000, example = "Debian 13, cloud kernel")]
    pub description: String,
    /// Up to 32 pairs.
    #[serde(default)]
    #[schema(value_type = std::collections::BTreeMap<String, String>, example = json!({"os": "debian"}))]
    pub labels: Labels,
    /// What the host of its instances must offer, such as an architecture. Up to 32.
    #[serde(default)]
    #[schema(value_type = std::collections::HashSet<Trait>, max_items = 32, example = json!(["arch:x86_64"]))]
    pub required_traits: Vec<String>,
}

impl NewImage {
    /// Every bound, every field at fault at once.
    pub fn check(&self) -> Result<Name> {
        let mut faults = Vec::new();
        let name = kept(&mut faults, Name::parse("/name", &self.name))?;
        let fits = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        if let Some(sum) = &self.sha256
            && !(sum.len() == 64 && sum.chars().all(fits))
        {
            let detail = "must be a SHA-256: 64 hex digits in lower case, as sha256sum prints it";
            faults.push(FieldError { pointer: "/sha256".into(), detail: detail.into() });
        }
        kept(&mut faults, text::check_text("/description", &self.description, DESCRIPTION_MAX))?;
        kept(&mut faults, text::check_labels("/labels", &self.labels))?;
        kept(&mut faults, check_traits("/required_traits", &self.required_traits))?;
        name.filter(|_| faults.is_empty()).ok_or(Error::Invalid(faults))
    }
}

/// What changes of an image; what is not given stays.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImagePatch {
    /// 1 to 63 letters, digits, '.', '_', '-' or spaces.
    #[schema(min_length = 1, max_length = 63, example = "debian-13")]
    pub name: Option<String>,
    /// Up to 1000 characters.
    #[schema(max_length = 1000, example = "superseded")]
    pub description: Option<String>,
    /// Replaces all labels.
    #[schema(value_type = Option<std::collections::BTreeMap<String, String>>)]
    pub labels: Option<Labels>,
    /// Replaces all of them, for instances that are made from then on.
    #[schema(value_type = Option<std::collections::HashSet<Trait>>, max_items = 32)]
    pub required_traits: Option<Vec<String>>,
    /// `public` is for admins.
    pub visibility: Option<Visibility>,
}

impl ImagePatch {
    /// Every bound, every field at fault at once; gives the new name, if there is one.
    pub fn check(&self) -> Result<Option<Name>> {
        let mut faults = Vec::new();
        let name = self.name.as_deref().map(|name| Name::parse("/name", name)).transpose();
        let name = kept(&mut faults, name)?;
        if let Some(text) = &self.description {
            kept(&mut faults, text::check_text("/description", text, DESCRIPTION_MAX))?;
        }
        if let Some(labels) = &self.labels {
            kept(&mut faults, text::check_labels("/labels", labels))?;
        }
        if let Some(traits) = &self.required_traits {
            kept(&mut faults, check_traits("/required_traits", traits))?;
        }
        name.filter(|_| faults.is_empty()).ok_or(Error::Invalid(faults))
    }
}

/// Which images a list shows.
#[derive(Debug, Clone, Default)]
pub struct ImageFilter {
    pub name: Option<String>,
    /// Each pair must be there.
    pub labels: Labels,
    pub visibility: Option<Visibility>,
    pub status: Option<ImageStatus>,
}

/// Gathers the fields at fault of one check, so that all checks are made.
fn kept<T>(faults: &mut Vec<FieldError>, checked: Result<T>) -> Result<Option<T>> {
    match checked {
        Ok(value) => Ok(Some(value)),
        Err(Error::Invalid(more)) => {
            faults.extend(more);
            Ok(None)
        }
        Err(other) => Err(other),
    }
}

/// Bytes that passed the gate, kept once however many images name them.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Blob {
    /// Lower-case hex.
    pub sha256: String,
    pub format: ImageFormat,
    pub size_bytes: i64,
    pub virtual_bytes: i64,
}

/// Where the bytes of a blob lie: `<image_dir>/<sha256>`.
pub fn path(image_dir: &Path, sha256: &str) -> PathBuf {
    image_dir.join(sha256)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_at_fault_is_named_at_once() {
        let bad = NewImage {
            name: "🦀".into(),
            format: ImageFormat::Raw,
            visibility: Visibility::Private,
            sha256: Some("AB".repeat(32)),
            description: "\0".into(),
            labels: [("a b".into(), String::new())].into(),
            required_traits: vec!["A".into()],
        };
        let Err(Error::Invalid(faults)) = bad.check() else { panic!("accepted") };
        let pointers: Vec<_> = faults.iter().map(|f| f.pointer.as_str()).collect();
        assert_eq!(
            pointers,
            ["/name", "/sha256", "/description", "/labels/a b", "/required_traits/0"]
        );
    }

    #[test]
    fn a_change_may_be_empty_and_not_unsound() {
        assert!(ImagePatch::default().check().unwrap().is_none());
        let bad = ImagePatch { name: Some(String::new()), ..ImagePatch::default() };
        assert!(bad.check().is_err_and(|e| e.to_string().contains("/name")));
    }
}
