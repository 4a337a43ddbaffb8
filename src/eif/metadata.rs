//! The metadata section: AWS's JSON object, with our record inside it. Nothing in it is measured.
//!
//! AWS's reader demands all five keys. `nitro-cli describe-eif` prints the members of `CustomMetadata` beside those of
//! `BuildMetadata`, so the user's own keys (`--metadata FILE.json`) stay at the top of `CustomMetadata`, where tools
//! that read them with nitro-cli look; our record is one more member there, `eif`.
//! Source of the facts: `EifIdentityInfo` and `EifBuildInfo` of AWS's `aws-nitro-enclaves-image-format` 0.8.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Error, MAX_METADATA};

/// `ImageName` where none is given. Never the image's reference: the file is the same from every transport.
pub const DEFAULT_NAME: &str = "enclave";
/// `ImageVersion` where none is given.
pub const DEFAULT_VERSION: &str = "0";
/// The member of `CustomMetadata` that is ours.
pub const RECORD_KEY: &str = "eif";
/// The last second of the year 9999, the end of RFC 3339.
const LAST_SECOND: u64 = 253_402_300_799;

/// AWS's object, in AWS's order of keys. Unknown keys are ignored when it is read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// A name for people.
    #[serde(rename = "ImageName")]
    pub image_name: String,
    /// A version for people.
    #[serde(rename = "ImageVersion")]
    pub image_version: String,
    /// When and by what the file was built.
    #[serde(rename = "BuildMetadata")]
    pub build: BuildMetadata,
    /// `null` from us, the output of `docker inspect` from nitro-cli.
    #[serde(rename = "DockerInfo")]
    pub docker_info: Value,
    /// The user's object, and our record in its member `eif`.
    #[serde(rename = "CustomMetadata")]
    pub custom: Value,
}

/// The inner object `BuildMetadata`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildMetadata {
    /// RFC 3339.
    #[serde(rename = "BuildTime")]
    pub time: String,
    /// `eif` from us.
    #[serde(rename = "BuildTool")]
    pub tool: String,
    /// The tool's version.
    #[serde(rename = "BuildToolVersion")]
    pub tool_version: String,
    /// `Linux`.
    #[serde(rename = "OperatingSystem")]
    pub operating_system: String,
    /// The kernel's version, or `Unknown`.
    #[serde(rename = "KernelVersion")]
    pub kernel_version: String,
}

/// What a build knows when it writes the section.
#[derive(Debug, Clone, Default)]
pub struct Facts<'a> {
    /// `--name`; [`DEFAULT_NAME`] without.
    pub name: Option<&'a str>,
    /// `--image-version`; [`DEFAULT_VERSION`] without.
    pub version: Option<&'a str>,
    /// SOURCE_DATE_EPOCH: seconds since 1970; 0 without.
    pub epoch: Option<u64>,
    /// As the kernel's own header has it; `Unknown` without.
    pub kernel_version: Option<&'a str>,
    /// The user's object, `--metadata FILE.json`.
    pub custom: Option<Value>,
    /// Our record.
    pub record: Value,
}

impl Metadata {
    /// The object that a build of ours carries.
    ///
    /// # Errors
    /// A user's value that is no object or has the key `eif`; a time after the year 9999.
    pub fn new(facts: Facts<'_>) -> Result<Self, Error> {
        Ok(Self {
            image_name: facts.name.unwrap_or(DEFAULT_NAME).to_owned(),
            image_version: facts.version.unwrap_or(DEFAULT_VERSION).to_owned(),
            build: BuildMetadata {
                time: rfc3339(facts.epoch.unwrap_or(0))?,
                tool: "eif".to_owned(),
                tool_version: env!("CARGO_PKG_VERSION").to_owned(),
                operating_system: "Linux".to_owned(),
                kernel_version: facts.kernel_version.unwrap_or("Unknown").to_owned(),
            },
            docker_info: Value::Null,
            custom: custom(facts.custom, facts.record)?,
        })
    }

    /// Our record, if the file is one of ours.
    pub fn record(&self) -> Option<&Value> {
        self.custom.get(RECORD_KEY)
    }

    /// The section's bytes: compact, keys of the inner values in byte order.
    ///
    /// # Errors
    /// Metadata too large to be read again.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        let sorted =
            Self { docker_info: sorted(self.docker_info.clone()), custom: sorted(self.custom.clone()), ..self.clone() };
        let bytes = serde_json::to_vec(&sorted).map_err(|error| Error::Metadata(format!("the metadata: {error}")))?;
        match bytes.len() as u64 {
            size if size > MAX_METADATA => Err(Error::TooLarge { what: "the metadata", size, limit: MAX_METADATA }),
            _ => Ok(bytes),
        }
    }

    /// Reads the section's bytes.
    ///
    /// # Errors
    /// The JSON reader's words: no JSON, a key that is missing, a value of another type.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

fn custom(user: Option<Value>, record: Value) -> Result<Value, Error> {
    let mut object = match user {
        None => Map::new(),
        Some(Value::Object(object)) => object,
        Some(other) => {
            return Err(Error::Metadata(format!("the metadata given is no JSON object but {}", name(&other))));
        }
    };
    if object.insert(RECORD_KEY.to_owned(), record).is_some() {
        return Err(Error::Metadata(format!("the metadata given has the key `{RECORD_KEY}`, which is ours")));
    }
    Ok(Value::Object(object))
}

