//! Bounds of query parameters, held while they are read: `#[serde(default, deserialize_with = "bounds::text::<63, _>")]`.

use serde::de::{Deserialize, Deserializer, Error};

/// Up to `MOST` characters.
pub fn text<'de, const MOST: usize, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    let length = text.as_ref().map_or(0, |text| text.chars().count());
    if length > MOST {
        return Err(D::Error::custom(format!("may have up to {MOST} characters, has {length}")));
    }
    Ok(text)
}

/// 0 to `MOST`.
pub fn number<'de, const MOST: u32, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u32>, D::Error> {
    let number = Option::<u32>::deserialize(deserializer)?;
    if number.is_some_and(|number| number > MOST) {
        return Err(D::Error::custom(format!("must be 0 to {MOST}")));
    }
    Ok(number)
}

/// 0 to the most that the document's `int64` holds.
pub fn natural<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let number = u64::deserialize(deserializer)?;
    if i64::try_from(number).is_err() {
        return Err(D::Error::custom(format!("must be 0 to {}", i64::MAX)));
    }
    Ok(number)
}
