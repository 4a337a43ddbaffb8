//! Finds what makes a KMS policy useless: it lets requests through that no enclave, or another one, has made; or it
//! lets nobody through.
//!
//! One document is looked at. What IAM policies add, service control policies take away and grants allow is not seen.
//!
//! Source of the facts: the developer guide of AWS KMS, "Condition keys for Nitro Enclaves"; the IAM user guide,
//! "Condition operators" (a negated operator, `…IfExists` and `ForAllValues:` are true where the key is missing) and
//! "Policy evaluation logic" (an explicit Deny wins; all conditions of a statement are met together).

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use std::collections::BTreeSet;

use serde::Serialize;

use super::policy::{Action, Register};
use super::statement::{Condition, Key, Principals, Resources, Statement, matches, read};
use crate::eif::measure::PCR2_OF_NOTHING;
use crate::eif::{Measurements, Pcr};

pub use super::statement::{Error, MAX_SIZE};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The statement does not do what it is there for.
    Error,
    /// Something that one should know.
    Note,
}

/// Something about a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The stable code: `E-policy-…` of errors, `W-policy-…` of notes.
    pub code: &'static str,
    /// How bad it is.
    pub level: Level,
    /// Index of the statement, from 0; `None` for the policy as a whole.
    pub statement: Option<usize>,
    /// Its Sid.
    pub sid: Option<String>,
    /// One line.
    pub message: String,
}

impl Finding {
    /// What to call the statement: its Sid, else its index.
    pub fn place(&self) -> String {
        match (&self.sid, self.statement) {
            (Some(sid), _) => sid.clone(),
            (None, Some(index)) => format!("Statement[{index}]"),
            (None, None) => "policy".to_owned(),
        }
    }
}

/// An image that the policy should be for: a name for messages, and what it measures to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its file, or whatever one calls it.
    pub name: String,
    /// Its registers.
    pub measurements: Measurements,
}

/// Looks at a policy. Without images its values are only looked at for their form.
///
/// # Errors
/// It is no policy.
pub fn lint(text: &[u8], images: &[Image]) -> Result<Vec<Finding>, Error> {
    let statements = read(text)?;
    let mut linter = Linter { statements: &statements, images, findings: Vec::new() };
    for statement in &statements {
        linter.statement(statement);
    }
    linter.whole();
    linter.findings.sort_by_key(|finding| finding.statement.unwrap_or(usize::MAX));
    Ok(linter.findings)
}

/// What a condition's operator does to a request, with the key in it or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// Only a request with one of the values is let through.
    Binds { case: bool },
    /// Says nothing of other values.
    Passes,
    /// Not what anybody wants, for this reason.
    Useless(&'static str),
}

fn effect(statement: &Statement, condition: &Condition) -> Effect {
    let operator = condition.operator.as_str();
    let (set, plain) = match operator.split_once(':') {
        Some((set, plain)) => (Some(set), plain),
        None => (None, operator),
    };
    let (plain, if_exists) = plain.strip_suffix("IfExists").map_or((plain, false), |plain| (plain, true));
    let wild = plain.contains("Like") && condition.values.iter().any(|value| value.contains(['*', '?']));
    let lenient = if_exists || set == Some("ForAllValues");
    match (plain, statement.allow) {
        ("Null", allow) => null(allow, condition),
        _ if wild => Effect::Useless("a wildcard takes values of other images"),
        ("StringEquals" | "StringEqualsIgnoreCase" | "StringLike", true) if lenient => {
            Effect::Useless("it is true for a request without a document")
        }
        ("StringEquals" | "StringLike", true) => Effect::Binds { case: true },
        ("StringEqualsIgnoreCase", true) => Effect::Binds { case: false },
        ("StringNotEquals" | "StringNotEqualsIgnoreCase" | "StringNotLike", true) => {
            Effect::Useless("it is true for every other image, and for a request without a document")
        }
        ("StringNotEquals" | "StringNotEqualsIgnoreCase" | "StringNotLike", false) if set == Some("ForAnyValue") => {
            Effect::Useless("it is false for a request without a document, which is then not denied")
        }
        ("StringNotEquals" | "StringNotLike", false) => Effect::Binds { case: true },
        ("StringNotEqualsIgnoreCase", false) => Effect::Binds { case: false },
        ("StringEquals" | "StringEqualsIgnoreCase" | "StringLike", false) => Effect::Passes,
        _ => Effect::Useless("it does not compare strings"),
    }
}