fn name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Keys in byte order at each level, whatever map serde_json was built with: the order is no accident of another
/// crate's features.
pub(crate) fn sorted(value: Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        Value::Object(object) => {
            let mut members: Vec<(String, Value)> =
                object.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            members.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(members.into_iter().collect())
        }
        other => other,
    }
}

/// Seconds since 1970 as `YYYY-MM-DDThh:mm:ssZ`.
///
/// # Errors
/// A time after the year 9999.
pub fn rfc3339(epoch: u64) -> Result<String, Error> {
    if epoch > LAST_SECOND {
        return Err(Error::Time(epoch));
    }
    let (days, second) = (epoch / 86_400, epoch % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    Ok(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"))
}

/// The reverse of [`rfc3339`]: seconds since 1970 of a time in that form; `None` for any other text.
pub fn epoch(text: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<u64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    // The days of a year are 365 or 366: what is left is looked for.
    let first = year.checked_sub(1970)?.checked_mul(365)?;
    let date = (year, month, day);
    let day = (first..first.checked_add(2500)?).find(|day| civil(*day) == date)?;
    let epoch = day.checked_mul(86_400)?.checked_add(hour * 3600 + minute * 60 + second)?;
    (rfc3339(epoch).ok()? == text).then_some(epoch)
}

/// The Gregorian date of a day since 1970-01-01. Years are counted from 1 March, so that a leap day is a year's last.
fn civil(days: u64) -> (u64, u64, u64) {
    const FROM_0000_03_01: u64 = 719_468;
    const CENTURIES_4: u64 = 146_097;
    let days = days + FROM_0000_03_01;
    let (era, day_of_era) = (days / CENTURIES_4, days % CENTURIES_4);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Refusal;
    use serde_json::json;

    /// From `date -u -d @N +%FT%TZ`.
    #[test]
    fn times_are_dates_of_gnu_date() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_709_210_096, "2024-02-29T12:34:56Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(seconds).unwrap(), text);
            assert_eq!(epoch(text), Some(seconds));
        }
        for text in ["", "1970-01-01", "1969-12-31T23:59:59Z", "2023-02-29T00:00:00Z", "1970-01-01T24:00:00Z"] {
            assert_eq!(epoch(text), None, "{text}");
        }
        assert_eq!(epoch("1970-01-01T00:00:00+01"), None);
        assert_eq!(rfc3339(253_402_300_800).unwrap_err().code(), "E-eif-time");
        assert!(rfc3339(u64::MAX).is_err());
    }

    /// Counts days one by one for all of RFC 3339's years: the arithmetic has no other judge for each day.
    #[test]
    fn every_day_follows_the_day_before() {
        let mut expected = (1970, 1, 1);
        for day in 0..=LAST_SECOND / 86_400 {
            assert_eq!(civil(day), expected, "day {day}");
            expected = next_day(expected);
        }
        assert_eq!(expected, (10_000, 1, 1));
    }

    fn next_day((year, month, day): (u64, u64, u64)) -> (u64, u64, u64) {
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let length = match month {
            2 => 28 + u64::from(leap),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        match (day == length, month == 12) {
            (false, _) => (year, month, day + 1),
            (true, false) => (year, month + 1, 1),
            (true, true) => (year + 1, 1, 1),
        }
    }

    #[test]
    fn the_bytes_are_known() {
        let facts = Facts {
            kernel_version: Some("6.12.117"),
            custom: Some(json!({"zeta": 1, "alpha": {"b": [], "a": 0.5}})),
            record: json!({"b": "2", "a": 1}),
            ..Facts::default()
        };
        let bytes = Metadata::new(facts).unwrap().to_bytes().unwrap();
        let version = env!("CARGO_PKG_VERSION");
        let expected = [
            r#"{"ImageName":"enclave","ImageVersion":"0","BuildMetadata":{"BuildTime":"1970-01-01T00:00:00Z","#,
            &format!(r#""BuildTool":"eif","BuildToolVersion":"{version}","OperatingSystem":"Linux","#),
            r#""KernelVersion":"6.12.117"},"DockerInfo":null,"#,
            r#""CustomMetadata":{"alpha":{"a":0.5,"b":[]},"eif":{"a":1,"b":"2"},"zeta":1}}"#,
        ];
        assert_eq!(String::from_utf8(bytes).unwrap(), expected.concat());
    }

    #[test]
    fn a_record_is_read_back() {
        let metadata = Metadata::new(Facts { record: json!({"process": []}), ..Facts::default() }).unwrap();
        let read = Metadata::from_bytes(&metadata.to_bytes().unwrap()).unwrap();
        assert_eq!(read, metadata);
        assert_eq!(read.record(), Some(&json!({"process": []})));
    }

    #[test]
    fn a_users_object_must_be_one_and_leave_our_key() {
        for custom in [json!([1]), json!(null), json!({"eif": {}})] {
            let error = Metadata::new(Facts { custom: Some(custom), ..Facts::default() }).unwrap_err();
            assert_eq!(error.code(), "E-eif-metadata", "{error}");
        }
    }
}
