//! From the config to the process: what Docker would run, with every name looked up in the final file system.
//!
//! User and group follow moby's `user.GetExecUser`, HOME runc's rule. Everything is settled here, so that the record
//! in the image is the whole truth and the init has nothing to decide.

use std::collections::{BTreeMap, btree_map};
use std::io::Read;

use eif_init::lookup::DEFAULT_PATH;
use serde::{Deserialize, Serialize};

use super::error::Error;
use super::lint;
use super::spool::Spools;
use super::tree::{Inode, Kind, Metadata, Tree};
use crate::Warning;
use crate::image::{Config, Process};

/// The host name that the init sets.
const HOSTNAME: &str = "enclave";
/// What the console can do: as the kernel tells its own init.
const TERM: &str = "linux";
/// passwd and group files are read up to this size, in bytes.
const DATABASE_LIMIT: u64 = 16 << 20;
/// The largest id that Docker takes.
const ID_LIMIT: u64 = i32::MAX as u64;

/// What the user puts in the place of the image's config. What is not replaced is left out of its JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Overrides {
    /// Replaces Entrypoint, and drops the image's Cmd as `docker run --entrypoint` does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Replaces Cmd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Added to Env; replaces variables of the same name. Each is `K=V`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Replaces User.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Replaces WorkingDir.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
}

