//! The proof of who asks: what a registry demands in its 401, and the token that a login is exchanged for
//! (distribution, docs/spec/auth; RFC 7617 for Basic).

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_auth::ChallengeRef;
use http_auth::parser::ChallengeParser;
use oci_distribution::token_cache::RegistryToken;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Method, Request, Response, StatusCode, Url};

use super::super::{Found, Login};
use super::client::{Ask, Http, Trouble};
use super::endpoint::Endpoint;
use super::refused::{Kind, Refused, said};
use super::{Error, after};
use crate::escaped;

/// An answer of a token server may have this many bytes.
const TOKEN_LIMIT: u64 = 1 << 20;

/// What an endpoint has been shown, and what it was made of.
#[derive(Default)]
pub(super) struct Session {
    authorization: Option<HeaderValue>,
    /// For messages to be searched for.
    secrets: Vec<String>,
    /// Where logins were looked for.
    tried: Vec<String>,
}

fn session(endpoint: &Endpoint) -> MutexGuard<'_, Session> {
    endpoint.session.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is to be sent now: nothing, until the registry demands it.
pub(super) fn current(endpoint: &Endpoint) -> Option<HeaderValue> {
    session(endpoint).authorization.clone()
}

/// What no message may have.
pub(super) fn secrets(endpoint: &Endpoint) -> Vec<String> {
    session(endpoint).secrets.clone()
}

/// Where logins were looked for, as a hint.
pub(super) fn tried(endpoint: &Endpoint) -> Vec<String> {
    session(endpoint).hints()
}

impl Session {
    fn hints(&self) -> Vec<String> {
        let tried = self.tried.join("; ");
        if tried.is_empty() { Vec::new() } else { vec![format!("logins were looked for: {tried}")] }
    }

    fn refused(&self, ask: &Ask<'_>, why: String) -> Trouble {
        Error::from(Refused { hints: self.hints(), ..ask.refused(Kind::Auth, why) }).into()
    }
}

/// Gets what the 401 in `response` demands, in place of what was `used`. Of several threads, one does it for all.
pub(super) fn renew(http: &Http, ask: &Ask<'_>, response: &Response, used: Option<HeaderValue>) -> Result<(), Trouble> {
    let mut session = session(ask.endpoint);
    if session.authorization != used {
        return Ok(());
    }
    let (credentials, host) = (&http.credentials, &ask.endpoint.host);
    let Found { login, tried } = if ask.endpoint.mirror {
        credentials.lookup_places(host, &ask.endpoint.repository)?
    } else {
        credentials.lookup(host, &ask.endpoint.repository)?
    };
    session.tried = tried;
    let challenge = Challenge::of(response.headers());
    let (value, secrets) = match (challenge, login) {
        (None, _) => {
            return Err(session.refused(ask, format!("HTTP {}, and no demand that is known", response.status())));
        }
        (Some(Challenge::Basic), Login::Basic { user, password }) => basic(&user, password.expose()),
        (Some(Challenge::Basic), Login::Anonymous) => {
            return Err(session.refused(ask, format!("HTTP {}: it demands a user and a password", response.status())));
        }
        (Some(Challenge::Basic), Login::IdentityToken(_)) => {
            let why = "it demands a user and a password, and the login is an identity token";
            return Err(session.refused(ask, why.to_owned()));
        }
        (Some(Challenge::Bearer(bearer)), login) => {
            let secure = response.url().scheme() == "https";
            Exchange { http, ask, session: &session, secure }.token(&bearer, &login)?
        }
    };
    let header = HeaderValue::from_str(&value);
    let mut header =
        header.map_err(|_| session.refused(ask, "the login or token has bytes that HTTP cannot carry".to_owned()))?;
    header.set_sensitive(true);
    session.secrets.extend(secrets.into_iter().filter(|secret| !secret.is_empty()));
    session.authorization = Some(header);
    Ok(())
}

/// The header's value, and what of it is secret.
fn basic(user: &str, password: &str) -> (String, Vec<String>) {
    let encoded = STANDARD.encode(format!("{user}:{password}"));
    (format!("Basic {encoded}"), vec![encoded, password.to_owned()])
}

