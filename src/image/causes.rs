//! Why a request failed: what lies below the errors of the HTTP client.

use std::error::Error as Cause;

use crate::escaped;

/// The causes down to the innermost, without the error itself: that repeats the URL, whose query may be a secret.
pub(super) fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn Cause + 'static)> {
    std::iter::successors(below(error), |cause| below(*cause))
}

/// The next cause. An I/O error made of another one skips that in its own list.
fn below<'a>(error: &'a (dyn Cause + 'static)) -> Option<&'a (dyn Cause + 'static)> {
    match error.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref()) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

/// The innermost cause, on one line.
pub(super) fn innermost(error: &reqwest::Error) -> String {
    let words = causes(error).last().map(ToString::to_string);
    words.map_or_else(|| "the request failed".to_owned(), |words| escaped(words.as_bytes()))
}

/// The fault of TLS among the causes.
pub(super) fn tls(error: &reqwest::Error) -> Option<&rustls::Error> {
    causes(error).find_map(|cause| cause.downcast_ref())
}