/// `Null` asks whether a key is there at all.
fn null(allow: bool, condition: &Condition) -> Effect {
    let absent = condition.values.iter().any(|value| value == "true");
    match (allow, absent) {
        (true, true) => Effect::Useless("it allows only requests without a document"),
        (false, false) => Effect::Useless("it denies every request with a document"),
        _ => Effect::Passes,
    }
}

/// A register that a statement binds, with the values that it lets through.
type Binding<'a> = (u8, Vec<&'a str>);

fn bindings(statement: &Statement) -> Vec<Binding<'_>> {
    let mut bindings: Vec<Binding<'_>> = Vec::new();
    for condition in &statement.conditions {
        let Key::Register(register) = condition.kind() else { continue };
        if matches!(effect(statement, condition), Effect::Binds { .. }) {
            bindings.push((register.index(), condition.values.iter().map(String::as_str).collect()));
        }
    }
    bindings
}

/// Whether an image has one of these values, as far as its file tells.
fn has(image: &Image, (index, values): &Binding<'_>) -> bool {
    let registers = image.measurements.numbered();
    match registers.iter().find(|(register, _)| register == index) {
        Some((_, pcr)) => values.iter().any(|value| value.eq_ignore_ascii_case(&pcr.to_string())),
        None => *index != 8,
    }
}

/// Whether two of them are on one register and have no value in common.
fn contradict(bindings: &[Binding<'_>]) -> bool {
    let apart = |one: &[&str], other: &[&str]| !one.iter().any(|a| other.iter().any(|b| a.eq_ignore_ascii_case(b)));
    bindings.iter().enumerate().any(|(at, (index, values))| {
        let mut later = bindings.iter().skip(at.saturating_add(1)).filter(|(other, _)| other == index);
        later.any(|(_, others)| apart(values, others))
    })
}

struct Linter<'a> {
    statements: &'a [Statement],
    images: &'a [Image],
    findings: Vec<Finding>,
}

impl<'a> Linter<'a> {
    fn find(&mut self, statement: &Statement, code: &'static str, message: impl Into<String>) {
        let level = if code.starts_with("E-") { Level::Error } else { Level::Note };
        let (index, sid) = (Some(statement.index), statement.sid.clone());
        self.findings.push(Finding { code, level, statement: index, sid, message: message.into() });
    }

    fn statement(&mut self, statement: &'a Statement) {
        self.elements(statement);
        if statement.asks() {
            self.conditions(statement);
            self.values(statement);
            self.binding(statement);
        }
        if !statement.allow {
            return self.deny(statement);
        }
        if statement.asks() {
            self.actions(statement);
            self.anyone(statement);
            self.shut(statement);
        } else {
            self.open(statement);
        }
    }

    /// What IAM wants of a statement before it looks at requests.
    fn elements(&mut self, statement: &Statement) {
        let nothing = statement.resources.as_ref().map(Resources::are_none);
        if nothing == Some(true) {
            self.find(statement, "E-policy-resource", "it is about no key, so it does nothing");
        } else if nothing.is_none() {
            self.find(statement, "E-policy-resource", "it has no Resource: AWS refuses the policy");
        }
        if statement.principals == Principals::Identity && self.is_key_policy() {
            let why = "it has no Principal, beside statements that have one: AWS refuses a key policy with it";
            self.find(statement, "E-policy-principal", why);
        }
    }