impl Overrides {
    /// Whether the image's config is taken as it is.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Settles the process, and makes its working directory in the tree when it is missing (0755, root), as runc does.
///
/// # Errors
/// [`Error::NoCommand`], [`Error::Encoding`], [`Error::UnknownUser`], [`Error::UnknownGroup`], [`Error::IdRange`],
/// [`Error::WorkingDir`].
pub fn resolve(
    config: &Config,
    overrides: &Overrides,
    tree: &mut Tree,
    spools: &Spools,
) -> Result<(Process, Vec<Warning>), Error> {
    let mut warnings = Vec::new();
    let argv = arguments(config, overrides)?;
    let user = overrides.user.as_deref().unwrap_or(&config.user);
    let account = account(user, &Database { tree, spools })?;
    let env = environment(config, overrides, &account.home, &mut warnings)?;
    let cwd = working_directory(overrides.workdir.as_deref().unwrap_or(&config.working_dir), tree)?;
    if let Some(warning) = program_warning(&argv, &env, &cwd, tree) {
        warnings.push(warning);
    }
    warnings.extend(closed_root(&account, tree));
    let Account { uid, gid, groups, .. } = account;
    Ok((Process { argv, env, cwd, uid, gid, groups }, warnings))
}

fn arguments(config: &Config, overrides: &Overrides) -> Result<Vec<String>, Error> {
    let (entrypoint, cmd) = match (&overrides.entrypoint, &overrides.cmd) {
        (Some(entrypoint), cmd) => (Some(entrypoint), cmd.as_ref()),
        (None, Some(cmd)) => (config.entrypoint.as_ref(), Some(cmd)),
        (None, None) => (config.entrypoint.as_ref(), config.cmd.as_ref()),
    };
    let argv: Vec<String> = entrypoint.into_iter().chain(cmd).flatten().cloned().collect();
    if argv.is_empty() {
        return Err(Error::NoCommand);
    }
    argv.iter().enumerate().try_for_each(|(index, text)| no_nul(text, || format!("argument {index}")))?;
    Ok(argv)
}

fn no_nul(text: &str, what: impl Fn() -> String) -> Result<(), Error> {
    if text.contains('\0') { Err(Error::Encoding { what: what() }) } else { Ok(()) }
}

/// The image's order with the last value of each name; then what is missing.
fn environment(
    config: &Config,
    overrides: &Overrides,
    home: &str,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<String>, Error> {
    let mut env: Vec<String> = Vec::new();
    let mut places = BTreeMap::new();
    for item in config.env.iter().chain(&overrides.env) {
        no_nul(item, || format!("environment variable `{}`", item.split('=').next().unwrap_or_default()))?;
        match item.split_once('=') {
            Some((name, _)) if !name.is_empty() => match places.entry(name) {
                btree_map::Entry::Vacant(place) => {
                    place.insert(env.len());
                    env.push(item.clone());
                }
                btree_map::Entry::Occupied(place) => {
                    env.get_mut(*place.get()).into_iter().for_each(|old| old.clone_from(item))
                }
            },
            _ => {
                let text = format!("the environment entry `{item}` has no name or no `=` and is left out");
                warnings.push(Warning::new("W-env", text));
            }
        }
    }
    for (name, value) in [("PATH", DEFAULT_PATH), ("HOME", home), ("HOSTNAME", HOSTNAME), ("TERM", TERM)] {
        if !places.contains_key(name) {
            no_nul(value, || format!("{name}, from /etc/passwd"))?;
            env.push(format!("{name}={value}"));
        }
    }
    Ok(env)
}

/// A clean absolute path to a directory that exists.
fn working_directory(wanted: &str, tree: &mut Tree) -> Result<String, Error> {
    no_nul(wanted, || "the working directory".to_owned())?;
    let mut parts: Vec<&str> = Vec::new();
    for part in wanted.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let path = format!("/{}", parts.join("/"));
    let made = tree.make_directory(path.as_bytes());
    made.map_err(|fault| Error::WorkingDir { path: wanted.to_owned(), why: fault.to_string() })?;
    Ok(path)
}

/// Folders in PATH that are looked into.
const FOLDERS: usize = 1024;

/// A program that cannot start is not refused: the init will say so. But the user should know now.
fn program_warning(argv: &[String], env: &[String], cwd: &str, tree: &Tree) -> Option<Warning> {
    let program = argv.first()?;
    let path = env.iter().find_map(|item| item.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    let folders = if program.contains('/') { "" } else { path };
    // Nobody has so many, and each is a walk through the tree.
    if folders.split(':').nth(FOLDERS).is_some() {
        return None;
    }
    let mut found = false;
    for folder in folders.split(':') {
        // Beyond the kernel's longest path there is nothing.
        if program.len().saturating_add(folder.len()) >= lint::PATH {
            continue;
        }
        let Some(id) = tree.resolve(join(&join(cwd, folder), program).as_bytes()) else { continue };
        found = true;
        let executable = |inode: &Inode| matches!(inode.kind, Kind::File(_)) && inode.metadata.mode & 0o111 != 0;
        if !program.is_empty() && tree.get(id).is_some_and(executable) {
            return None;
        }
    }
    let why = if found { "has no execute bit or is no file" } else { "is not in the image" };
    Some(Warning::new("W-program", format!("the program `{program}` {why}: the enclave will end at once")))
}

/// A root that the process may not enter: `mktemp -d` makes directories so, and a root file system may be made in one.
fn closed_root(account: &Account, tree: &Tree) -> Option<Warning> {
    let Metadata { mode, uid, gid, .. } = tree.root_metadata();
    let class = match account {
        Account { uid: 0, .. } => return None,
        account if account.uid == uid => 0o100,
        account if account.gid == gid || account.groups.contains(&gid) => 0o010,
        _ => 0o001,
    };
    let text =
        format!("/ has the mode {mode:04o} and belongs to {uid}:{gid}: user {} cannot reach any file", account.uid);
    (mode & class == 0).then(|| Warning::new("W-root-mode", text))
}

fn join(base: &str, path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("{base}/{path}") }
}

/// Who the process is.
struct Account {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    home: String,
}

/// A line of passwd.
struct PasswdEntry {
    name: String,
    uid: u64,
    gid: u64,
    home: String,
}

/// A line of group.
struct GroupEntry {
    name: String,
    gid: u64,
    members: Vec<String>,
}

/// The image's own passwd and group files, symlinks followed inside the image.
struct Database<'a> {
    tree: &'a Tree,
    spools: &'a Spools,
}

impl Database<'_> {
    /// The lines of a file, cut into fields; none where there is no such file.
    fn fields(&self, path: &[u8]) -> Vec<Vec<String>> {
        let inode = self.tree.resolve(path).and_then(|id| self.tree.get(id));
        let Some(Kind::File(content)) = inode.map(|inode| &inode.kind) else { return Vec::new() };
        let mut bytes = Vec::new();
        if self.spools.read(content).take(DATABASE_LIMIT).read_to_end(&mut bytes).is_err() {
            return Vec::new();
        }
        let text = String::from_utf8_lossy(&bytes);
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(|line| line.split(':').map(str::to_owned).collect()).collect()
    }

