//! The statements of a policy that somebody wrote: what IAM's grammar says of them, as far as [`super::lint`] asks.
//!
//! Source of the facts: the IAM user guide, "IAM JSON policy elements reference".

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use serde_json::{Map, Value};

use super::json;
use super::policy::Register;
use crate::Refusal;

/// The most bytes of a policy that are read; KMS takes 32 KiB.
pub const MAX_SIZE: usize = 1024 * 1024;

/// Why a policy cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// More bytes than any policy has.
    #[error("the policy has more than {MAX_SIZE} bytes")]
    TooLarge,
    /// No JSON, or a key that is there twice.
    #[error("the policy is no JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// JSON of another shape.
    #[error("{place}: {why}")]
    Shape {
        /// Which statement, or `the policy`.
        place: String,
        /// What is wrong.
        why: String,
    },
}

impl Refusal for Error {
    fn code(&self) -> &'static str {
        match self {
            Error::TooLarge => "E-policy-size",
            Error::Json(_) => "E-policy-json",
            Error::Shape { .. } => "E-policy-shape",
        }
    }

    fn help(&self) -> Vec<String> {
        let forms = "taken are a policy, a statement, a list of them, and what `aws kms get-key-policy` prints";
        vec![forms.to_owned()]
    }
}

/// Who may, or may not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Principals {
    /// No such element: an identity policy.
    Identity,
    /// `*`.
    Anyone,
    /// These, as they stand.
    Named(Vec<String>),
    /// `NotPrincipal`: everybody else.
    AllBut(Vec<String>),
}

impl Principals {
    /// Whether it certainly has everybody whom the other has.
    pub fn cover(&self, others: &Self) -> bool {
        match (self, others) {
            (Principals::Anyone | Principals::Identity, _) => true,
            (Principals::Named(all), Principals::Named(some)) => some.iter().all(|name| all.contains(name)),
            (Principals::AllBut(left), Principals::Named(some)) => !some.iter().any(|name| left.contains(name)),
            (Principals::AllBut(left), Principals::AllBut(more)) => left.iter().all(|name| more.contains(name)),
            _ => false,
        }
    }

    /// Whether it is everybody, or everybody but some.
    pub fn are_open(&self) -> bool {
        matches!(self, Principals::Anyone | Principals::AllBut(_))
    }

    /// Whether all of them are accounts, so that the accounts' own policies decide.
    pub fn are_accounts(&self) -> bool {
        let account = |name: &String| {
            name.ends_with(":root") || (name.len() == 12 && name.bytes().all(|byte| byte.is_ascii_digit()))
        };
        matches!(self, Principals::Named(names) if !names.is_empty() && names.iter().all(account))
    }
}

/// Which keys: patterns of ARNs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resources {
    patterns: Vec<String>,
    /// Whether they are those of `NotResource`.
    all_but: bool,
}

fn is_literal(pattern: &str) -> bool {
    !pattern.contains(['*', '?'])
}

impl Resources {
    /// Whether no key is meant.
    pub fn are_none(&self) -> bool {
        let everything = self.patterns.iter().any(|pattern| !pattern.is_empty() && pattern.bytes().all(|b| b == b'*'));
        if self.all_but { everything } else { self.patterns.is_empty() }
    }

    /// Whether a text of the other's is certainly among them; a pattern is one of its texts, since `*` takes `*`.
    fn take(&self, other: &str) -> bool {
        let taken = |pattern: &String| matches(pattern, other) && (is_literal(other) || !pattern.contains('?'));
        if self.all_but {
            is_literal(other) && !self.patterns.iter().any(taken)
        } else {
            self.patterns.iter().any(taken)
        }
    }

    /// Whether it certainly has every key that the other has.
    pub fn cover(&self, others: &Self) -> bool {
        match (self.all_but, others.all_but) {
            (_, false) => others.patterns.iter().all(|other| self.take(other)),
            (true, true) => self == others,
            (false, true) => self.take("*"),
        }
    }

    /// Whether both may mean the same key: not if all that is named is different.
    pub fn meet(&self, others: &Self) -> bool {
        let apart = |one: &str, other: &str| {
            let both = is_literal(one) && is_literal(other);
            if both {
                one != other
            } else {
                is_literal(one) && !matches(other, one) || is_literal(other) && !matches(one, other)
            }
        };
        match (self.all_but, others.all_but) {
            (false, false) => self.patterns.iter().any(|one| others.patterns.iter().any(|other| !apart(one, other))),
            (false, true) => self.patterns.iter().any(|one| !is_literal(one) || others.take(one)),
            (true, false) => others.meet(self),
            (true, true) => true,
        }
    }
}