    /// Whether it is a key's policy and no identity's: then somebody is named in it.
    fn is_key_policy(&self) -> bool {
        self.statements.iter().any(|statement| statement.principals != Principals::Identity)
    }

    /// Keys and operators.
    fn conditions(&mut self, statement: &Statement) {
        for condition in &statement.conditions {
            let Condition { operator, key, .. } = condition;
            match condition.kind() {
                Key::Other => {}
                Key::NitroTpm => {
                    let message = format!("{key} is of NitroTPM, another product: no enclave's document has it");
                    self.find(statement, "E-policy-nitrotpm", message);
                }
                Key::Misspelt => {
                    let known = "kms:RecipientAttestation:ImageSha384 and :PCR0 to :PCR31";
                    let message = format!("{key} is no condition key of KMS; there are {known}");
                    self.find(statement, "E-policy-key", message);
                }
                Key::Register(_) => match effect(statement, condition) {
                    Effect::Useless(why) => {
                        self.find(statement, "E-policy-operator", format!("{operator} of {key}: {why}"));
                    }
                    _ if operator.contains(':') => {
                        let message = format!("{operator} of {key}: the key has one value, {operator} is for sets");
                        self.find(statement, "W-policy-operator", message);
                    }
                    _ => {}
                },
            }
        }
    }

    /// The form of each value, and whether an image has it.
    fn values(&mut self, statement: &Statement) {
        for condition in &statement.conditions {
            let Key::Register(register) = condition.kind() else { continue };
            let effect = effect(statement, condition);
            if condition.operator.starts_with("Null") {
                continue;
            }
            if condition.values.is_empty() {
                self.find(statement, "E-policy-value", format!("{}: there is no value", condition.key));
            }
            for value in &condition.values {
                if let Some((code, why)) = self.value(register, value, effect) {
                    self.find(statement, code, format!("{}: {why}", condition.key));
                }
            }
        }
    }

    fn value(&self, register: Register, value: &str, effect: Effect) -> Option<(&'static str, String)> {
        let shown = crate::escaped(value.as_bytes());
        let Ok(pcr) = value.parse::<Pcr>() else {
            let length = value.chars().count();
            let why = format!("a value has 96 hexadecimal digits, this one has {length} characters: {shown}");
            return Some(("E-policy-value", why));
        };
        let registers = |image: &Image| image.measurements.numbered();
        let binds = matches!(effect, Effect::Binds { .. });
        if effect == (Effect::Binds { case: true }) && value.chars().any(char::is_uppercase) {
            let why = "upper case never matches here: KMS compares with lower case, use StringEqualsIgnoreCase";
            return Some(("E-policy-case", why.to_owned()));
        }
        if effect != Effect::Passes && pcr.0.iter().all(|byte| *byte == 0) {
            return Some(("E-policy-debug", "all zero is the value of every enclave in debug mode".to_owned()));
        }
        let measured = [0, 1, 2, 8].contains(&register.index());
        let known = self.images.iter().any(|image| registers(image).contains(&(register.index(), pcr)));
        if binds && measured && !self.images.is_empty() && !known {
            return Some(("E-policy-image", format!("no given file has {shown}")));
        }
        let nothing = register == Register::Pcr(2) && pcr.to_string() == PCR2_OF_NOTHING;
        let why = "this is PCR2 of every image with a single ramdisk: it says nothing about the application";
        nothing.then(|| ("W-policy-pcr2", why.to_owned()))
    }

    /// What all conditions of a statement say together.
    fn binding(&mut self, statement: &Statement) {
        let bindings = bindings(statement);
        let registers: BTreeSet<u8> = bindings.iter().map(|(index, _)| *index).collect();
        if statement.allow && statement.conditions.iter().all(|c| !matches!(c.kind(), Key::NitroTpm | Key::Misspelt)) {
            self.strength(statement, &registers);
        }
        if !statement.allow {
            return;
        }
        self.mixed(statement, &bindings);
        if contradict(&bindings) {
            let why = "two conditions on one register share no value, so nothing is ever allowed";
            self.find(statement, "E-policy-contradiction", why);
        }
    }