/// What a registry demands.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer(Bearer),
}

/// Where a token is had, and for what.
#[derive(Debug, PartialEq, Eq)]
struct Bearer {
    realm: String,
    service: Option<String>,
    scope: Option<String>,
}

impl Challenge {
    /// The strongest that is understood, of all headers.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let texts: Vec<&str> =
            headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()).collect();
        let all: Vec<ChallengeRef<'_>> =
            texts.iter().flat_map(|text| ChallengeParser::new(text).map_while(Result::ok)).collect();
        let bearer = all.iter().filter(|one| one.scheme.eq_ignore_ascii_case("bearer")).find_map(Bearer::of);
        let basic = || all.iter().any(|one| one.scheme.eq_ignore_ascii_case("basic")).then_some(Self::Basic);
        bearer.map(Self::Bearer).or_else(basic)
    }
}

impl Bearer {
    fn of(challenge: &ChallengeRef<'_>) -> Option<Self> {
        let value = |name: &str| {
            let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.to_unescaped())
        };
        Some(Self { realm: value("realm")?, service: value("service"), scope: value("scope") })
    }
}

/// A login for a token.
struct Exchange<'a> {
    http: &'a Http,
    ask: &'a Ask<'a>,
    session: &'a Session,
    /// Whether the registry itself was asked by TLS: then its token server is, too.
    secure: bool,
}

