//! Writes the KMS policy that demands an attestation document of given images.
//!
//! Each image has a statement of its own. Lists of values in one statement would be combined at will: the kernel of one
//! image with the application of another.
//!
//! Source of the facts: the developer guide of AWS KMS, "Condition keys for Nitro Enclaves"; the service authorization
//! reference, which has `kms:RecipientAttestation:PCR0` to `PCR31`.

use std::fmt;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::Refusal;
use crate::eif::{Measurements, Pcr};

/// What KMS does differently for a request with an attestation document; no other action looks at one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// `kms:Decrypt`
    Decrypt,
    /// `kms:DeriveSharedSecret`
    DeriveSharedSecret,
    /// `kms:GenerateDataKey`
    GenerateDataKey,
    /// `kms:GenerateDataKeyPair`
    GenerateDataKeyPair,
    /// `kms:GenerateRandom`, which uses no key: no key policy is asked for it.
    GenerateRandom,
}

impl Action {
    /// All of them.
    pub const ALL: [Action; 5] = [
        Action::Decrypt,
        Action::DeriveSharedSecret,
        Action::GenerateDataKey,
        Action::GenerateDataKeyPair,
        Action::GenerateRandom,
    ];

    /// As it stands in a policy.
    pub fn name(self) -> &'static str {
        match self {
            Action::Decrypt => "kms:Decrypt",
            Action::DeriveSharedSecret => "kms:DeriveSharedSecret",
            Action::GenerateDataKey => "kms:GenerateDataKey",
            Action::GenerateDataKeyPair => "kms:GenerateDataKeyPair",
            Action::GenerateRandom => "kms:GenerateRandom",
        }
    }
}

impl Serialize for Action {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// What a condition can ask for. `Display` is the condition key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Register {
    /// The image's digest, which is PCR0 under another name.
    ImageSha384,
    /// A PCR, 0 to 31.
    Pcr(u8),
}

impl Register {
    /// The PCR that is compared.
    pub fn index(self) -> u8 {
        match self {
            Register::ImageSha384 => 0,
            Register::Pcr(index) => index,
        }
    }
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Register::ImageSha384 => f.write_str("kms:RecipientAttestation:ImageSha384"),
            Register::Pcr(index) => write!(f, "kms:RecipientAttestation:PCR{index}"),
        }
    }
}

/// Where the policy will stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// At a key: who may use it, as ARNs.
    Key(Vec<String>),
    /// At an IAM identity: which keys it may use, as ARNs or `*`.
    Identity(Vec<String>),
}

/// What to demand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The images, each of which is enough. None: the statement has `further` alone.
    pub images: Vec<Measurements>,
    /// What to ask of an image; `None` is PCR0, PCR1, PCR2, and PCR8 of a signed one.
    pub registers: Option<Vec<Register>>,
    /// Registers that no file has, or that stand for one.
    pub further: Vec<(u8, Pcr)>,
    /// What is allowed.
    pub actions: Vec<Action>,
    /// Where the policy stands.
    pub kind: Kind,
}

/// Why there is no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A register without a value.
    #[error("there is no value for {0}")]
    NoValue(Register),
    /// A register with two values.
    #[error("PCR{index} is {one} and {other}")]
    TwoValues {
        /// The register.
        index: u8,
        /// From the image, or given first.
        one: Pcr,
        /// The other.
        other: Pcr,
    },
    /// The value that every enclave in debug mode has.
    #[error("PCR{0} is all zero, as in every enclave in debug mode: the policy would protect nothing")]
    Zero(u8),
    /// A register that there is not.
    #[error("there is no PCR{0}: an enclave has PCR0 to PCR31")]
    Index(u8),
    /// An action that no key policy is asked for.
    #[error("kms:GenerateRandom uses no key, so it has no place in a key policy: IAM policies only")]
    Random,
}

impl Refusal for Error {
    fn code(&self) -> &'static str {
        match self {
            Error::NoValue(_) => "E-policy-missing",
            Error::TwoValues { .. } => "E-policy-pcr",
            Error::Zero(_) => "E-policy-debug",
            Error::Index(_) => "E-policy-index",
            Error::Random => "E-policy-action",
        }
    }

    fn help(&self) -> Vec<String> {
        let line = match self {
            Error::NoValue(Register::Pcr(8)) => "only a signed image has PCR8",
            Error::NoValue(Register::Pcr(3)) => "pass --role-arn or --pcr 3=HEX",
            Error::NoValue(Register::Pcr(4)) => "pass --instance-id or --pcr 4=HEX",
            Error::NoValue(_) => "pass --pcr N=HEX",
            Error::TwoValues { .. } => "drop --pcr, or the file",
            Error::Zero(_) => "take the value of the file, not of a debug enclave's document",
            Error::Index(_) => return Vec::new(),
            Error::Random => "pass --iam for an identity policy",
        };
        vec![line.to_owned()]
    }
}