    /// Whether the registers tell one image from another.
    fn strength(&mut self, statement: &Statement, registers: &BTreeSet<u8>) {
        let has = |index| registers.contains(&index);
        if has(0) || (has(1) && has(2)) {
            return;
        }
        let (code, why) = if has(8) && has(3) {
            return;
        } else if has(8) {
            ("W-policy-signer", "PCR8 alone: any image that is signed with this certificate, old ones too")
        } else if has(1) {
            ("W-policy-pcr1", "PCR1 without PCR2: kernel and init are bound, the application is not")
        } else if has(2) {
            ("W-policy-pcr2", "PCR2 without PCR1: the application is bound, kernel and init are not")
        } else {
            ("E-policy-weak", "no condition binds an image: any enclave that meets the others is let through")
        };
        self.find(statement, code, why);
    }

    /// Lists in one statement are combined at will.
    fn mixed(&mut self, statement: &Statement, bindings: &[Binding<'_>]) {
        let measured = bindings.iter().filter(|(index, _)| [0, 1, 2, 8].contains(index));
        let lists: BTreeSet<u8> = measured.filter(|(_, values)| values.len() > 1).map(|(index, _)| *index).collect();
        let known = self.images.iter().any(|image| bindings.iter().any(|binding| has(image, binding)));
        let whole = self.images.iter().any(|image| bindings.iter().all(|binding| has(image, binding)));
        let singly = bindings.iter().all(|binding| self.images.iter().any(|image| has(image, binding)));
        if known && singly && !whole {
            let why = "its values are of different files, and no file has all of them: one statement an image";
            self.find(statement, "E-policy-mixed", why);
        } else if lists.len() > 1 && lists.contains(&0) {
            let why = "lists for several registers are combined at will; only PCR0's keeps images apart here";
            self.find(statement, "W-policy-mixed", why);
        } else if lists.len() > 1 {
            let why = "lists for several registers are combined at will, parts of one image with parts of another: \
                       one statement an image";
            self.find(statement, "E-policy-mixed", why);
        }
    }

    /// What a statement with conditions on a document allows.
    fn actions(&mut self, statement: &Statement) {
        if statement.all_but {
            let why =
                "NotAction with a condition on a document: only the five actions that look at one are ever allowed";
            return self.find(statement, "W-policy-wildcard", why);
        }
        for pattern in &statement.actions {
            let meant: Vec<Action> = Action::ALL.into_iter().filter(|action| matches(pattern, action.name())).collect();
            let shown = crate::escaped(pattern.as_bytes());
            if meant.is_empty() {
                let why = format!("{shown} does not look at a document, so the condition is never met");
                self.find(statement, "E-policy-action", why);
            } else if pattern.contains(['*', '?']) {
                let names: Vec<_> = meant.iter().map(|action| action.name()).collect();
                let why = format!("of {shown} only {} can be allowed under this condition", names.join(", "));
                self.find(statement, "W-policy-wildcard", why);
            } else if meant == [Action::GenerateRandom] && statement.principals != Principals::Identity {
                let why = "kms:GenerateRandom uses no key, so no key policy is asked for it: IAM policies only";
                self.find(statement, "W-policy-random", why);
            }
        }
    }

    /// An Allow that a Deny takes back, whatever the request.
    fn shut(&mut self, statement: &Statement) {
        let covered = Action::ALL.into_iter().filter(|action| statement.covers(action.name()));
        let shut: Vec<&str> = covered.map(Action::name).filter(|action| self.denied(statement, action)).collect();
        if !shut.is_empty() {
            let why = format!("another statement denies {} to whoever asks, with a document too", shut.join(", "));
            self.find(statement, "E-policy-denied", why);
        }
    }

    /// Everybody with the right image, in any account.
    fn anyone(&mut self, statement: &Statement) {
        let limited = statement.conditions.iter().any(|condition| {
            let key = condition.key.to_ascii_lowercase();
            ["aws:principal", "kms:calleraccount", "aws:source", "aws:userid"].iter().any(|part| key.starts_with(part))
        });
        if statement.principals.are_open() && !limited {
            let why = "Principal \"*\" or NotPrincipal: whoever runs the image, in any account, feeds it and is served";
            self.find(statement, "E-policy-anyone", why);
        }
    }

    /// Deny statements that ask for a document.
    fn deny(&mut self, statement: &Statement) {
        let registers: BTreeSet<u8> = bindings(statement).iter().map(|(index, _)| *index).collect();
        if registers.len() > 1 {
            let why = "its conditions are met together, so only what differs in all of them is denied: one Deny \
                       statement for each register";
            self.find(statement, "E-policy-deny", why);
        }
        let all = statement.principals.are_open() && statement.conditions.iter().all(|c| c.kind() != Key::Other);
        if !registers.is_empty() && all && statement.covers("kms:PutKeyPolicy") {
            let why = "no request for kms:PutKeyPolicy has a document, so this locks everybody out of the policy";
            self.find(statement, "E-policy-lockout", why);
        }
    }

    /// A statement that lets requests without a document through.
    fn open(&mut self, statement: &Statement) {
        let protected = self.protected(|asking| asking.meets(statement));
        if protected.is_empty() && !self.protected(|_| true).is_empty() {
            // It is about other keys.
            return;
        }
        let exposed: Vec<Action> = Action::ALL
            .into_iter()
            .filter(|action| *action != Action::GenerateRandom && statement.covers(action.name()))
            .filter(|action| protected.is_empty() || protected.contains(action))
            .filter(|action| !self.guarded(statement, *action))
            .collect();
        let wide = statement.all_but
            || statement.actions.iter().any(|action| action == "*" || action.eq_ignore_ascii_case("kms:*"));
        if !protected.is_empty() && statement.principals.are_accounts() && wide {
            let why = "the account's administrators may change this policy, and its IAM policies may allow what is not \
                       denied here";
            return self.find(statement, "W-policy-account", why);
        }
        if !exposed.is_empty() {
            let names: Vec<_> = exposed.iter().map(|action| action.name()).collect();
            let who = if statement.principals.are_open() { " to everybody" } else { "" };
            let why = format!("allows {}{who} without an attestation document", names.join(", "));
            self.find(statement, "E-policy-unconditional", why);
        }
        self.unasked(statement, &protected);
        self.administrator(statement, &protected);
    }

    /// Actions that hand out plaintext keys and could be asked for a document, and are not, anywhere.
    fn unasked(&mut self, statement: &Statement, protected: &BTreeSet<Action>) {
        if protected.is_empty() {
            return;
        }
        // With keys that it decrypts: a key that derives secrets decrypts nothing.
        let open = [Action::GenerateDataKey, Action::GenerateDataKeyPair].into_iter();
        let open = open.filter(|action| statement.covers(action.name()) && !protected.contains(action));
        let open: Vec<&str> = open.filter(|action| !self.guarded(statement, *action)).map(Action::name).collect();
        if !open.is_empty() {
            let why = format!("allows {} without a document, and no statement asks for one there", open.join(", "));
            self.find(statement, "W-policy-unasked", why);
        }
    }

    fn administrator(&mut self, statement: &Statement, protected: &BTreeSet<Action>) {
        let decrypts = protected.contains(&Action::Decrypt) && !self.denied(statement, "kms:ReEncryptFrom");
        if decrypts && statement.covers("kms:ReEncryptFrom") {
            let why = "kms:ReEncryptFrom turns what the key has encrypted into something for another key, without a \
                       document";
            self.find(statement, "E-policy-reencrypt", why);
        }
        let powers = ["kms:PutKeyPolicy", "kms:CreateGrant", "kms:ReplicateKey"];
        let powers: Vec<&str> = powers.into_iter().filter(|power| statement.covers(power)).collect();
        if !powers.is_empty() && !protected.is_empty() {
            let why = format!("{} can undo the protection: whoever has it is trusted", powers.join(", "));
            self.find(statement, "W-policy-administrator", why);
        }
    }

    /// The actions for which one of those statements asks for a document.
    fn protected(&self, among: impl Fn(&Statement) -> bool) -> BTreeSet<Action> {
        let asking = self.statements.iter().filter(|statement| statement.asks() && among(statement));
        let asking: Vec<_> = asking.filter(|statement| statement.allow || !bindings(statement).is_empty()).collect();
        let asked = |action: &Action| asking.iter().any(|statement| statement.covers(action.name()));
        Action::ALL.into_iter().filter(asked).collect()
    }

    /// Whether a Deny keeps everything but an image out of what this statement allows.
    fn guarded(&self, allowed: &Statement, action: Action) -> bool {
        let guards = |deny: &&Statement| {
            let binding = |condition: &Condition| {
                matches!(condition.kind(), Key::Register(Register::ImageSha384 | Register::Pcr(0 | 1 | 2 | 8)))
                    && matches!(effect(deny, condition), Effect::Binds { .. })
            };
            !deny.conditions.is_empty() && deny.conditions.iter().all(binding)
        };
        self.denials(allowed, action.name()).any(|deny| guards(&deny))
    }

    /// Whether it is denied whatever the request.
    fn denied(&self, allowed: &Statement, action: &str) -> bool {
        self.denials(allowed, action).any(|deny| deny.conditions.is_empty())
    }

    /// Deny statements for an action, for all whom a statement allows it and for all its keys.
    fn denials<'s>(&'s self, allowed: &'s Statement, action: &'s str) -> impl Iterator<Item = &'s Statement> {
        let denials = self.statements.iter().filter(|statement| !statement.allow);
        denials.filter(move |deny| deny.covers(action) && deny.embraces(allowed))
    }

    /// Whether an enclave with this image, asked for its document, is allowed an action by a statement.
    fn takes(&self, allowed: &Statement, action: Action, image: &Image) -> bool {
        let holds = |statement: &Statement| bindings(statement).iter().all(|binding| has(image, binding));
        let asked = !bindings(allowed).is_empty() || self.guarded(allowed, action);
        let denies = |deny: &Statement| deny.conditions.is_empty() || !holds(deny);
        allowed.covers(action.name()) && asked && holds(allowed) && !self.denials(allowed, action.name()).any(denies)
    }

    /// The policy as a whole, and each image.
    fn whole(&mut self) {
        let policy = |code, message| Finding { code, level: Level::Error, statement: None, sid: None, message };
        let protected = self.protected(|_| true);
        if protected.is_empty() {
            let why = "no statement asks for the document of an image".to_owned();
            return self.findings.push(policy("E-policy-nothing", why));
        }
        let allows =
            |statement: &Statement| statement.allow && protected.iter().any(|action| statement.covers(action.name()));
        if !self.statements.iter().any(allows) {
            let why = "no statement allows what is asked for: Deny statements alone let nobody through".to_owned();
            let (code, level) =
                if self.is_key_policy() { ("E-policy-nobody", Level::Error) } else { ("W-policy-nobody", Level::Note) };
            return self.findings.push(Finding { level, ..policy(code, why) });
        }
        for image in self.images {
            let takes = |statement: &Statement| {
                statement.allow && protected.iter().any(|action| self.takes(statement, *action, image))
            };
            if !self.statements.iter().any(takes) {
                let why = format!("no statement takes {}", crate::escaped(image.name.as_bytes()));
                self.findings.push(policy("E-policy-unmatched", why));
            }
        }
    }
}
