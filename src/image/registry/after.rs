//! How long a registry asks to be left alone: the header Retry-After (RFC 9110, 10.2.3).

use std::time::{Duration, SystemTime};

use reqwest::header::HeaderValue;
use x509_cert::der::DateTime;

/// The pause from now on; `None` when the header is in no form that the standard knows.
pub(super) fn pause(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    Some(date(text)?.saturating_sub(now()))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`, the one form of a date that may be sent, as time since 1970.
fn date(text: &str) -> Option<Duration> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let [_, day, month, year, time, "GMT"] = words.as_slice() else { return None };
    let month = (1_u8..).zip(MONTHS).find(|(_, name)| name == month)?.0;
    let clock: Vec<u8> = time.split(':').map(str::parse).collect::<Result<_, _>>().ok()?;
    let [hour, minute, second] = clock.as_slice() else { return None };
    let date = DateTime::new(year.parse().ok()?, month, day.parse().ok()?, *hour, *minute, *second);
    date.ok().map(|date| date.unix_duration())
}

#[expect(clippy::disallowed_methods, reason = "a pause until a date begins now; no result depends on it")]
fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates() {
        let pause = |text: &str| pause(&HeaderValue::from_str(text).unwrap());
        assert_eq!(pause("7"), Some(Duration::from_secs(7)));
        assert_eq!(pause("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert_eq!(date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(784_111_777)));
        assert!(pause("Fri, 06 Nov 2099 08:49:37 GMT").unwrap() > Duration::from_secs(1 << 30));
        for bad in ["", "-1", "soon", "Sun, 06 Nov 1994 08:49 GMT", "Sun, 99 Nov 1994 08:49:37 GMT", "1.5"] {
            assert_eq!(pause(bad), None, "{bad}");
        }
    }
}