/// A policy document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Policy {
    version: &'static str,
    statement: Vec<Statement>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Statement {
    sid: String,
    effect: &'static str,
    #[serde(skip_serializing_if = "Principal::is_none")]
    principal: Principal,
    action: Vec<Action>,
    #[serde(serialize_with = "one_or_many")]
    resource: Vec<String>,
    condition: Condition,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Principal {
    #[serde(rename = "AWS", serialize_with = "one_or_many")]
    aws: Vec<String>,
}

impl Principal {
    fn is_none(&self) -> bool {
        self.aws.is_empty()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Condition {
    #[serde(serialize_with = "in_order")]
    string_equals_ignore_case: Vec<(Register, Pcr)>,
}

fn in_order<S: Serializer>(values: &[(Register, Pcr)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(values.len()))?;
    for (register, pcr) in values {
        map.serialize_entry(&register.to_string(), pcr)?;
    }
    map.end()
}

/// AWS writes a list of one as a string.
fn one_or_many<S: Serializer>(values: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    match values {
        [one] => serializer.serialize_str(one),
        many => many.serialize(serializer),
    }
}

/// Makes the policy: a statement for each image, in this order, numbered from 1.
///
/// # Errors
/// A register has no value, two, or the one of debug mode; an action does not fit the kind of policy.
pub fn policy(request: &Request) -> Result<Policy, Error> {
    if matches!(request.kind, Kind::Key(_)) && request.actions.contains(&Action::GenerateRandom) {
        return Err(Error::Random);
    }
    let mut actions = request.actions.clone();
    actions.sort();
    actions.dedup();
    let mut statement = Vec::new();
    let images: Vec<_> = match request.images.as_slice() {
        [] => vec![None],
        images => images.iter().map(Some).collect(),
    };
    for (image, number) in images.into_iter().zip(1..) {
        let conditions = conditions(request, image)?;
        statement.extend(statements(&format!("EnclaveImage{number}"), &request.kind, &actions, conditions));
    }
    Ok(Policy { version: "2012-10-17", statement })
}

/// One statement, or two where `kms:GenerateRandom`, which takes no resource, stands beside actions on named keys.
fn statements(sid: &str, kind: &Kind, actions: &[Action], conditions: Vec<(Register, Pcr)>) -> Vec<Statement> {
    let make = |sid: String, action: Vec<Action>, resource: &[String], principal: &[String]| Statement {
        sid,
        effect: "Allow",
        principal: Principal { aws: principal.to_vec() },
        action,
        resource: resource.to_vec(),
        condition: Condition { string_equals_ignore_case: conditions.clone() },
    };
    let any = ["*".to_owned()];
    let resources = match kind {
        Kind::Key(principals) => return vec![make(sid.to_owned(), actions.to_vec(), &any, principals)],
        Kind::Identity(resources) => resources,
    };
    let (random, keyed): (Vec<_>, Vec<_>) = actions.iter().partition(|action| **action == Action::GenerateRandom);
    if resources.as_slice() == any {
        return vec![make(sid.to_owned(), actions.to_vec(), &any, &[])];
    }
    let parts = [(sid.to_owned(), keyed, resources.as_slice()), (format!("{sid}Random"), random, &any)];
    let parts = parts.into_iter().filter(|(_, actions, _)| !actions.is_empty());
    parts.map(|(sid, actions, resources)| make(sid, actions, resources, &[])).collect()
}

/// What one statement asks for, in the order of the registers.
fn conditions(request: &Request, image: Option<&Measurements>) -> Result<Vec<(Register, Pcr)>, Error> {
    let known = known(image, &request.further)?;
    let mut registers: Vec<Register> = match (&request.registers, image) {
        (Some(chosen), _) => chosen.clone(),
        (None, Some(image)) => image.numbered().into_iter().map(|(index, _)| Register::Pcr(index)).collect(),
        (None, None) => Vec::new(),
    };
    registers.extend(request.further.iter().map(|(index, _)| Register::Pcr(*index)));
    registers.sort();
    registers.dedup();
    let value = |register: Register| {
        let (_, pcr) = known.iter().find(|(index, _)| *index == register.index()).ok_or(Error::NoValue(register))?;
        Ok((register, *pcr))
    };
    registers.into_iter().map(value).collect()
}

/// All values that there are: of the image, and those that were given.
fn known(image: Option<&Measurements>, further: &[(u8, Pcr)]) -> Result<Vec<(u8, Pcr)>, Error> {
    let mut known: Vec<(u8, Pcr)> = Vec::new();
    for (index, pcr) in image.map(Measurements::numbered).unwrap_or_default().into_iter().chain(further.iter().copied())
    {
        if index > 31 {
            return Err(Error::Index(index));
        }
        if pcr.0.iter().all(|byte| *byte == 0) {
            return Err(Error::Zero(index));
        }
        match known.iter().find(|(other, _)| *other == index) {
            Some((_, one)) if *one != pcr => return Err(Error::TwoValues { index, one: *one, other: pcr }),
            _ => known.push((index, pcr)),
        }
    }
    Ok(known)
}

impl Policy {
    /// The policy document, two-space pretty, without a newline at the end.
    pub fn to_json(&self) -> String {
        // Structs of strings always serialise.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// The same as a data source `aws_iam_policy_document` with this name, as `terraform fmt` leaves it.
    pub fn to_terraform(&self, name: &str) -> String {
        let statements: Vec<String> = self.statement.iter().map(Statement::to_terraform).collect();
        format!("data \"aws_iam_policy_document\" {} {{\n{}}}\n", quoted(name), statements.join("\n"))
    }
}

impl Statement {
    fn to_terraform(&self) -> String {
        let actions: Vec<&str> = self.action.iter().map(|action| action.name()).collect();
        let mut text = format!(
            "  statement {{\n    sid       = {}\n    effect    = {}\n    actions   = {}\n    resources = {}\n",
            quoted(&self.sid),
            quoted(self.effect),
            list(&actions),
            list(&self.resource)
        );
        if !self.principal.is_none() {
            let identifiers = list(&self.principal.aws);
            text += "\n    principals {\n";
            text += &format!("      type        = \"AWS\"\n      identifiers = {identifiers}\n    }}\n");
        }
        for (register, pcr) in &self.condition.string_equals_ignore_case {
            text += "\n    condition {\n      test     = \"StringEqualsIgnoreCase\"\n";
            text += &format!("      variable = {}\n", quoted(&register.to_string()));
            text += &format!("      values   = {}\n    }}\n", list(&[pcr.to_string()]));
        }
        text + "  }\n"
    }
}

fn list<T: AsRef<str>>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(|item| quoted(item.as_ref())).collect();
    format!("[{}]", items.join(", "))
}

/// A quoted string of HCL's native syntax: besides the escapes of JSON's kind, `${` and `%{` begin templates.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '$' | '%' if rest.peek() == Some(&'{') => out.extend([c, c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Pcr = Pcr([0x11; 48]);
    const TWO: Pcr = Pcr([0x22; 48]);

    fn image(byte: u8, pcr8: Option<Pcr>) -> Measurements {
        Measurements { pcr0: Pcr([byte; 48]), pcr1: Pcr([byte + 1; 48]), pcr2: Pcr([byte + 2; 48]), pcr8 }
    }

    fn request() -> Request {
        Request {
            images: vec![image(0x10, None)],
            registers: None,
            further: Vec::new(),
            actions: vec![Action::GenerateDataKey, Action::Decrypt],
            kind: Kind::Key(vec!["arn:aws:iam::123456789012:role/Webserver".to_owned()]),
        }
    }

    #[test]
    fn strings_are_hcls() {
        let text = "a\"b\\c${d}%{e}$f%\n\u{1}";
        assert_eq!(quoted(text), r#""a\"b\\c$${d}%%{e}$f%\n\u0001""#);
    }

    #[test]
    fn registers_have_exactly_one_value() {
        let with = |change: &dyn Fn(&mut Request)| {
            let mut request = request();
            change(&mut request);
            policy(&request).unwrap_err()
        };
        assert_eq!(with(&|r| r.further = vec![(3, ONE), (3, TWO)]).code(), "E-policy-pcr");
        assert_eq!(with(&|r| r.further = vec![(0, TWO)]).code(), "E-policy-pcr");
        assert_eq!(with(&|r| r.further = vec![(16, Pcr([0; 48]))]), Error::Zero(16));
        assert_eq!(with(&|r| r.further = vec![(32, ONE)]), Error::Index(32));
        assert_eq!(with(&|r| r.registers = Some(vec![Register::Pcr(8)])), Error::NoValue(Register::Pcr(8)));
        assert_eq!(with(&|r| r.actions.push(Action::GenerateRandom)), Error::Random);
    }

    #[test]
    fn a_signed_image_is_asked_for_its_signer_too() {
        let request = Request { images: vec![image(0x10, Some(ONE))], further: vec![(3, TWO)], ..request() };
        let policy = policy(&request).unwrap();
        let asked = &policy.statement[0].condition.string_equals_ignore_case;
        let indexes: Vec<u8> = asked.iter().map(|(register, _)| register.index()).collect();
        assert_eq!(indexes, [0, 1, 2, 3, 8]);
    }

    #[test]
    fn random_bytes_are_of_no_key() {
        let kind = Kind::Identity(vec!["arn:aws:kms:eu-west-1:123456789012:key/k".to_owned()]);
        let actions = vec![Action::GenerateRandom, Action::Decrypt];
        let policy = policy(&Request { kind, actions, ..request() }).unwrap();
        let shapes: Vec<_> = policy.statement.iter().map(|s| (s.sid.as_str(), s.resource[0].as_str())).collect();
        let key = "arn:aws:kms:eu-west-1:123456789012:key/k";
        assert_eq!(shapes, [("EnclaveImage1", key), ("EnclaveImage1Random", "*")]);
    }
}