/// One line of a condition block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Condition {
    pub operator: String,
    pub key: String,
    pub values: Vec<String>,
}

/// What a condition key is, for an enclave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Register(Register),
    NitroTpm,
    /// Meant to be one of them, but is none.
    Misspelt,
    /// Of something else.
    Other,
}

impl Condition {
    /// Names of condition keys have no case.
    pub fn kind(&self) -> Key {
        let key = self.key.to_ascii_lowercase();
        let index = |digits: &str| digits.parse().ok().filter(|index: &u8| *index < 32 && index.to_string() == digits);
        match key.strip_prefix("kms:recipientattestation:") {
            Some("imagesha384") => Key::Register(Register::ImageSha384),
            Some(rest) if rest.starts_with("nitrotpmpcr") => Key::NitroTpm,
            Some(rest) => match rest.strip_prefix("pcr").and_then(index) {
                Some(index) => Key::Register(Register::Pcr(index)),
                None => Key::Misspelt,
            },
            None if means_a_document(&key) => Key::Misspelt,
            None => Key::Other,
        }
    }
}

/// Whether a key that is none looks like one of a document's: a name of KMS's, or one without a service. Names of an
/// encryption context are the user's own.
fn means_a_document(key: &str) -> bool {
    let kms = key.starts_with("kms:") && !key.starts_with("kms:encryptioncontext:");
    let bare = !key.contains(':') || key.starts_with("recipientattest");
    (kms || bare) && ["attest", "imagesha", "pcr"].iter().any(|part| key.contains(part))
}

/// A statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statement {
    pub index: usize,
    pub sid: Option<String>,
    pub allow: bool,
    pub principals: Principals,
    /// Patterns of actions, and whether they are those of `NotAction`.
    pub actions: Vec<String>,
    pub all_but: bool,
    /// `None` where the statement names none, which IAM refuses.
    pub resources: Option<Resources>,
    pub conditions: Vec<Condition>,
}

impl Statement {
    /// Whether it is about this action.
    pub fn covers(&self, action: &str) -> bool {
        self.actions.iter().any(|pattern| matches(pattern, action)) != self.all_but
    }

    /// Whether both may be about one key.
    pub fn meets(&self, other: &Self) -> bool {
        match (&self.resources, &other.resources) {
            (Some(one), Some(other)) => one.meet(other),
            _ => true,
        }
    }

    /// Whether it is certainly about everybody and every key that the other is about.
    pub fn embraces(&self, other: &Self) -> bool {
        let keys = match (&self.resources, &other.resources) {
            (Some(all), Some(some)) => all.cover(some),
            (Some(all), None) => all.take("*"),
            (None, _) => true,
        };
        keys && self.principals.cover(&other.principals)
    }

    /// Whether it asks for something of a document, rightly or not.
    pub fn asks(&self) -> bool {
        self.conditions.iter().any(|condition| condition.kind() != Key::Other)
    }
}

/// IAM's wildcards; names of actions have no case. The time is that of one pass over the name for each letter.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    // Which beginnings of the name, by length, the pattern matches so far.
    let mut matched: Vec<bool> = (0..=name.len()).map(|length| length == 0).collect();
    for letter in pattern.bytes() {
        let mut before = false;
        for (matched, other) in matched.iter_mut().zip([None].into_iter().chain(name.bytes().map(Some))) {
            let same = other.is_some_and(|other| letter == b'?' || letter.eq_ignore_ascii_case(&other));
            let now = if letter == b'*' { *matched || before } else { same && before };
            before = if letter == b'*' { now } else { *matched };
            *matched = now;
        }
    }
    matched.last() == Some(&true)
}

/// The statements of a policy in any of the forms in which people have it.
pub(super) fn read(text: &[u8]) -> Result<Vec<Statement>, Error> {
    if text.len() > MAX_SIZE {
        return Err(Error::TooLarge);
    }
    let value = json::parse(text)?;
    let value = match value.get("Policy") {
        Some(Value::String(inner)) => json::parse(inner.as_bytes())?,
        Some(inner) => inner.clone(),
        None => value,
    };
    let statements = match value {
        Value::Array(statements) => statements,
        Value::Object(mut object) => match object.remove("Statement") {
            Some(Value::Array(statements)) => statements,
            Some(one) => vec![one],
            None if object.contains_key("Effect") => vec![Value::Object(object)],
            None => return Err(shape("the policy", "there is no Statement")),
        },
        _ => return Err(shape("the policy", "it is no object")),
    };
    statements.iter().enumerate().map(|(index, value)| statement(index, value)).collect()
}