impl Exchange<'_> {
    /// The header's value, and what is secret.
    fn token(&self, bearer: &Bearer, login: &Login) -> Result<(String, Vec<String>), Trouble> {
        let realm = self.realm(bearer)?;
        let scope = self.scope(bearer);
        let mut query: Vec<(&str, &str)> = bearer.service.iter().map(|service| ("service", service.as_str())).collect();
        let mut secrets = Vec::new();
        let response = match login {
            Login::IdentityToken(token) => {
                secrets.push(token.expose().to_owned());
                query.extend([("scope", scope.as_str()), ("grant_type", "refresh_token"), ("client_id", "eif")]);
                self.post(realm, &[&query[..], &[("refresh_token", token.expose())]].concat())?
            }
            Login::Basic { user, password } => {
                let (value, parts) = basic(user, password.expose());
                secrets.extend(parts);
                query.extend(scope.split_ascii_whitespace().map(|scope| ("scope", scope)));
                query.push(("account", user));
                self.get(realm, &query, Some(value))?
            }
            Login::Anonymous => {
                query.extend(scope.split_ascii_whitespace().map(|scope| ("scope", scope)));
                self.get(realm, &query, None)?
            }
        };
        let token = self.read(response, &secrets)?;
        secrets.push(token.clone());
        Ok((format!("Bearer {token}"), secrets))
    }

    /// What the registry names; who will push asks for that right at once, and not anew for each kind of question.
    fn scope(&self, bearer: &Bearer) -> String {
        let own = format!("repository:{}:", self.ask.endpoint.repository);
        let asked = bearer.scope.clone().unwrap_or_else(|| format!("{own}pull"));
        if !self.ask.endpoint.push {
            return asked;
        }
        let others = asked.split_ascii_whitespace().filter(|one| !one.starts_with(&own));
        others.map(str::to_owned).chain([format!("{own}pull,push")]).collect::<Vec<_>>().join(" ")
    }

    fn realm(&self, bearer: &Bearer) -> Result<Url, Trouble> {
        let refuse = |why: &str| {
            let realm: String = bearer.realm.chars().take_while(|c| *c != '?').take(200).collect();
            self.session.refused(self.ask, format!("its token server is {}, {why}", escaped(realm.as_bytes())))
        };
        let url: Url = bearer.realm.parse().map_err(|_| refuse("which is no URL"))?;
        if !self.http.permits(&url) || (self.secure && url.scheme() != "https" && !self.http.network.insecure) {
            return Err(refuse("and a login goes by https alone"));
        }
        Ok(url)
    }

    fn get(&self, mut realm: Url, query: &[(&str, &str)], authorization: Option<String>) -> Result<Response, Trouble> {
        realm.query_pairs_mut().extend_pairs(query);
        let header = authorization.map(|value| HeaderValue::from_str(&value)).transpose();
        let header = header
            .map_err(|_| self.session.refused(self.ask, "the login has bytes that HTTP cannot carry".to_owned()))?;
        let header = header.map(|mut header| {
            header.set_sensitive(true);
            header
        });
        self.http.travel(self.ask, &Method::GET, realm, HeaderMap::new(), header.as_ref()).map(|answer| answer.response)
    }

    /// A form is sent to the token server itself and nowhere else.
    fn post(&self, realm: Url, form: &[(&str, &str)]) -> Result<Response, Trouble> {
        let mut encoded = realm.clone();
        encoded.query_pairs_mut().clear().extend_pairs(form);
        let mut request = Request::new(Method::POST, realm);
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers_mut().insert(CONTENT_TYPE, form);
        request.headers_mut().remove(AUTHORIZATION);
        *request.body_mut() = Some(encoded.query().unwrap_or_default().to_owned().into());
        self.http.send(self.ask, request)
    }

    fn read(&self, response: Response, secrets: &[String]) -> Result<String, Trouble> {
        let status = response.status();
        let wait = response.headers().get(RETRY_AFTER).and_then(after::pause);
        let host = escaped(response.url().host_str().unwrap_or_default().as_bytes());
        let body = self.http.body(self.ask, response, TOKEN_LIMIT)?;
        if status != StatusCode::OK {
            return Err(self.failed(status, &host, &body, wait, secrets));
        }
        let token: Result<RegistryToken, _> = serde_json::from_slice(&body);
        match token {
            Ok(token) if !token.token().is_empty() => Ok(token.token().to_owned()),
            _ => Err(self.session.refused(self.ask, format!("the token server {host} answered without a token"))),
        }
    }

    fn failed(
        &self,
        status: StatusCode,
        host: &str,
        body: &[u8],
        wait: Option<Duration>,
        secrets: &[String],
    ) -> Trouble {
        let words = said(body, secrets).map(|words| format!(": {words}")).unwrap_or_default();
        let why = format!("the token server {host} answered HTTP {status}{words}");
        match status.as_u16() {
            408 | 425 | 429 | 500..=599 => Trouble::Passing(self.ask.refused(Kind::Status, why), wait),
            _ => self.session.refused(self.ask, why),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn challenge(values: &[&'static str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(value));
        }
        Challenge::of(&headers)
    }

    proptest! {
        #[test]
        fn prop_any_demand_is_read_or_passed_over(text in "(Basic|Bearer|x)?[ -~]{0,60}") {
            let mut headers = HeaderMap::new();
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(&text).unwrap());
            if let Some(Challenge::Bearer(bearer)) = Challenge::of(&headers) {
                prop_assert!(text.to_ascii_lowercase().contains("realm") && bearer.realm.len() < text.len());
            }
        }
    }

    #[test]
    fn commas_in_quotes_and_several_challenges() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        let expected = || {
            Some(Challenge::Bearer(Bearer {
                realm: "https://auth.docker.io/token".to_owned(),
                service: Some("registry.docker.io".to_owned()),
                scope: Some("repository:a/b:pull,push".to_owned()),
            }))
        };
        assert_eq!(challenge(&[hub]), expected());
        assert_eq!(challenge(&[r#"Basic realm="x, y""#, hub]), expected());
        let one = r#"Basic realm="x", bearer service=registry.docker.io , realm="https://auth.docker.io/token",scope="repository:a/b:pull,push""#;
        assert_eq!(challenge(&[one]), expected());
        assert_eq!(challenge(&[r#"Basic realm="basic-realm""#]), Some(Challenge::Basic));
        assert_eq!(challenge(&["Negotiate"]), None);
        assert_eq!(challenge(&[r#"Bearer service="no realm""#]), None);
        assert_eq!(challenge(&[]), None);
    }
}
