//! How a registry's no, or its silence, is told: who, of what, which status, and its own words, but never a secret.

use std::fmt;

use crate::{Refusal, escaped};

/// What kind of refusal it is; each has a code of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Credentials are missing or were not taken.
    Auth,
    /// Any other answer that is not what was asked for.
    Status,
    /// No connection, or one that was cut each time.
    Connect,
    /// The certificate or the handshake.
    Tls,
    /// Nothing, or next to nothing, came for too long.
    Timeout,
    /// Bytes of another digest.
    Digest,
    /// More or fewer bytes than the manifest says.
    Size,
    /// The registry has the manifest but not this blob.
    MissingBlob,
}

/// A registry, or the way to it, did not give what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// What kind.
    pub kind: Kind,
    /// `HOST/REPOSITORY`, or the mirror's in its place.
    pub place: String,
    /// Manifest, config or layer, with its tag or digest.
    pub what: String,
    /// The cause.
    pub why: String,
    /// What more there is to say to whoever has to mend it.
    pub hints: Vec<String>,
}

impl Refused {
    /// Whether nobody answered at all.
    pub(super) fn is_silence(&self) -> bool {
        matches!(self.kind, Kind::Connect | Kind::Timeout | Kind::Tls)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.place, self.what, self.why)
    }
}

impl std::error::Error for Refused {}

impl Refusal for Refused {
    fn code(&self) -> &'static str {
        match self.kind {
            Kind::Auth => "E-registry-auth",
            Kind::Status => "E-registry-status",
            Kind::Connect => "E-registry-connect",
            Kind::Tls => "E-registry-tls",
            Kind::Timeout => "E-registry-timeout",
            Kind::Digest => "E-digest",
            Kind::Size => "E-size",
            Kind::MissingBlob => "E-missing-blob",
        }
    }

    fn help(&self) -> Vec<String> {
        let general = match self.kind {
            Kind::Auth => {
                "check the name, since many registries say this of what they lack; log in with `podman login` or \
                 `docker login`, or pass --creds or --authfile"
            }
            Kind::Status => "check the name, and that the registry is well",
            Kind::Connect => "check the name and the network; HTTPS_PROXY and NO_PROXY are honoured",
            Kind::Tls => "name the certificate of its authority with --tls-ca, or trust anyone with --insecure",
            Kind::Timeout => "try again: what has come is kept, and only the rest is fetched",
            Kind::Digest | Kind::Size => "the registry, a mirror or a proxy gives wrong bytes; try another",
            Kind::MissingBlob => "the registry's copy of the image is incomplete; push it again",
        };
        self.hints.iter().cloned().chain([general.to_owned()]).collect()
    }
}

/// Characters of a registry's own words that a message may have.
const WORDS: usize = 200;

/// What the body of an answer says, on one line and bounded: `CODE: message` of the distribution specification's
/// error object, else nothing. An answer that repeats one of `secrets` is not repeated.
pub(super) fn said(body: &[u8], secrets: &[String]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    let first = value.pointer("/errors/0").unwrap_or(&value);
    let text = |names: [&str; 2]| names.iter().find_map(|name| first.get(name)?.as_str()).filter(|t| !t.is_empty());
    let words: Vec<&str> =
        [text(["code", "error"]), text(["message", "error_description"])].into_iter().flatten().collect();
    let words = words.join(": ");
    let told = secrets.iter().any(|secret| words.contains(secret.as_str()));
    (!words.is_empty() && !told).then(|| escaped(words.chars().take(WORDS).collect::<String>().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registrys_words_are_bounded_escaped_and_without_secrets() {
        let body = br#"{"errors":[{"code":"DENIED","message":"no\n\u001b[31mentry","detail":{}}]}"#;
        assert_eq!(said(body, &[]).unwrap(), r"DENIED: no\x0a\x1b[31mentry");
        assert_eq!(
            said(br#"{"error":"invalid_grant","error_description":"gone"}"#, &[]).unwrap(),
            "invalid_grant: gone"
        );
        assert_eq!(said(br#"{"errors":[{"message":"your token abc123 is old"}]}"#, &["abc123".to_owned()]), None);
        let long = format!(r#"{{"errors":[{{"code":"X","message":"{}"}}]}}"#, "é".repeat(9000));
        assert_eq!(said(long.as_bytes(), &[]).unwrap().chars().count(), WORDS);
        for nothing in [&b""[..], b"<html>", b"{}", b"[]", br#"{"errors":[]}"#, br#"{"errors":"x"}"#] {
            assert_eq!(said(nothing, &[]), None);
        }
    }
}