fn shape(place: &str, why: impl Into<String>) -> Error {
    Error::Shape { place: place.to_owned(), why: why.into() }
}

/// The elements of IAM's grammar.
const ELEMENTS: [&str; 9] =
    ["Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Resource", "NotResource", "Condition"];

fn statement(index: usize, value: &Value) -> Result<Statement, Error> {
    let place = format!("Statement[{index}]");
    let bad = |why: String| Error::Shape { place: place.clone(), why };
    let object = value.as_object().ok_or_else(|| bad("it is no object".to_owned()))?;
    if let Some(unknown) = object.keys().find(|key| !ELEMENTS.contains(&key.as_str())) {
        return Err(bad(format!("{unknown} is no element of a statement")));
    }
    let allow = match object.get("Effect").and_then(Value::as_str) {
        Some("Allow") => true,
        Some("Deny") => false,
        _ => return Err(bad("its Effect is neither Allow nor Deny".to_owned())),
    };
    let (actions, all_but) = match (object.get("Action"), object.get("NotAction")) {
        (Some(actions), None) => (actions, false),
        (None, Some(actions)) => (actions, true),
        _ => return Err(bad("it needs Action or NotAction, and not both".to_owned())),
    };
    let (resources, all_but_these) = match (object.get("Resource"), object.get("NotResource")) {
        (None, None) => (None, false),
        (Some(resources), None) => (Some(resources), false),
        (None, Some(resources)) => (Some(resources), true),
        _ => return Err(bad("it has Resource and NotResource".to_owned())),
    };
    let resources = resources.map(|value| strings(value).ok_or_else(|| bad("its resources are no strings".to_owned())));
    let resources = resources.transpose()?.map(|patterns| Resources { patterns, all_but: all_but_these });
    Ok(Statement {
        index,
        sid: object.get("Sid").and_then(Value::as_str).filter(|sid| !sid.is_empty()).map(str::to_owned),
        allow,
        principals: principals(object)
            .ok_or_else(|| bad("its Principal or NotPrincipal is neither * nor names, or it has both".to_owned()))?,
        actions: strings(actions).ok_or_else(|| bad("its actions are no strings".to_owned()))?,
        all_but,
        resources,
        conditions: conditions(object).ok_or_else(|| bad("its Condition is no block of operators".to_owned()))?,
    })
}

fn principals(object: &Map<String, Value>) -> Option<Principals> {
    let names = |value: &Value| match value {
        Value::Object(kinds) => kinds.values().map(strings).collect::<Option<Vec<_>>>().map(|names| names.concat()),
        other => strings(other),
    };
    match (object.get("Principal"), object.get("NotPrincipal")) {
        (None, None) => Some(Principals::Identity),
        (None, Some(value)) => names(value).map(Principals::AllBut),
        (Some(value), None) => {
            let names = names(value)?;
            Some(if names.iter().any(|name| name == "*") { Principals::Anyone } else { Principals::Named(names) })
        }
        (Some(_), Some(_)) => None,
    }
}

fn conditions(object: &Map<String, Value>) -> Option<Vec<Condition>> {
    let Some(blocks) = object.get("Condition") else { return Some(Vec::new()) };
    let mut conditions = Vec::new();
    for (operator, keys) in blocks.as_object()? {
        for (key, values) in keys.as_object()? {
            let values = strings(values)?;
            conditions.push(Condition { operator: operator.clone(), key: key.clone(), values });
        }
    }
    Some(conditions)
}