    fn passwd(&self) -> Vec<PasswdEntry> {
        let entry = |fields: &Vec<String>| {
            let field = |index: usize| fields.get(index).cloned();
            Some(PasswdEntry {
                name: field(0)?,
                uid: field(2)?.parse().ok()?,
                gid: field(3)?.parse().ok()?,
                home: field(5).unwrap_or_default(),
            })
        };
        self.fields(b"etc/passwd").iter().filter_map(entry).collect()
    }

    fn group(&self) -> Vec<GroupEntry> {
        let entry = |fields: &Vec<String>| {
            let members = fields.get(3).map(String::as_str).unwrap_or_default();
            Some(GroupEntry {
                name: fields.first()?.clone(),
                gid: fields.get(2)?.parse().ok()?,
                members: members.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
            })
        };
        self.fields(b"etc/group").iter().filter_map(entry).collect()
    }
}

/// Looks `USER[:GROUP]` up. A number is always an id; a name must be in the image; the first match wins.
fn account(spec: &str, database: &Database) -> Result<Account, Error> {
    no_nul(spec, || "the user".to_owned())?;
    let (user, group) = spec.split_once(':').unwrap_or((spec, ""));
    let number = if user.is_empty() { Some(0) } else { number(user) };
    let matches = |entry: &PasswdEntry| number.map_or(entry.name == user, |uid| entry.uid == uid);
    let known = database.passwd().into_iter().find(matches);
    let (uid, gid, home) = match (&known, number) {
        (Some(entry), _) => (entry.uid, entry.gid, entry.home.clone()),
        (None, Some(uid)) => (uid, 0, String::new()),
        (None, None) => return Err(Error::UnknownUser { user: user.to_owned() }),
    };
    let name = known.map(|entry| entry.name);
    let (gid, mut groups) = match group {
        "" => (gid, memberships(name.as_deref(), database)),
        group => (group_id(group, database)?, Vec::new()),
    };
    let (uid, gid) = (id(uid)?, id(gid)?);
    // The primary group is one of the supplementary ones, as in Docker since 20.10.18 (CVE-2022-36109).
    groups.push(gid);
    groups.sort_unstable();
    groups.dedup();
    let home = if home.is_empty() { "/".to_owned() } else { home };
    Ok(Account { uid, gid, groups, home })
}

fn memberships(name: Option<&str>, database: &Database) -> Vec<u32> {
    let Some(name) = name else { return Vec::new() };
    let groups = database.group().into_iter().filter(|entry| entry.members.iter().any(|member| member == name));
    groups.filter_map(|entry| id(entry.gid).ok()).collect()
}

fn group_id(group: &str, database: &Database) -> Result<u64, Error> {
    if let Some(gid) = number(group) {
        return Ok(gid);
    }
    let found = database.group().into_iter().find(|entry| entry.name == group);
    found.map(|entry| entry.gid).ok_or_else(|| Error::UnknownGroup { group: group.to_owned() })
}

fn number(text: &str) -> Option<u64> {
    // Docker reads a sign too, and refuses the number for its range.
    let digits = text.strip_prefix('-').unwrap_or(text);
    let numeric = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    numeric.then(|| text.parse().unwrap_or(u64::MAX))
}

fn id(value: u64) -> Result<u32, Error> {
    u32::try_from(value).ok().filter(|_| value <= ID_LIMIT).ok_or_else(|| Error::IdRange { id: value.to_string() })
}