/// A string, a boolean or a number, or a list of such.
fn strings(value: &Value) -> Option<Vec<String>> {
    let one = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        _ => None,
    };
    match value {
        Value::Array(values) => values.iter().map(one).collect(),
        value => one(value).map(|value| vec![value]),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn wildcards_are_iams() {
        for (pattern, name, expected) in [
            ("*", "kms:Decrypt", true),
            ("kms:*", "kms:Decrypt", true),
            ("KMS:decrypt", "kms:Decrypt", true),
            ("kms:GenerateDataKey*", "kms:GenerateDataKeyPair", true),
            ("kms:GenerateDataKey", "kms:GenerateDataKeyPair", false),
            ("kms:De?rypt", "kms:Decrypt", true),
            ("kms:D*t", "kms:Decrypt", true),
            ("kms:D**e*t", "kms:Decrypt", true),
            ("s3:*", "kms:Decrypt", false),
            ("", "kms:Decrypt", false),
            ("", "", true),
            ("kms:Decrypt?", "kms:Decrypt", false),
            ("*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a", "aaaaaaaaaaaaaaaaaaaaaaaaa", true),
            ("kms:Decrypt*", "kms:Decrypt", true),
            ("*****************************************x", "kms:Decrypt", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern}");
        }
    }

    #[test]
    fn keys_are_known_by_name() {
        let kind = |key: &str| Condition { operator: String::new(), key: key.to_owned(), values: vec![] }.kind();
        assert_eq!(kind("kms:RecipientAttestation:ImageSha384"), Key::Register(Register::ImageSha384));
        assert_eq!(kind("KMS:recipientattestation:pcr31"), Key::Register(Register::Pcr(31)));
        assert_eq!(kind("kms:RecipientAttestation:NitroTPMPCR4"), Key::NitroTpm);
        for key in ["kms:RecipientAttestation", "kms:RecipientAttestation:PCR32", "kms:RecipientAttestation:PCR00"] {
            assert_eq!(kind(key), Key::Misspelt, "{key}");
        }
        assert_eq!(kind("RecipientAttestation:PCR0"), Key::Misspelt);
        assert_eq!(kind("kms:PCR0"), Key::Misspelt);
        for key in
            ["kms:ViaService", "kms:EncryptionContext:attested-by", "aws:PrincipalTag/pcr", "aws:RequestTag/attest"]
        {
            assert_eq!(kind(key), Key::Other, "{key}");
        }
    }

    #[test]
    fn resources_cover_and_meet() {
        let of = |all_but, patterns: &[&str]| Resources {
            patterns: patterns.iter().map(|&p| p.to_owned()).collect(),
            all_but,
        };
        let (a, b) = ("arn:aws:kms:eu-west-1:1:key/a", "arn:aws:kms:eu-west-1:1:key/b");
        // one, other, covers, meets
        for (one, other, covers, meets) in [
            (of(false, &["*"]), of(false, &[a]), true, true),
            (of(false, &[a]), of(false, &["*"]), false, true),
            (of(false, &[a]), of(false, &[b]), false, false),
            (of(false, &[a, b]), of(false, &[b]), true, true),
            (of(false, &["arn:*:key/*"]), of(false, &["arn:aws:*:key/*"]), true, true),
            (of(false, &["arn:aws:kms:??-west-1:1:key/a"]), of(false, &["arn:aws:kms:*:1:key/a"]), false, true),
            (of(true, &[a]), of(false, &[b]), true, true),
            (of(true, &[a]), of(false, &[a]), false, false),
            (of(true, &[a]), of(false, &["*"]), false, true),
            (of(false, &["*"]), of(true, &[a]), true, true),
            (of(true, &[a]), of(true, &[a]), true, true),
        ] {
            assert_eq!((one.cover(&other), one.meet(&other)), (covers, meets), "{one:?} {other:?}");
            assert_eq!(other.meet(&one), meets, "{one:?} {other:?}");
        }
        assert!(of(true, &["*"]).are_none() && of(false, &[]).are_none());
        assert!(!of(false, &["*"]).are_none() && !of(true, &[a]).are_none());
    }

    #[test]
    fn policies_come_in_many_forms() {
        let statement = r#"{"Effect":"Allow","Action":"kms:*"}"#;
        let inner = format!(r#"{{"Statement":{statement}}}"#);
        for text in [
            statement.to_owned(),
            format!("[{statement}]"),
            inner.clone(),
            format!(r#"{{"Version":"2012-10-17","Statement":[{statement}]}}"#),
            serde_json::json!({"Policy": inner, "PolicyName": "default"}).to_string(),
        ] {
            assert_eq!(read(text.as_bytes()).unwrap().len(), 1, "{text}");
        }
        for text in ["", "{}", "7", r#"{"Effect":"allow","Action":"kms:*"}"#, r#"{"Effect":"Allow"}"#, r#"["x"]"#] {
            assert!(read(text.as_bytes()).is_err(), "{text}");
        }
    }
}
